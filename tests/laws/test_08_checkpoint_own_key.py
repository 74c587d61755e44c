"""Law 8 for layers with their own key, under MLX's own checkpoint.

Loss, gradients and keys are those without it. A number in a comment is the relative error
of the gradient that MLX's checkpoint gives without the wrapper.
"""

import copy
import gc
import weakref

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_map
from subjects import LAYERS, assert_same, assert_trees_close, normal

import chandrop
from chandrop.nn import (
    Dropout,
    convert,
    functional_call,
    get_keys,
    rekey,
    set_keys,
    stack_parameters,
)
from chandrop.thin import ThinDropout, ThinDropPath, ThinSequential

X = normal((4, 8))


def as_it_is(module, function=None):
    return module if function is None else function


def as_mlx_lm_does(module):
    """What mlx-lm's trainer makes of a block's ``__call__``."""

    def inner(parameters, *args):
        module.update(parameters)
        return module(*args)

    return lambda *args: mx.checkpoint(inner)(module.trainable_parameters(), *args)


WRAPS = {
    "mlx.nn": nn.utils.checkpoint,
    "mlx-lm": as_mlx_lm_does,
    "chandrop": chandrop.nn.checkpoint,
}
each_wrap = pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)


def block():
    return nn.Sequential(nn.Linear(8, 8), Dropout(0.5), nn.Tanh(), nn.Linear(8, 8))


class Blocks(nn.Module):
    """Blocks one after another, each of them checkpointed."""

    def __init__(self, wrap=as_it_is, times=1):
        super().__init__()
        self.blocks = [block() for _ in range(3)]
        object.__setattr__(self, "wrap", wrap)
        object.__setattr__(self, "times", times)

    def __call__(self, x):
        for part in self.blocks:
            for _ in range(self.times):
                x = self.wrap(part)(x)
        return x


def loss_of(model, x):
    return (model(x) ** 2).mean()


def result_of(build, step=None, compile_it=False):
    """Losses, gradients and keys of three steps of a model, always with the same keys."""
    mx.random.seed(2)
    model = build()
    rekey(model, mx.random.key(4))
    compute = step or nn.value_and_grad(model, loss_of)

    def run(x):
        before = model.trainable_parameters()
        result = compute(model, x)
        model.update(before)
        return result

    if compile_it:
        run = mx.compile(run, inputs=model.state, outputs=model.state)
    results = [(*run(X), get_keys(model)) for _ in range(3)]
    mx.eval(results)
    return results


def assert_equal_without(results, expected):
    for (value, gradients, keys), (value_, gradients_, keys_) in zip(
        results, expected, strict=True
    ):
        assert mx.allclose(value, value_, rtol=1e-5)
        assert_trees_close(gradients, gradients_)
        for path, key in keys_.items():
            assert_same(keys[path], key)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_every_layer(layer, key):
    x = normal(layer.shape)

    def gradient(wrap):
        built = layer.build(key)
        wrapped = wrap(lambda x: mx.sin(built(x)) ** 2)
        values = mx.value_and_grad(lambda x: (wrapped(x) * wrapped(x)).sum())(x)
        return *values, built._key

    (value, gradient_, advanced), (expected_value, expected, expected_key) = (
        gradient(mx.checkpoint),
        gradient(as_it_is),
    )
    assert mx.allclose(value, expected_value, rtol=1e-5)
    assert mx.allclose(gradient_, expected, rtol=1e-4, atol=1e-6)
    assert_same(advanced, expected_key)


@each_wrap
@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
def test_blocks(wrap, compile_it, request):  # 0.5 to 1.3
    if compile_it:
        request.getfixturevalue("compiles")
    results = result_of(lambda: Blocks(wrap), compile_it=compile_it)
    assert_equal_without(results, result_of(Blocks))
    assert not mx.allclose(results[0][0], results[1][0])


@each_wrap
def test_a_block_that_is_used_three_times(wrap):
    results = result_of(lambda: Blocks(wrap, times=3))
    assert_equal_without(results, result_of(lambda: Blocks(times=3)))


