"""The wrappers of MLX's transforms: what they change, and that they change nothing else."""

import inspect
import subprocess
import sys
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from subjects import assert_same, normal

import chandrop
from chandrop import _mlx
from chandrop.functional import dropout
from chandrop.nn import (
    Dropout,
    DropPath,
    GaussianDropout,
    KeyedLayer,
    functional_call,
    get_keys,
    rekey,
    wrap_transforms,
)
from chandrop.random import example_keys, fold_in
from chandrop.thin import ThinDropout, ThinDropPath, ThinSequential, keep_channels
from chandrop.uncertainty import sample

NAMES = ("vmap", "checkpoint", "compile")  # of a function
ALL_NAMES = (*NAMES, "export_function", "exporter")
X = normal((4, 6))


@contextmanager
def unwrapped():
    wrap_transforms(False)
    try:
        yield
    finally:
        wrap_transforms()


def test_one_call_takes_them_off_and_puts_them_on():
    wrapped = {name: getattr(mx, name) for name in ALL_NAMES}
    layer, xs = Dropout(), mx.ones((2, 64))
    for _ in range(2):
        wrap_transforms()
        assert {name: getattr(mx, name) for name in ALL_NAMES} == wrapped
    for _ in range(2):
        wrap_transforms(False)
        assert all(getattr(mx, name) is getattr(_mlx, name) for name in ALL_NAMES)
    try:
        alike = mx.vmap(layer)(xs)
    finally:
        wrap_transforms(True)
    assert_same(alike[0], alike[1])
    assert {name: getattr(mx, name) for name in ALL_NAMES} == wrapped
    assert not mx.array_equal(*mx.vmap(layer)(xs))


def test_they_leave_what_others_have_put_in_their_place():
    def mine(fun, *args, **kwargs):
        return wrapped(fun, *args, **kwargs)

    wrapped, mx.vmap = mx.vmap, mine
    try:
        for on in (True, False):
            wrap_transforms(on)
            assert mx.vmap is mine
    finally:
        mx.vmap = wrapped
        wrap_transforms()


def run_python(code):
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_functions_alone_leave_mlx_as_it_is():
    run_python(
        "import mlx.core as mx\n"
        "own = mx.vmap, mx.checkpoint, mx.compile\n"
        "import chandrop, chandrop.functional, chandrop.random\n"
        "from chandrop import functional, random\n"
        "chandrop.functional.dropout2d; dir(chandrop)\n"
        "assert (mx.vmap, mx.checkpoint, mx.compile) == own\n"
        "import sys; assert 'mlx.nn' not in sys.modules\n"
        "chandrop.nn\n"
        "assert not {mx.vmap, mx.checkpoint, mx.compile} & set(own)\n"
        "import chandrop.uncertainty, chandrop.random\n"
        "from chandrop.random._fold_in import vmap; assert vmap is own[0]\n"
    )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = chandrop.nothing


def documented(x, y=2, *, z=3):
    """Its documentation."""
    return x * y * z


@pytest.mark.parametrize("name", NAMES)
def test_what_they_return_looks_like_the_function(name):
    own, wrapper = getattr(_mlx, name), getattr(mx, name)
    assert wrapper.__doc__ == own.__doc__
    assert wrapper.__name__ == name
    wrapped = wrapper(documented)
    assert wrapped.__name__ == "documented"
    assert wrapped.__doc__ == "Its documentation."
    assert wrapped.__wrapped__ is documented
    assert inspect.signature(wrapped) == inspect.signature(documented)
    wrapper(partial(documented, y=4))
    wrapper(nn.Linear(2, 2))


@pytest.mark.parametrize("name", NAMES)
def test_what_they_return_is_no_method(name):
    class Holder:
        function = getattr(mx, name)(lambda *args: args[-1] * len(args))

    assert_same(Holder().function(mx.ones(2)), mx.ones(2))


