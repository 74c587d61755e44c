"""checkpoint: loss, gradients, keys and buffers are those of the call without it.

``nn.utils.checkpoint`` with ``mlx.nn``'s dropout fails the same check, shown last.
"""

from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.nn.utils
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten
from models import MODELS
from subjects import assert_same, assert_trees_close
from test_functional_call import InPlace

from chandrop.nn import Dropout, Dropout2d, checkpoint, functional_call, get_keys, rekey
from chandrop.random import example_keys


class Block(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm(4)
        self.dropout = dropout(0.3)

    def __call__(self, x):
        return x + self.dropout(mx.tanh(self.norm(self.convolution(x))))


class Blocks(nn.Module):
    """Blocks in stages, each called by `wrap`: as it is, or checkpointed."""

    def __init__(self, wrap, dropout=Dropout2d, stages=2):
        super().__init__()
        self.stages = [[Block(dropout) for _ in range(stages)] for _ in range(stages)]
        self.head = nn.Linear(4, 3)
        self.wrap = wrap

    def stage(self, blocks, x):
        for block in blocks:
            x = self.wrap(block)(x)
        return x

    def __call__(self, x):
        for blocks in self.stages:
            x = self.wrap(self, partial(self.stage, blocks))(x)
        return self.head(x.mean((1, 2)))


def as_it_is(module, fn=None):
    return module if fn is None else fn


def loss(model, x):
    y = model(x)
    return (y * mx.cos(mx.arange(y.size).reshape(y.shape))).sum()


def trained(make, wrap, x, steps=3, compile_step=False, dropout=Dropout2d):
    """Losses, gradients, and all that a model is left with after some steps."""
    mx.random.seed(2)
    model = make(wrap, dropout)
    optimizer = optim.SGD(1e-2)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state, mx.random.state]

    def step(x):
        value, gradients = nn.value_and_grad(model, loss)(model, x)
        optimizer.update(model, gradients)
        return value, gradients

    if compile_step:
        step = mx.compile(step, inputs=state, outputs=state)
    results = []
    for _ in range(steps):
        results.append(step(x))
        mx.eval(results, state)
    left = {name: a for name, a in tree_flatten(model.state) if isinstance(a, mx.array)}
    return {"steps": results, "left": left, "keys": get_keys(model)}


def around(build):
    """A model whose one part is built by `build`, and called by `wrap`."""

    class Wrapper(nn.Module):
        def __init__(self, wrap, dropout):
            super().__init__()
            self.model = build()
            self.wrap = wrap

        def __call__(self, x):
            return self.wrap(self.model)(x)

    return Wrapper


@pytest.mark.parametrize("subject", MODELS, ids=lambda s: s.name)
def test_training(subject):
    make, x = around(subject.build), subject.x()
    plain, again = trained(make, as_it_is, x), trained(make, checkpoint, x)
    assert_trees_close(again, plain, rtol=1e-5, atol=1e-6)
    for path, key in plain["keys"].items():
        assert_same(again["keys"][path], key)


@pytest.mark.parametrize("compile_step", [False, True], ids=["eager", "compiled"])
def test_nested(compile_step):
    x = mx.random.normal((4, 5, 5, 4), key=mx.random.key(1))
    # One stage takes the compiler half as long.
    make = partial(Blocks, stages=1 if compile_step else 2)
    plain = trained(make, as_it_is, x)
    again = trained(make, checkpoint, x, compile_step=compile_step)
    assert_trees_close(again, plain, rtol=1e-5, atol=1e-5)
    for path, key in plain["keys"].items():
        assert_same(again["keys"][path], key)