@each_wrap
def test_nested(wrap):
    class Outer(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.inner = Blocks(wrap)
            self.dropout = Dropout(0.3)
            object.__setattr__(self, "wrap", wrap)

        def __call__(self, x):
            return self.dropout(self.wrap(self.inner)(self.dropout(x)))

    results = result_of(lambda: nn.Sequential(Outer(wrap), Outer(wrap)))
    plain = result_of(lambda: nn.Sequential(Outer(as_it_is), Outer(as_it_is)))
    assert_equal_without(results, plain)
    both = result_of(lambda: Blocks(lambda part: wrap(nn.Sequential(Wrapped(wrap, part)))))
    expected = result_of(
        lambda: Blocks(lambda part: nn.Sequential(Wrapped(as_it_is, part)))
    )
    assert_equal_without(both, expected)


class Wrapped(nn.Module):
    def __init__(self, wrap, module):
        super().__init__()
        self.module = module
        object.__setattr__(self, "wrap", wrap)

    def __call__(self, x):
        return self.wrap(self.module)(x)


@each_wrap
def test_two_forwards_in_one_loss(wrap):
    def step(model, x):
        return nn.value_and_grad(model, lambda m, x: (m(x) * m(2 * x)).mean())(model, x)

    assert_equal_without(result_of(lambda: Blocks(wrap), step), result_of(Blocks, step))


def test_gradient_accumulation():
    def step(model, x):
        function = nn.value_and_grad(model, loss_of)
        (first, one), (second, two) = function(model, x), function(model, 2 * x)
        return first + second, tree_map(lambda a, b: a + b, one, two)

    wrapped = result_of(lambda: Blocks(nn.utils.checkpoint), step)
    assert_equal_without(wrapped, result_of(Blocks, step))


def test_mlx_transformer(key):  # 1.0
    x = normal((2, 5, 8))

    def gradient(checkpoint):
        mx.random.seed(1)
        encoder = convert(
            nn.TransformerEncoder(2, 8, 2, dropout=0.3, checkpoint=checkpoint)
        )
        rekey(encoder, key)
        call = nn.value_and_grad(encoder, lambda m, x: (m(x, None) ** 2).mean())
        return call(encoder, x), get_keys(encoder)

    (plain, keys), (again, keys_again) = gradient(False), gradient(True)
    assert mx.allclose(plain[0], again[0])
    assert_trees_close(again[1], plain[1], rtol=1e-4, atol=1e-5)
    for path, one in keys.items():
        assert_same(keys_again[path], one)


def test_a_thin_chain_and_a_thin_branch(key):
    def gradient(wrap):
        mx.random.seed(3)
        chain = ThinSequential(
            nn.Linear(8, 8), nn.ReLU(), ThinDropout(0.5), nn.Linear(8, 8)
        )
        path = ThinDropPath(0.5)
        model = nn.Sequential(chain, path)
        rekey(model, key)
        call = wrap(lambda x: x + path(x, chain))
        value = mx.value_and_grad(lambda x: (call(call(x)) ** 2).sum())(X)
        return *value, get_keys(model)

    (value, gradient_, keys), (value_, expected, keys_) = (
        gradient(mx.checkpoint),
        gradient(as_it_is),
    )
    assert mx.allclose(value, value_)
    assert mx.allclose(gradient_, expected, rtol=1e-4, atol=1e-5)
    assert_trees_close(keys, keys_)


class Branch(nn.Module):
    def __init__(self, drop_path):
        super().__init__()
        self.drop_path = drop_path

    def __call__(self, x):
        return x + self.drop_path(x, mx.tanh)


THIN = {
    "a branch": Branch,
    "a chain": lambda off: ThinSequential(
        nn.Linear(8, 8), ThinDropout(0.5), nn.ReLU(), off, nn.Linear(8, 8)
    ),
}


@pytest.mark.parametrize("name", THIN)
def test_a_thin_layer_that_is_turned_on_before_the_recomputation(name, key):
    """In the call it is off, and draws nothing."""
    mx.random.seed(3)
    off = ThinDropPath(0.5) if name == "a branch" else ThinDropout(0.5)
    model = THIN[name](off)

    def gradient(wrap):
        rekey(model, key)
        off.eval()

        def loss(x):
            value = (wrap(lambda x: model(x))(x) ** 2).sum()
            off.train()
            return value

        return mx.grad(loss)(X)

    checkpointed, plain = gradient(mx.checkpoint), gradient(as_it_is)
    assert mx.allclose(checkpointed, plain, rtol=1e-4, atol=1e-5)


CHANGES = {
    "eval mode": lambda m: m.eval(),
    "a rate": lambda m: setattr(m.blocks[0].layers[1], "p", 0.1),
    "a rate of 0": lambda m: setattr(m.blocks[0].layers[1], "p", 0.0),
    "an array of rates": lambda m: setattr(m.blocks[0].layers[1], "p", mx.array(0.1)),
    "keys": lambda m: rekey(m, mx.random.key(99)),
    "a call": lambda m: m(X),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("wrap", ["mlx.nn", "chandrop"])
@pytest.mark.parametrize("start", ["training", "eval"])
def test_what_changes_before_the_recomputation(wrap, change, start):  # 0.6 to 1.1
    def step(model, x):
        model.train(start == "training")

        def loss(parameters, x):
            model.update(parameters)
            value = (model(x) ** 2).mean()
            model.train(start != "training")
            change(model)
            return value

        return mx.value_and_grad(loss)(model.trainable_parameters(), x)

    mx.random.seed(2)
    wrapped, plain = Blocks(WRAPS[wrap]), Blocks()
    plain.update(wrapped.parameters())
    results = []
    for model in (wrapped, plain):
        rekey(model, mx.random.key(4))
        own = model.trainable_parameters()
        results.append(step(model, X))
        model.update(own)
    assert_trees_close(results[0], results[1])
    for one, other in zip(wrapped.modules(), plain.modules(), strict=True):
        assert one.training == other.training
        if isinstance(one, Dropout):
            assert str(one.p) == str(other.p)
    for path, one in get_keys(plain).items():
        assert_same(get_keys(wrapped)[path], one)


def error(one, other):
    """The relative error of a tree of gradients."""
    one, other = (dict(tree_flatten(tree)) for tree in (one, other))
    assert one.keys() == other.keys()
    difference = sum(((one[name] - other[name]) ** 2).sum() for name in one)
    return (difference / sum((a**2).sum() for a in other.values())).sqrt().item()


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("mode", ["training", "dropout=True"])
@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
def test_functional_call_around(wrap, mode, compile_it, key, request):
    """With other parameters than the model's own, which it holds again afterwards."""
    if compile_it:
        request.getfixturevalue("compiles")
    mx.random.seed(2)
    model, plain, other = Blocks(WRAPS[wrap]), Blocks(), Blocks()
    dropout = True if mode == "dropout=True" else None
    for one in (model, plain):
        one.train(mode == "training")
    rekey(model, key)
    held = dict(tree_flatten(model.state))

    def loss(model):
        def value(parameters, key):
            y = functional_call(model, parameters, X, key=key, dropout=dropout)
            return (y**2).mean()

        function = mx.value_and_grad(value)
        return mx.compile(function) if compile_it else function

    for parameters in (other.parameters(), model.parameters()):
        for k in mx.random.split(key):
            value, gradients = loss(model)(parameters, k)
            expected, expected_gradients = loss(plain)(parameters, k)
            assert mx.allclose(value, expected, rtol=1e-5)
            assert error(gradients, expected_gradients) < 1e-5
    assert {n: id(a) for n, a in tree_flatten(model.state)} == {
        n: id(a) for n, a in held.items()
    }


@pytest.mark.parametrize("wrap", WRAPS)
def test_functional_call_around_in_a_vmap(wrap, key):  # 0.6 to 1.1
    mx.random.seed(2)
    model, plain = Blocks(WRAPS[wrap]), Blocks()
    parameters = stack_parameters([Blocks() for _ in range(3)])
    keys = mx.random.split(key, 3)

    def loss(model, in_axes, *over):
        def value(parameters, key):
            return (functional_call(model, parameters, X, key=key) ** 2).mean()

        def total(parameters, key):
            return mx.vmap(value, in_axes=in_axes)(parameters, key).sum()

        return mx.value_and_grad(total)(*over)

    for in_axes, over in (
        ((0, 0), (parameters, keys)),
        ((0, None), (parameters, key)),
        ((None, 0), (model.parameters(), keys)),
    ):
        value, gradients = loss(model, in_axes, *over)
        expected, expected_gradients = loss(plain, in_axes, *over)
        assert mx.allclose(value, expected, rtol=1e-5)
        assert error(gradients, expected_gradients) < 1e-5


def test_functional_call_around_nested_checkpoints(key):
    keys = mx.random.split(key, 3)

    def gradient(wrap):
        mx.random.seed(2)
        inner = [nn.Sequential(block(), Wrapped(wrap, block())) for _ in range(2)]
        model = nn.Sequential(*(Wrapped(wrap, part) for part in inner))

        def value(parameters, key):
            return (functional_call(model, parameters, X, key=key) ** 2).mean()

        def total(parameters):
            return mx.vmap(value, in_axes=(None, 0))(parameters, keys).sum()

        return mx.value_and_grad(total)(model.parameters())

    for wrap in WRAPS.values():
        (value, gradients), (expected, expected_gradients) = map(gradient, (wrap, as_it_is))
        assert mx.allclose(value, expected, rtol=1e-5)
        assert error(gradients, expected_gradients) < 1e-5


def test_frozen_parameters_in_a_vmap(key):
    """They are no arguments of mlx.nn's checkpoint, but members' all the same."""
    mx.random.seed(2)
    model, plain = Blocks(nn.utils.checkpoint), Blocks()
    stacked = stack_parameters([Blocks() for _ in range(3)])
    for one in (model, plain):
        one.freeze()
        one.blocks[0].unfreeze()

    def gradient(model, x):
        def value(parameters, x):
            return (functional_call(model, parameters, x, key=key) ** 2).mean()

        return mx.grad(lambda x: mx.vmap(value, in_axes=(0, None))(stacked, x).sum())(x)

    assert error({"x": gradient(model, X)}, {"x": gradient(plain, X)}) < 1e-5


@pytest.mark.parametrize("change", ["eval mode", "a rate", "nothing"])
def test_functional_call_inside(change, key):
    mx.random.seed(2)
    model, parameters = Blocks(), Blocks().parameters()

    def call(parameters, x, key):
        return functional_call(model, parameters, x, key=key)

    def gradient(call):
        def loss(parameters, x):
            y = call(parameters, x, key)
            if change != "nothing":
                CHANGES[change](model)
            return (y**2).mean()

        result = mx.value_and_grad(loss)(parameters, X)
        model.train()
        model.blocks[0].layers[1].p = 0.5
        return result

    value, gradients = gradient(mx.checkpoint(call))
    expected, expected_gradients = gradient(call)
    assert mx.allclose(value, expected)
    assert error(gradients, expected_gradients) < 1e-5


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("nested", [False, True])
def test_gradient_of_a_vmap_of_a_checkpoint(wrap, nested, key):  # wrong by 0.5, silently
    mx.random.seed(2)
    part = block()
    xs = normal((3, 4, 8))

    def gradient(wrap):
        part.layers[1]._key = key
        call = wrap(part)
        if nested:
            call = wrap(Wrapped(wrap, part))
        own = part.trainable_parameters()
        result = mx.value_and_grad(lambda xs: (mx.vmap(call)(xs) ** 2).sum())(xs)
        part.update(own)
        return *result, part.layers[1]._key

    value, gradients, advanced = gradient(WRAPS[wrap])
    expected, expected_gradients, expected_key = gradient(as_it_is)
    assert mx.allclose(value, expected)
    assert error({"x": gradients}, {"x": expected_gradients}) < 1e-5
    assert_same(advanced, expected_key)


def test_a_vmap_in_a_checkpoint(key):
    part, xs = block(), normal((3, 4, 8))

    def gradient(wrap):
        part.layers[1]._key = key
        call = wrap(lambda xs: mx.vmap(part)(xs))
        return mx.grad(lambda xs: (call(xs) ** 2).sum())(xs)

    assert error({"x": gradient(mx.checkpoint)}, {"x": gradient(as_it_is)}) < 1e-5


def test_second_order(key):
    layer = Dropout(key=key)

    def curvature(wrap):
        layer._key = key
        call = wrap(lambda x: mx.sin(layer(x)))
        slope = mx.grad(lambda x: (call(x) ** 2).sum())
        return mx.grad(lambda x: (slope(x) ** 2).sum())(X)

    assert mx.allclose(curvature(mx.checkpoint), curvature(as_it_is), rtol=1e-4, atol=1e-5)


def test_a_key_that_is_given(key):
    layer = Dropout(0.5)

    def gradient(wrap):
        call = wrap(lambda x, key: mx.sin(layer(x, key=key)))
        own = layer._key

        def loss(x):
            y = call(x, key)
            layer.p = 0.1
            return (y**2).sum()

        result = mx.grad(loss)(X)
        layer.p = 0.5
        assert layer._key is own
        return result

    assert mx.allclose(gradient(mx.checkpoint), gradient(as_it_is), rtol=1e-5)


def test_running_statistics_under_a_tool(key):
    """Within functional_call they are those of the call, and advance once."""

    def build(wrap):
        mx.random.seed(7)
        part = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm(8), Dropout(0.5))
        return nn.Sequential(Wrapped(wrap, part), nn.Linear(8, 2))

    def gradient(model):
        def loss(parameters):
            y, state = functional_call(model, parameters, X, key=key, return_state=True)
            return (y**2).mean(), state

        return mx.value_and_grad(loss)(model.parameters())

    (value, state), gradients = gradient(build(nn.utils.checkpoint))
    (expected, expected_state), expected_gradients = gradient(build(as_it_is))
    assert mx.allclose(value, expected)
    assert_trees_close(state, expected_state)
    assert_trees_close(gradients, expected_gradients)


def test_what_a_call_notes_is_freed_with_its_graph(key):
    class Own(Dropout):
        pass

    def used(finish):
        layer = Own(key=key)
        y = mx.checkpoint(lambda x: mx.sin(layer(x)))(X)
        finish(y)
        return weakref.ref(layer), y

    for finish in (lambda y: None, mx.eval):
        freed, y = used(finish)
        mx.eval(y)
        del y
        gc.collect()
        assert freed() is None

    def differentiated():
        layer = Own(key=key)
        call = mx.checkpoint(lambda x: mx.sin(layer(x)))
        mx.eval(mx.grad(lambda x: call(x).sum())(X))
        return weakref.ref(layer)

    freed = differentiated()
    gc.collect()
    assert freed() is None


@pytest.mark.parametrize(
    "build",
    [lambda: Dropout(0.5), lambda: copy.deepcopy(PROTOTYPE), lambda: copy.copy(PROTOTYPE)],
)
def test_a_layer_that_is_built_inside(build, key):
    """The recomputation would build another one: wrong by 1.1."""

    def gradient(wrap, function):
        call = wrap(lambda x: mx.sin(function(x)))
        return mx.grad(lambda x: (call(x) ** 2).sum())(X)

    with pytest.raises(ValueError, match=r"built or copied inside of a checkpointed fun"):
        gradient(mx.checkpoint, lambda x: build()(x))

    kept = []

    def at_first_use(x):
        if not kept:
            kept.append(Dropout(0.5))
            kept[0]._key = key
        return kept[0](x)

    for function in (
        lambda x: Dropout(0.5, key=key)(x),
        lambda x: build()(x, key=key),
        lambda x: functional_call(build(), {}, x, key=key),
        at_first_use,
    ):
        again = gradient(mx.checkpoint, function)
        kept.clear()
        assert mx.allclose(again, gradient(as_it_is, function), rtol=1e-5)
        kept.clear()


PROTOTYPE = Dropout(0.5)


def test_saved_keys_repeat_a_step():
    model = Blocks(nn.utils.checkpoint)
    saved = get_keys(model)
    function = nn.value_and_grad(model, loss_of)
    first = function(model, X)
    set_keys(model, saved)
    assert_trees_close(function(model, X), first)


def test_an_error_in_the_recomputation_leaves_the_model_as_it_was(key):
    layer, calls = Dropout(key=key), []

    def failing(x):
        calls.append(x)
        y = layer(x)
        if len(calls) > 1:
            raise RuntimeError("the second call")
        return y

    advanced, _ = mx.random.split(key)
    with pytest.raises(RuntimeError, match="the second call"):
        mx.grad(lambda x: mx.checkpoint(failing)(x).sum())(X)
    assert_same(layer._key, advanced)