@pytest.mark.parametrize(
    ("arguments", "axes"),
    [
        ((mx.ones(2), mx.ones(3)), {}),
        ((mx.ones(2),), {"in_axes": 5}),
        ((mx.ones(2),), {"in_axes": (None,)}),
        ((mx.ones(2), mx.ones(2)), {"in_axes": (0,)}),
        ((mx.ones(2), 3), {}),
        ((mx.ones(2),), {"in_axes": [0]}),
        (([mx.ones(2)],), {"in_axes": (0,)}),
        ((mx.ones(2),), {"in_axes": (0, 0)}),
        ((mx.ones(2),), {"in_axes": 1}),
        ((3, mx.ones(2)), {}),
        (({"a": mx.ones(2), "b": mx.ones(2)},), {"in_axes": {"a": 0}}),
        ((), {}),
    ],
    ids=str,
)
def test_errors_of_vmap_are_those_of_mlx(arguments, axes):
    def total(*arguments):
        return mx.ones(2) if not arguments else mx.ones(2) * 2

    errors = []
    for vmap in (_mlx.vmap, mx.vmap):
        try:
            vmap(total, **axes)(*arguments)
        except Exception as error:
            errors.append((type(error), str(error)))
        else:
            errors.append(None)
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    "function",
    [
        lambda key: dropout(X, 0.5, key),
        lambda key: mx.random.bernoulli(0.5, (4,), key=key),
        lambda key: fold_in(key, 1),
        lambda key: example_keys(key, 3),
        lambda key: keep_channels(key, 8, 0.5),
        lambda key: functional_call(nn.Sequential(Dropout()), {}, X, key=key),
        lambda key: Dropout()(X),
        lambda key: key,
    ],
    ids=range(8),
)
def test_vmap_over_0_members(function):
    """It would end the process: tests/test_limits.py."""
    keys = mx.zeros((0, 2), dtype=mx.uint32)
    with pytest.raises(ValueError, match=r"vmap over 0 members.*SIGFPE"):
        mx.vmap(function)(keys)
    with pytest.raises(ValueError, match=r"vmap over 0 members"):
        mx.vmap(lambda tree: function(tree["key"]))({"key": keys})
    with pytest.raises(ValueError, match=r"vmap over 0 members"):
        mx.vmap(function, in_axes=1)(mx.zeros((2, 0), dtype=mx.uint32))
    with pytest.raises(ValueError, match=r"vmap over 0 members"):
        mx.vmap(lambda _: mx.vmap(function)(keys))(mx.ones(3))


class Noise(KeyedLayer):
    def draw(self, x, key):
        return x + mx.random.normal(x.shape, key=key)


@pytest.mark.parametrize("build", [Dropout, DropPath, GaussianDropout, Noise])
def test_no_examples_draw_nothing(build, key):
    """A batch of 0 keys for 0 examples is no vmap of the user's."""
    layer = build() if build is not DropPath else DropPath(0.5)
    x, keys = mx.zeros((0, 4)), mx.zeros((0, 2), dtype=mx.uint32)
    for given in (keys, key, key[None]):
        assert_same(layer(x, key=given), x)
        assert_same(functional_call(layer, {}, x, key=given), x)
    rekey(layer, keys)
    assert_same(layer(x), x)
    assert layer._key.shape == (0, 2)
    mx.eval(layer._key)


def test_keyword_arguments_and_wrong_axes_are_refused_as_by_mlx():
    with pytest.raises(TypeError, match=r"Keyword arguments are not|incompatible function"):
        mx.vmap(lambda x: x)(x=mx.ones(2))
    with pytest.raises(TypeError, match=r"Keyword arguments are not|incompatible function"):
        mx.vmap(lambda x, y: x)(mx.ones(2), y=mx.ones(2))
    with pytest.raises(TypeError, match="incompatible function arguments"):
        mx.vmap(lambda x: x, in_axes=None)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_function(name):
    errors = []
    for module in (_mlx, mx):
        with pytest.raises(TypeError) as error:
            getattr(module, name)(5)
        errors.append(str(error.value))
    assert errors[0].splitlines()[0] == errors[1].splitlines()[0]