@pytest.mark.parametrize("keys", [1, 4], ids=["one key", "a batch of keys"])
def test_in_functional_call_on_a_model_in_eval_mode(keys, key):
    """The recomputation runs when the model has been restored."""
    x = mx.random.normal((4, 5, 5, 4), key=key)
    key = key if keys == 1 else example_keys(key, 4)

    def gradients(wrap):
        mx.random.seed(2)
        model = Blocks(wrap).eval()

        def pure(parameters, x):
            call = partial(functional_call, model, parameters, key=key, dropout=True)
            return loss(call, x)

        results = mx.value_and_grad(pure, argnums=(0, 1))(model.parameters(), x)
        keys = get_keys(model)
        model.update(Blocks(wrap).parameters())
        rekey(model, mx.random.key(9))
        return results, keys

    assert_trees_close(gradients(checkpoint), gradients(as_it_is), rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_differentiated_later():
    """Between call and recomputation the model takes on other weights, keys and modes."""
    x = mx.random.normal((4, 5, 5, 4), key=mx.random.key(3))

    def gradient(wrap, then):
        mx.random.seed(2)
        model = Blocks(wrap)

        def call(x):
            y = loss(model, x)
            then(model)
            return y

        return mx.grad(call)(x)

    def change(model):
        model.eval()
        rekey(model, mx.random.key(7))
        model.update(Blocks(as_it_is).parameters())
        model.stages[0][0].norm = nn.Identity()

    expected = gradient(as_it_is, lambda model: None)
    assert mx.allclose(gradient(checkpoint, change), expected, rtol=1e-5, atol=1e-6)


def test_what_a_call_keeps_besides_keys_and_buffers():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.dropout = Dropout(0.5)
            self.seen = []
            self.last = (mx.zeros(1), "none")
            self.calls = 0

        def __call__(self, x):
            y = self.dropout(self.linear(x))
            self.penalty = (y**2).sum()
            self.last = (y.mean(), "y")
            self.seen.append(y.max())
            self.calls += 1
            return y

    def run(wrap):
        mx.random.seed(0)
        model = Keeping()

        def loss(model, x):
            y = wrap(model)(x)
            return y.sum() + model.penalty + model.last[0] + model.seen[-1]

        value, gradients = nn.value_and_grad(model, loss)(model, mx.ones((2, 3)))
        kept = {"seen": model.seen, "last": model.last[0], "penalty": model.penalty}
        assert (model.calls, model.last[1], len(model.seen)) == (1, "y", 1)
        return value, gradients, kept

    assert_trees_close(run(checkpoint), run(as_it_is))


def test_gradients_reach_all_that_the_module_holds():
    class Holding(nn.Module):
        def __call__(self, x):
            return x * self.one * self.listed[0]["a"] * self.hidden[1][0]

    model = Holding()

    def loss(wrap, x, factor):
        model.one, model.listed, model.hidden = factor, [{"a": factor}], (0, (factor,))
        return wrap(model)(x).sum()

    x, factor = mx.ones(3), mx.array([2.0, 3.0, 4.0])
    gradients = mx.grad(partial(loss, checkpoint), argnums=(0, 1))(x, factor)
    assert_same(gradients[0], factor**3)
    assert_same(gradients[1], 3 * factor**2)


def test_gradients_reach_arrays_in_named_tuples():
    class State(NamedTuple):
        h: mx.array
        c: list

    class Stateful(nn.Module):
        def __call__(self, x):
            self.carry = State(self.carry.h * x, self.carry.c)
            return self.carry.h + self.carry.c[0]

    def loss(wrap, x):
        model = Stateful()
        model.carry = State(x, [x])
        y = wrap(model)(x)
        return (y + model.carry.h).sum()

    x = mx.array([1.0, 2.0])
    assert_same(mx.grad(partial(loss, checkpoint))(x), 4 * x + 1)


def test_a_parameter_that_is_changed_in_place():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = mx.ones((3,))

        def __call__(self, x):
            self.weight += 1
            return mx.sin(self.weight * x)

    def run(wrap):
        model, x = Counting(), mx.array([1.0, 2.0, 3.0])
        call = nn.value_and_grad(model, lambda model, x: wrap(model)(x).sum())
        return call(model, x), model.weight

    assert_trees_close(run(checkpoint), run(as_it_is))


@pytest.mark.parametrize("compile_step", [False, True], ids=["eager", "compiled"])
def test_arrays_that_are_changed_in_place(compile_step):
    def run(wrap):
        return trained(make, wrap, mx.ones((4, 3)), compile_step=compile_step)

    make = around(InPlace)
    plain, again = run(as_it_is), run(checkpoint)
    assert_trees_close(again, plain)
    assert mx.any(plain["left"]["model._hits"] != 0)


def test_what_the_module_returns_is_not_restored_with_it():
    class Returning(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache = {"h": mx.zeros(2)}

        def __call__(self, x):
            self.cache["h"] = self.cache["h"] + x
            return self.cache

    assert_same(checkpoint(Returning())(mx.ones(2))["h"], mx.ones(2))


def test_layers_outside_of_the_module():
    block, outside = nn.Linear(2, 2), Dropout()
    x, key = mx.ones((1, 2)), mx.random.key(0)

    def gradient(wrap):
        outside._key = key
        call = wrap(block, lambda x: mx.sin(outside(block(x))))
        return mx.grad(lambda x: (call(x) ** 2).sum())(x), outside._key

    (again, advanced), (plain, expected) = gradient(checkpoint), gradient(as_it_is)
    assert mx.allclose(again, plain)
    assert_same(advanced, expected)


def test_layers_outside_of_the_module_that_a_tool_has_given_keys(key):
    class Crossing(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.outside = nn.Linear(2, 2), Dropout()

        def __call__(self, x, key=None):
            call = checkpoint(self.block, lambda x: self.outside(self.block(x), key=key))
            return call(x)

    model, x = Crossing(), mx.ones((1, 2))
    with pytest.raises(
        ValueError, match=r"A Dropout draws by its own key.* is checkpointed"
    ):
        functional_call(model, {}, x, key=key)
    model(x)
    model(x, key)
    functional_call(model, {}, x, key, dropout=False)
    functional_call(model.eval(), {}, x)

    block, outside = nn.Linear(2, 2), Dropout()
    given = checkpoint(block, lambda x: outside(block(x), key=key))
    functional_call(nn.Sequential(Dropout(), given), {}, x, key=key)


def test_what_a_function_closes_over_has_no_gradient_in_a_tool_either(key):
    """As with MLX's own checkpoint of a function, to which only arguments are inputs."""

    class Closing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.outside = nn.Linear(2, 2), nn.Linear(2, 2)
            self.dropout = Dropout(0.5)

        def __call__(self, x):
            call = mx.checkpoint(lambda x: mx.sin(self.dropout(self.inside(x))))
            return self.outside(call(x))

    model, x = Closing(), mx.ones((4, 2))
    gradients = mx.grad(lambda p: functional_call(model, p, x, key=key).sum())(
        model.parameters()
    )
    assert (gradients["inside"]["weight"] == 0).all()
    assert (gradients["outside"]["weight"] != 0).any()


def test_the_statistics_of_a_module_that_is_the_function(key):
    def statistics(wrap):
        model = nn.Sequential(nn.BatchNorm(3), Dropout(0.5, key=key))
        x = mx.arange(12.0).reshape(4, 3)
        mx.eval(mx.grad(lambda x: mx.sin(wrap(model)(x)).sum())(x))
        return model.layers[0].running_mean

    assert_same(statistics(mx.checkpoint), statistics(as_it_is))


def test_a_function_that_closes_over_what_is_not_there_yet(key):
    dropout, x = Dropout(0.5, key=key), mx.ones((2, 8))

    def call(x):
        return dropout(x) if x.size else later

    gradient = mx.grad(lambda x: mx.sin(mx.checkpoint(call)(x)).sum())(x)
    later = dropout
    later._key = key
    assert mx.allclose(gradient, mx.grad(lambda x: mx.sin(dropout(x)).sum())(x))


def test_token_ids_into_an_embedding():
    """MLX's own checkpoint differentiates with respect to them, which gather cannot."""
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 4), Dropout(0.5))
    ids, key = mx.array([[1, 2], [3, 3]]), mx.random.key(0)

    def gradient(wrap):
        rekey(model, key)
        call = wrap(model, lambda ids, *, shift: model(ids + shift["by"]))

        def loss(model, ids):
            return (call(ids, shift={"by": mx.array(1)}) ** 2).sum()

        return nn.value_and_grad(model, loss)(model, ids)

    (value, gradients), (expected, expected_gradients) = map(
        gradient, (checkpoint, as_it_is)
    )
    assert mx.allclose(value, expected)
    assert_trees_close(gradients, expected_gradients)
    if mx.__version__ >= "0.32":
        with pytest.raises(ValueError, match="gather"):
            gradient(mlx.nn.utils.checkpoint)


def test_a_module_holds_integers():
    class Gathering(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self._index = mx.arange(6.0), mx.array([1, 4])

        def __call__(self, x):
            return x * self.table[self._index]

    model, x = Gathering(), mx.array([1.0, 2.0])
    gradients = nn.value_and_grad(model, lambda m, x: checkpoint(m)(x).sum())(model, x)[1]
    assert gradients["table"].tolist() == [0, 1, 0, 0, 2, 0]


@pytest.mark.parametrize("wrap", [checkpoint, mlx.nn.utils.checkpoint])
@pytest.mark.parametrize("drops", [True, False])
def test_any_name_of_an_argument(wrap, drops):
    class Naming(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.dropout = nn.Linear(2, 2), Dropout(0.5)

        def __call__(self, *, inputs, function, transform, module, fun):
            y = self.linear(inputs * function * transform * module * fun)
            return self.dropout(y) if drops else y

    model, x = Naming(), mx.ones((1, 2))
    names = ("function", "transform", "module", "fun")
    gradient = mx.grad(
        lambda x: wrap(model)(inputs=x, **dict.fromkeys(names, x)).square().sum()
    )(x)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("output", [None, (), {"n": 3}, "text", [None, 2]], ids=str)
def test_no_array_is_among_the_outputs(output):
    """MLX's own checkpoint is a segmentation fault here."""
    model = nn.Sequential(nn.Linear(2, 2), Dropout())
    assert checkpoint(model, lambda x: (model(x), output)[1])(mx.ones((1, 2))) == output


def test_it_leaves_the_model_as_a_plain_call_does_in_a_vmap(key):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4).eval(), Dropout(0.5))
    rekey(model, key)
    held = {n: a for n, a in tree_flatten(model.state) if "_key" not in n}
    checkpointed = mx.vmap(checkpoint(model))(mx.ones((3, 2, 4)))
    for name, array in tree_flatten(model.state):
        if "_key" in name:
            mx.eval(array)
        else:
            assert array is held[name]
    rekey(model, key)
    assert mx.allclose(checkpointed, mx.vmap(model)(mx.ones((3, 2, 4))), rtol=1e-5)


def test_outputs_and_arguments_of_any_kind():
    class Kinds(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = Dropout(0.5, key=mx.random.key(1))

        def __call__(self, x, *, scale, name):
            y = self.dropout(x["x"]) * scale
            return {"y": [y, None], name: (x["x"], 3)}

    x = {"x": mx.ones((2, 4))}
    expected = Kinds()(x, scale=2.0, name="n")
    output = checkpoint(Kinds())(x, scale=2.0, name="n")
    assert output.keys() == expected.keys()
    assert_same(output["y"][0], expected["y"][0])
    assert output["y"][1] is None
    assert output["n"][1] == 3

    def gradient(call):
        def loss(x):
            return mx.sin(call({"x": x}, scale=2.0, name="n")["y"][0]).sum()

        return mx.grad(loss)(x["x"])

    assert mx.allclose(gradient(checkpoint(Kinds())), gradient(Kinds()))


def test_frozen_parameters_get_no_gradient_and_stay_frozen():
    x = mx.random.normal((4, 5, 5, 4))
    mx.random.seed(2)
    model = Blocks(checkpoint).freeze()
    model.head.unfreeze()
    _, gradients = nn.value_and_grad(model, loss)(model, x)
    assert dict(tree_flatten(gradients)).keys() == {"head.weight", "head.bias"}
    assert model.trainable_parameters()["stages"][0][0]["convolution"] == {}


def test_it_saves_memory():
    """Of eight blocks, one at a time is kept in the backward pass."""

    def peak(wrap):
        mx.random.seed(2)
        model = nn.Sequential(*[around_linear(wrap)() for _ in range(8)])
        x = mx.random.normal((4096, 64))
        mx.eval(model.state, x)
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(nn.value_and_grad(model, loss)(model, x))
        return mx.get_peak_memory() - before

    def around_linear(wrap):
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.linears = [nn.Linear(64, 64) for _ in range(3)]
                self.dropout = Dropout(0.1)

            def __call__(self, x):
                return wrap(self, self.body)(x)

            def body(self, x):
                for linear in self.linears:
                    x = self.dropout(mx.tanh(linear(x)))
                return x

        return Layer

    assert peak(checkpoint) < 0.6 * peak(as_it_is)


def test_what_is_no_module():
    with pytest.raises(TypeError, match=r"module of type function.*checkpoint\(module, fn"):
        checkpoint(lambda x: x)
    with pytest.raises(TypeError, match=r"fn of type array.*checkpoint\(module\)\(x\)"):
        checkpoint(nn.Linear(2, 2), mx.ones(2))


def test_mlx_nn_fails_the_same_checks():
    """Why this is not ``nn.utils.checkpoint``: another mask, and statistics twice."""
    x = mx.random.normal((4, 5, 5, 4), key=mx.random.key(1))
    theirs = {"steps": 1, "dropout": nn.Dropout2d}
    plain = trained(Blocks, as_it_is, x, **theirs)
    again = trained(Blocks, mlx.nn.utils.checkpoint, x, **theirs)
    with pytest.raises(AssertionError):
        assert_trees_close(again["steps"][0][1], plain["steps"][0][1])
    name = "stages.0.0.norm.running_mean"
    assert not mx.allclose(again["left"][name], plain["left"][name])