def test_variables_of_a_context_are_the_users():
    """The recomputation sets them as the call does."""
    counter = ContextVar("counter", default=0)

    def counting(x):
        counter.set(counter.get() + 1)
        return mx.sin(x)

    mx.grad(lambda x: mx.checkpoint(counting)(x).sum())(X)
    assert counter.get() == 2


def test_where_no_layer_draws_nothing_changes(key, compiles):
    def function(x, key):
        return mx.sin(dropout(x, 0.5, key)) * mx.cumsum(x)

    keys, xs = mx.random.split(key, 3), normal((3, 8))
    for name in NAMES:
        own, wrapped = (getattr(module, name)(function) for module in (_mlx, mx))
        arguments = (xs, keys) if name == "vmap" else (xs[0], key)
        for _ in range(3):
            assert_same(wrapped(*arguments), own(*arguments))

        def gradient(transformed, arguments=arguments):
            return mx.grad(lambda x: transformed(x, arguments[1]).sum())(arguments[0])

        assert_same(gradient(wrapped), gradient(own))


def test_nothing_is_added_to_a_graph_outside_of_vmap(tmp_path, key):
    """A layer's graph is that of its function: the split of its key, and nothing else."""

    def nodes(function):
        path = tmp_path / "graph.dot"
        mx.export_to_dot(str(path), function())
        return path.read_text().count("label")

    layer, x = Dropout(0.5, key=key), normal((4, 6))
    wrapped = nodes(lambda: layer(x))
    layer._key = key
    with unwrapped():
        assert nodes(lambda: layer(x)) == wrapped


def test_threads_do_not_see_the_members_of_others(key):
    layers = [Dropout(0.5, key=key) for _ in range(8)]
    xs, results = normal((4, 16)), {}
    mx.eval(xs)
    expected = mx.vmap(Dropout(0.5, key=key))(xs)
    alone = Dropout(0.5, key=key)(xs)
    mx.eval(expected, alone)

    def run(i):
        result = mx.vmap(layers[i])(xs) if i % 2 else layers[i](xs)
        mx.eval(result)
        results[i] = np.array(result)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_array_equal(results[i], expected if i % 2 else alone)


# mx.compile


class Network(nn.Module):
    def __init__(self, checkpointed=False):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.dropout = Dropout(0.5)
        self.last = nn.Linear(8, 1)
        self.checkpointed = checkpointed

    def hidden(self, x):
        return self.dropout(mx.tanh(self.first(x)))

    def __call__(self, x):
        hidden = (
            nn.utils.checkpoint(self, self.hidden) if self.checkpointed else self.hidden
        )
        return self.last(hidden(x))


def loss_of(model, x):
    return (model(x) ** 2).mean()


def step_of(model, optimizer=None):
    def step(x):
        value, gradients = nn.value_and_grad(model, loss_of)(model, x)
        if optimizer is not None:
            optimizer.update(model, gradients)
        return value

    return step


def assert_raises_at_every_call(function, *args):
    for _ in range(3):
        with pytest.raises(ValueError, match="does not carry the keys") as error:
            function(*args)
    message = str(error.value)
    assert "Dropout(p=0.5)" in message
    assert "    state = [model.state, optimizer.state]\n" in message
    assert "    step = mx.compile(step, inputs=state, outputs=state)\n" in message
    return message


@pytest.fixture
def model():
    mx.random.seed(3)
    return Network()


@pytest.mark.parametrize("carried", ["nothing", "random", "optimizer", "outputs"])
def test_the_keys_are_not_carried(model, carried, compiles):
    state = {
        "nothing": None,
        "random": mx.random.state,
        "optimizer": [optim.Adam(1e-3).state],
        "outputs": model.state,
    }[carried]
    inputs = None if carried == "outputs" else state
    mx.random.seed(1)
    stream = mx.random.normal((3,))
    mx.random.seed(1)
    compiled = mx.compile(model, inputs=inputs, outputs=state)
    message = assert_raises_at_every_call(compiled, X)
    assert message.startswith("The compiled function Network does not carry the keys")
    # Model and stream can be used.
    assert_same(mx.random.normal((3,)), stream)
    mx.eval(model.state)
    assert not mx.array_equal(model(X), model(X))


@pytest.mark.parametrize("updates", [False, True])
def test_the_keys_are_among_the_inputs_alone(model, updates, compiles):
    """MLX's own message, of an array without a primitive, says nothing of this."""
    optimizer = optim.Adam(1e-3)
    function = step_of(model, optimizer) if updates else model
    state = [model.state, optimizer.state]
    message = assert_raises_at_every_call(mx.compile(function, inputs=state), X)
    assert "rebuild the model and the optimizer" in message
    if not updates:
        mx.eval(model.state)
        assert not mx.array_equal(model(X), model(X))


def test_a_validation_step_beside_a_carried_step(model, compiles):
    optimizer = optim.Adam(1e-3)
    state = [model.state, optimizer.state]
    step = mx.compile(step_of(model, optimizer), inputs=state, outputs=state)
    validate = mx.compile(partial(loss_of, model))
    losses = [step(X).item() for _ in range(3)]
    mx.eval(state)  # MLX refuses to capture what is not evaluated.
    assert_raises_at_every_call(validate, X)
    losses += [step(X).item() for _ in range(3)]
    assert len(set(losses)) == 6
    mx.eval(state)
    model.eval()
    mx.compile(partial(loss_of, model))(X)


def test_keys_that_the_trace_has_fixed(model, compiles):
    number = 0

    def step(x):
        nonlocal number
        number += 1
        rekey(model, fold_in(mx.random.key(0), number))
        return model(x)

    compiled = mx.compile(step, inputs=model.state, outputs=model.state)
    assert "mx.array(number)" in assert_raises_at_every_call(compiled, X)

    def by_array(x, number):
        rekey(model, fold_in(mx.random.key(0), number))
        return model(x)

    compiled = mx.compile(by_array, inputs=model.state, outputs=model.state)
    outputs = [compiled(X, mx.array(i)) for i in range(3)]
    assert not mx.array_equal(outputs[0], outputs[1])
    by_inputs_alone = mx.compile(by_array, inputs=model.state)
    assert_raises_at_every_call(by_inputs_alone, X, mx.array(1))
    uncarried = mx.compile(by_array)
    for i in range(3):
        assert_same(uncarried(X, mx.array(i)), outputs[i])


def test_checkpointed_and_nested_steps_that_carry_nothing(compiles):
    model = Network(checkpointed=True)
    assert_raises_at_every_call(mx.compile(lambda x: step_of(model)(x)), X)
    # The recomputation has left none of its arrays in the model.
    mx.eval(model.state)
    model = Network()
    inner = mx.compile(model)
    outer = mx.compile(lambda x: inner(x) * 2)
    assert_raises_at_every_call(outer, X)
    mapped = mx.compile(lambda x: mx.vmap(model)(mx.stack([x, x])))
    assert_raises_at_every_call(mapped, X)


def test_a_function_that_is_first_traced_in_another_call(model, compiles):
    """It raises wherever it is called, then and afterwards."""
    keys = mx.random.split(mx.random.key(0), 3)
    for chunk in (None, 1):
        compiled = mx.compile(lambda x: model(x))
        with pytest.raises(ValueError, match=r"the keys|without a key"):
            sample(lambda key, x, compiled=compiled: compiled(x), keys, X, chunk=chunk)
        assert_raises_at_every_call(compiled, X)
    mx.eval(model.state)
    inner = mx.compile(lambda: model(X))
    outer = mx.compile(lambda x: inner() + x.sum())
    # What a compiled function without arguments gives, MLX takes for an array of no trace.
    with pytest.raises(ValueError, match=r"uncaptured inputs|the keys"):
        outer(X)
    assert_raises_at_every_call(inner)


def test_the_lines_of_the_message_work_on_what_has_raised(model, compiles):
    optimizer = optim.SGD(0.0)
    step = mx.compile(lambda x: loss_of(model, x))
    assert_raises_at_every_call(step, X)
    state = [model.state, optimizer.state]
    step = mx.compile(step, inputs=state, outputs=state)
    assert len({step(X).item() for _ in range(3)}) == 3


CARRIED = {
    "a step": lambda model, optimizer: step_of(model, optimizer),
    "gradient accumulation": lambda model, optimizer: (
        lambda x: step_of(model)(x) + step_of(model, optimizer)(x)
    ),
    "a vmap": lambda model, optimizer: lambda x: mx.vmap(model)(mx.stack([x, x])).sum(),
    "a checkpoint": lambda model, optimizer: (
        lambda x: mx.grad(lambda x: mx.checkpoint(model)(x).sum())(x).sum()
    ),
}


@pytest.mark.parametrize("build", CARRIED.values(), ids=CARRIED)
def test_the_keys_are_carried(model, build, compiles):
    """No false alarm, and eager calls between, saved keys and new shapes are right, too."""
    optimizer = optim.SGD(0.0)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]
    eager = build(model, optimizer)
    compiled = mx.compile(eager, inputs=state, outputs=state)
    saved = get_keys(model)
    values = []
    for x in (X, X, X[:2], X, normal((8, 6))):
        before = get_keys(model)
        values.append(compiled(x).item())
        after = get_keys(model)
        model.update({"dropout": {"_key": before["dropout"]}})
        assert eager(x).item() == pytest.approx(values[-1], rel=1e-4)
        assert_same(get_keys(model)["dropout"], after["dropout"])
    model.update({"dropout": {"_key": saved["dropout"]}})
    assert compiled(X).item() == pytest.approx(values[0], rel=1e-6)


def test_situations_without_an_alarm(model, key, compiles):
    other = Network()
    both = [model.state, other.state]
    two = mx.compile(lambda x: model(x) * other(x), inputs=both, outputs=both)
    assert not mx.array_equal(two(X), two(X))

    compiled = mx.compile(lambda x: model(x).sum())
    for _ in range(2):
        mx.grad(compiled)(X)
        mx.grad(lambda x: mx.checkpoint(compiled)(x))(X)
        mx.vmap(compiled)(mx.stack([X, X]))
    nn.value_and_grad(model, mx.compile(lambda x: model(x).sum()))(X)

    given = mx.compile(lambda x, key: model.dropout(x, key=key))
    closed = mx.compile(lambda x: model.dropout(x, key=key))
    for function in (partial(given, X, key), partial(closed, X)):
        assert_same(function(), model.dropout(X, key=key))
    called = mx.compile(lambda x: functional_call(model, {}, x, key=key))
    for _ in range(2):
        assert mx.allclose(called(X), functional_call(model, {}, X, key=key), atol=1e-6)
    checkpointed = Network(checkpointed=True)
    parameters = checkpointed.trainable_parameters()
    pure = mx.compile(
        mx.value_and_grad(
            lambda parameters, x: functional_call(
                checkpointed, parameters, x, key=key
            ).sum()
        )
    )
    for _ in range(2):
        pure(parameters, X)

    model.dropout.p = 0.0
    mx.compile(model)(X)
    model.dropout.p = 0.5
    mx.compile(model.eval())(X)


def test_modes_that_are_switched_between_traces(model, compiles):
    compiled = mx.compile(model, inputs=model.state, outputs=model.state)
    model.eval()
    assert_same(compiled(X), compiled(X))
    model.train()
    again = mx.compile(lambda x: model(x), inputs=model.state, outputs=model.state)
    assert not mx.array_equal(again(X), again(X))
    assert not mx.array_equal(again(X[:2]), again(X[:2]))


def test_compiling_is_off(model):
    mx.disable_compile()
    try:
        compiled = mx.compile(model)
        assert not mx.array_equal(compiled(X), compiled(X))
        assert mx.vmap(compiled)(mx.stack([X, X])).shape == (2, 4, 1)
    finally:
        mx.enable_compile()


def test_a_function_that_raises_in_its_trace_shows_its_own_error(model, compiles):
    def failing(x):
        model(x)
        raise KeyError("its own")

    compiled = mx.compile(failing)
    for _ in range(2):
        with pytest.raises(KeyError, match="its own"):
            compiled(X)
    assert not mx.array_equal(model(X), model(X))


def test_arguments_and_outputs_of_a_compiled_function(compiles):
    compiled = mx.compile(lambda x, *, scale, name: {name: [x["x"] * scale, None]})
    output = compiled({"x": X}, scale=2, name="n")
    assert_same(output["n"][0], X * 2)
    assert output["n"][1] is None
    with pytest.raises(ValueError, match="must be trees of arrays"):
        compiled({"x": X}, scale=object(), name="n")


# mx.export_function


def exported(path, function, *args, **kwargs):
    mx.export_function(path, function, *args, **kwargs)
    return mx.import_function(path)


def by_exporter(path, function, *args, **kwargs):
    with mx.exporter(path, function) as export:
        export(*args, **kwargs)
    return mx.import_function(path)


@pytest.mark.parametrize("export", [exported, by_exporter])
@pytest.mark.parametrize(
    "function",
    [
        Network(),
        lambda x: Network()(x),
        mx.compile(Network()),
        lambda x: mx.vmap(Network())(x),
        lambda x: mx.grad(lambda x: Network()(x).sum())(x),
        lambda x: mx.checkpoint(Network())(x),
        ThinSequential(nn.Linear(6, 6), ThinDropout(0.5)),
        lambda x: ThinDropPath(0.5)(x, mx.tanh),
    ],
    ids=range(8),
)
def test_a_layer_whose_draws_a_file_would_hold(export, function, tmp_path):
    message = (
        r"The exported function holds the keys of .*Drop.*model\.eval\(\), or make the"
    )
    path = str(tmp_path / "f.mlxfn")
    with pytest.raises(ValueError, match=message):
        export(path, function, X)
    with pytest.raises(ValueError, match="No imported function"):
        mx.import_function(path)(X)


@pytest.mark.parametrize("export", [exported, by_exporter])
def test_what_may_be_exported(export, key, tmp_path):
    """Layers that are off, that keep all, or whose key is an argument."""
    path, model = str(tmp_path / "f.mlxfn"), Network()

    def by_rekey(x, key):
        rekey(model, key)
        return model(x)

    def by_own_key(x, key):
        model.dropout._key = key
        return model(x)

    for function in (
        lambda x, key: functional_call(model, {}, x, key=key),
        lambda x, key: model.dropout(x, key=key),
        lambda x, key: Dropout(0.5, key=key)(x),
        lambda x, key: Dropout(0.0)(x) + key.sum(),
        by_rekey,
        by_own_key,
    ):
        imported = export(path, function, X, key)
        other = fold_in(key, 1)
        np.testing.assert_allclose(
            imported(X, other)[0], function(X, other), rtol=1e-5, atol=1e-6
        )
    model.eval()
    np.testing.assert_allclose(export(path, model, X)(X)[0], model(X), rtol=1e-5, atol=1e-6)


def test_the_arguments_of_export_reach_mlx(tmp_path):
    path = str(tmp_path / "f.mlxfn")
    imported = exported(path, lambda x, *, y: x * y, X, y=X, shapeless=True)
    assert_same(imported(X[:2], y=X[:2])[0], X[:2] ** 2)
    for export in (_mlx.export_function, mx.export_function):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            export(path, 5, X)
    for name in ("export_function", "exporter"):
        assert getattr(mx, name).__doc__ == getattr(_mlx, name).__doc__
