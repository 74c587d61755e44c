"""check_step: layers whose masks repeat are named, and what to add is said."""

import copy
import pickle
import re
import sys
import types
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten
from models import InDicts
from subjects import assert_same

from chandrop import _mlx
from chandrop.nn import (
    ConcreteDropout,
    Dropout,
    Dropout2d,
    check_step,
    convert,
    get_keys,
    rekey,
    set_keys,
)
from chandrop.random import fold_in

X = mx.ones((4, 6))


def training_step(model, optimizer):
    def loss(model, x):
        return (model(x) ** 2).mean()

    def step(x):
        value, gradients = nn.value_and_grad(model, loss)(model, x)
        optimizer.update(model, gradients)
        return value

    return step


@pytest.fixture
def model():
    return InDicts()


@pytest.fixture
def optimizer():
    return optim.SGD(1e-2)


def test_a_step_that_is_not_compiled(model, optimizer):
    check_step(model, training_step(model, optimizer), X)


def test_a_step_that_carries_the_state(model, optimizer, compiles):
    state = [model.state, optimizer.state]
    step = mx.compile(training_step(model, optimizer), inputs=state, outputs=state)
    check_step(model, step, X)


def assert_says_what_to_add(error, *paths):
    message = str(error.value)
    assert ", ".join(f'"{path}"' for path in paths) in message
    assert "state = [model.state, optimizer.state]" in message
    assert "mx.compile(step, inputs=state, outputs=state)" in message


def contents(model, optimizer):
    """All that a check has to leave as it was: bits, and which array is where in a model.

    An optimizer that has made no state yet has zeros there.
    """
    model_state = dict(tree_flatten(model.state))
    state = dict(tree_flatten(optimizer.state))
    return {name: (id(array), array.tolist()) for name, array in model_state.items()}, {
        name: array.tolist() for name, array in state.items() if mx.any(array != 0)
    }


@pytest.mark.parametrize("compile_", [mx.compile, _mlx.compile], ids=["wrapped", "unseen"])
@pytest.mark.parametrize("carried", ["nothing", "random", "outputs"])
def test_the_frozen_mask(model, optimizer, carried, compile_, compiles):
    state = [model.state, optimizer.state]
    how = {
        "nothing": {},
        "random": {"inputs": mx.random.state, "outputs": mx.random.state},
        "outputs": {"outputs": state},
    }[carried]
    step = training_step(model, optimizer)
    if carried != "outputs":
        step = model  # Training would leave the trace's arrays in the weights.
    before = contents(model, optimizer)
    with pytest.raises(ValueError, match="draw the same at every step") as error:
        check_step(model, compile_(step, **how), X, optimizer=optimizer)
    assert_says_what_to_add(error, "dropouts.first", "dropouts.rest.0.last")
    assert "rebuild" not in str(error.value)
    assert contents(model, optimizer) == before


@pytest.mark.parametrize("carried", ["nothing", "optimizer", "random", "inputs"])
@pytest.mark.parametrize("given", [False, True])
def test_a_step_that_leaves_its_trace_in_the_model(model, carried, given, compiles):
    optimizer = optim.Adam(1e-2)
    before = contents(model, optimizer)
    state = {
        "nothing": None,
        "optimizer": [optimizer.state],
        "random": [optimizer.state, mx.random.state],
        "inputs": [model.state, optimizer.state],
    }[carried]
    outputs = None if carried == "inputs" else state
    step = mx.compile(training_step(model, optimizer), inputs=state, outputs=outputs)
    with pytest.raises(ValueError, match="draw the same at every step") as error:
        check_step(model, step, X, optimizer=optimizer if given else None)
    assert_says_what_to_add(error, "dropouts.first", "dropouts.rest.0.last")
    assert ("rebuild it" in str(error.value)) != given
    if given:
        assert contents(model, optimizer) == before
    else:
        mx.eval(model.state)


@pytest.mark.parametrize("carried", ["nothing", "optimizer", "inputs"])
def test_a_trace_that_stays_in_the_model(model, carried, compiles):
    """As seen where mx.compile was imported before it was wrapped."""
    optimizer = optim.Adam(1e-2)
    before = contents(model, optimizer)
    state = {
        "nothing": None,
        "optimizer": [optimizer.state],
        "inputs": [model.state, optimizer.state],
    }[carried]
    outputs = None if carried == "inputs" else state
    step = _mlx.compile(training_step(model, optimizer), inputs=state, outputs=outputs)
    with pytest.raises(ValueError, match="arrays of its trace in the model") as error:
        check_step(model, step, X, optimizer=optimizer)
    assert_says_what_to_add(error, "linears.first.weight", "linears.first.bias")
    assert contents(model, optimizer) == before


def test_a_part_that_is_frozen(model, optimizer, compiles):
    frozen = Dropout(0.5)
    model.frozen = frozen
    state = [model.dropouts["first"].state, model.dropouts["rest"][0]["last"].state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x):
        return frozen(model(x))

    with pytest.raises(ValueError, match='at every step: "frozen"'):
        check_step(model, step, X)


def test_a_layer_that_the_model_does_not_hold(model, compiles):
    outside = Dropout(0.25)
    step = mx.compile(lambda x: outside(model(x)), inputs=model.state, outputs=model.state)
    with pytest.raises(ValueError, match=r"at every step: \"Dropout\(p=0\.25\)\""):
        check_step(model, step, X)


def optimizers():
    return {
        "SGD": optim.SGD(1e-2),
        "Adam": optim.Adam(1e-2),
        "a schedule": optim.AdamW(optim.cosine_decay(1e-2, 10)),
        "several": optim.MultiOptimizer(
            [optim.Adam(1e-2), optim.SGD(1e-2, momentum=0.9)],
            [lambda name, _: "first" in name],
        ),
    }


@pytest.mark.parametrize("name", optimizers())
@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
def test_the_steps_that_follow_are_those_without_it(name, used, compile_it, request):
    if compile_it:
        request.getfixturevalue("compiles")

    def losses(check):
        mx.random.seed(7)
        model, optimizer = InDicts(), optimizers()[name]
        model.norm = nn.BatchNorm(8)
        if used:
            optimizer.init(model.trainable_parameters())
        plain = training_step(model, optimizer)

        def step(x):
            return plain(x) + model.norm(mx.random.normal((4, 8))).sum()

        state = [model.state, optimizer.state, mx.random.state]
        if compile_it:
            step = mx.compile(step, inputs=state, outputs=state)
        if used:
            step(X)
        if check:
            before = contents(model, optimizer)
            stream = mx.random.state[0].tolist()
            check_step(model, step, X, optimizer=optimizer)
            assert contents(model, optimizer) == before
            assert mx.random.state[0].tolist() == stream
        values = [step(X).item() for _ in range(4)]
        return values, [array.tolist() for _, array in tree_flatten(model.state)]

    assert losses(True) == losses(False)


def test_an_optimizer_that_holds_another(model):
    class Clipping:
        def __init__(self):
            self.inner = [optim.Adam(1e-2)]

        @property
        def state(self):
            return self.inner[0].state

        def update(self, model, gradients):
            gradients, _ = optim.clip_grad_norm(gradients, 1.0)
            self.inner[0].update(model, gradients)

    optimizer = Clipping()
    before = contents(model, optimizer)
    check_step(model, training_step(model, optimizer), X, optimizer=optimizer)
    assert contents(model, optimizer) == before


def test_what_a_step_changes_in_place_is_put_back(model, optimizer):
    def step(x):
        model.linears["first"].weight += 1
        return model(x)

    weight = model.linears["first"].weight
    before = weight.tolist()
    check_step(model, step, X)
    assert model.linears["first"].weight is weight
    assert weight.tolist() == before


def test_a_step_that_raises_shows_its_own_error(model, optimizer, compiles):
    state = [model.state, optimizer.state]
    plain = training_step(model, optimizer)
    step = mx.compile(lambda x: plain(x).item(), inputs=state, outputs=state)
    before = contents(model, optimizer)
    with pytest.raises(ValueError, match="Attempting to eval"):
        check_step(model, step, X, optimizer=optimizer)
    assert contents(model, optimizer) == before

    def failing(x):
        plain(x)
        raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        check_step(model, mx.compile(failing, inputs=state, outputs=state), X)


def test_what_is_no_optimizer(model):
    with pytest.raises(TypeError, match=r"optimizer of type float.*optimizer=optimizer"):
        check_step(model, model, X, optimizer=0.1)


# Layers of mlx.nn, and other draws from the global stream


class HalfConverted(nn.Module):
    def __init__(self, wrap=lambda module: module):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))
        self.dropout = Dropout(0.5)
        object.__setattr__(self, "wrap", wrap)

    def __call__(self, x):
        return self.dropout(self.wrap(self.block)(x))


def test_a_half_converted_model_that_is_compiled(optimizer, compiles):
    model = HalfConverted()
    plain = training_step(model, optimizer)
    for carried in ([model.state, optimizer.state],):
        step = mx.compile(plain, inputs=carried, outputs=carried)
        for _ in range(2):
            with pytest.raises(ValueError, match=r"every step repeats") as error:
                check_step(model, step, X, optimizer=optimizer)
            assert (
                'layers of mlx.nn draw from MLX\'s global stream: "block.layers.1".'
                in str(error.value)
            )
            assert "chandrop.nn.convert(model)" in str(error.value)
    state = [model.state, optimizer.state, mx.random.state]
    check_step(model, mx.compile(plain, inputs=state, outputs=state), X)
    check_step(model, plain, X)
    model.block.layers[1].eval()
    step = mx.compile(plain, inputs=carried, outputs=carried)
    check_step(model, step, X, optimizer=optimizer)


def test_a_half_converted_model_beside_other_draws(optimizer, compiles):
    """The step draws from the global stream, but not in what is compiled."""
    model = HalfConverted()
    state = [model.state, optimizer.state]
    inner = mx.compile(training_step(model, optimizer), inputs=state, outputs=state)
    with pytest.raises(ValueError, match=r"mlx\.nn draw.*every step repeats"):
        check_step(model, lambda x: inner(x + mx.random.normal(x.shape)), X)
    state.append(mx.random.state)
    inner = mx.compile(training_step(model, optimizer), inputs=state, outputs=state)
    check_step(model, lambda x: inner(x + mx.random.normal(x.shape)), X)


def test_a_half_converted_model_that_checkpoints(optimizer):
    model = HalfConverted(nn.utils.checkpoint)
    with pytest.raises(ValueError, match=r"mlx\.nn draw.*mx\.checkpoint.*convert\(model\)"):
        check_step(model, training_step(model, optimizer), X)
    model = convert(model)
    check_step(model, training_step(model, optimizer), X)


def test_a_half_converted_model_in_a_vmap():
    model = HalfConverted()
    step = mx.vmap(model)
    with pytest.raises(
        ValueError, match=r"mlx\.nn draw.*mx\.vmap all members drop the same"
    ):
        check_step(model, step, mx.stack([X, X]))
    check_step(convert(model), step, mx.stack([X, X]))


def test_other_draws_that_a_compiled_step_does_not_carry(model, compiles):
    def noisy(x):
        return model(x + mx.random.normal(x.shape))

    step = mx.compile(noisy, inputs=model.state, outputs=model.state)
    with pytest.raises(ValueError, match=r"The step draws.*every step repeats.*key=key"):
        check_step(model, step, X)
    state = [model.state, mx.random.state]
    check_step(model, mx.compile(noisy, inputs=state, outputs=state), X)
    with pytest.raises(ValueError, match=r"mx\.random\.state among the outputs"):
        check_step(model, mx.compile(noisy, inputs=state, outputs=model.state), X)
    mx.eval(mx.random.normal((2,)))
    check_step(model, noisy, X)
    with pytest.raises(ValueError, match=r"The step draws.*In mx\.checkpoint"):
        check_step(model, mx.grad(lambda x: mx.checkpoint(noisy)(x).sum()), X)


def test_compile_stays_as_it_was(model, compiles):
    traces = []

    @mx.compile
    def count(x):
        traces.append(x)
        return x

    def traced_again():
        traces.clear()
        for _ in range(3):
            count(mx.ones(2))
        return len(traces) == 3

    model.unused = Dropout()
    check_step(model, model, X)
    assert not traced_again()
    mx.disable_compile()
    try:
        check_step(model, model, X)
        assert traced_again()
    finally:
        mx.enable_compile()


def test_layers_that_need_not_advance(model, key):
    model.unused, model.off = Dropout(), Dropout().eval()

    def step(x, key):
        rekey(model, key)
        return model.off(model(x))

    check_step(model, step, X, key)
    check_step(model, mx.compile(step, inputs=model.state, outputs=model.state), X, key)
    given = Dropout()
    check_step(given, lambda x: given(x, key=key), X)


def test_a_key_that_a_trace_has_fixed(model, compiles):
    """The number of the step is a Python int: the compiled step sees two at most."""
    optimizer, number = optim.Adam(1e-2), 0
    uncompiled, state = training_step(model, optimizer), [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x):
        nonlocal number
        number += 1
        rekey(model, fold_in(mx.random.key(0), number))
        return uncompiled(x)

    with pytest.raises(ValueError, match="draw the same at every step") as error:
        check_step(model, step, X)
    assert "mx.array(number)" in str(error.value)


def test_layers_that_take_turns(model):
    number = 0

    def step(x):
        nonlocal number
        number += 1
        return list(layers)[number % 2](x)

    layers = [model.dropouts["first"], model.dropouts["rest"][0]["last"]]
    check_step(model, step, X)


def test_pickled_layers():
    first = Dropout2d()
    model = nn.Sequential(first, pickle.loads(pickle.dumps(first)), Dropout2d())
    with pytest.raises(ValueError, match="the same key") as error:
        check_step(model, model, mx.ones((2, 3, 3, 4)))
    assert re.search(r'same: "layers\.0", "layers\.1"\.', str(error.value))
    assert "chandrop.nn.rekey(model, mx.random.key(0))" in str(error.value)
    rekey(model, mx.random.key(0))
    check_step(model, model, mx.ones((2, 3, 3, 4)))


def test_the_same_key_does_not_matter_where_nothing_drops(key):
    model = nn.Sequential(Dropout(key=key), Dropout(key=key).eval(), Dropout(0, key=key))
    check_step(model, model, X)


def test_keys_that_become_the_same_in_the_step(model, key):
    def step(x):
        y = model(x)
        set_keys(model, dict.fromkeys(get_keys(model), key))
        return y

    with pytest.raises(ValueError, match="the same key"):
        check_step(model, step, X)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_have_keys_of_their_own(copied):
    mx.random.seed(4)
    first = Dropout2d(0.25).eval()
    stack = [copied(first) for _ in range(3)]
    model = nn.Sequential(first, *stack)
    assert len({str(key.tolist()) for key in get_keys(model).values()}) == 4
    assert [repr(layer) for layer in stack] == [repr(first)] * 3
    assert not any(layer.training for layer in stack)
    mx.random.seed(4)
    again = copied(Dropout2d(0.25))
    assert_same(again._key, stack[0]._key)


class Counting(Dropout2d):
    def __init__(self, p, linear, **kwargs):
        super().__init__(p, **kwargs)
        self.linear = linear
        self.count = 3


def test_a_copy_of_a_layer(key):
    rates = mx.array([0.5, 0.25, 0.0, 1.0])
    first = Counting(rates, nn.Linear(2, 2), groups=4, key=key).eval()
    first.freeze()
    copied = copy.copy(first)
    assert type(copied) is Counting
    assert repr(copied) == repr(first)
    assert (copied._groups, copied.count, copied.training) == (4, 3, False)
    assert copied.p is rates
    assert copied.linear is first.linear
    copied.p, copied.count = 0.125, 4
    copied.train()
    copied.unfreeze(recurse=False)
    assert first.p is rates
    assert (first.count, first.training) == (3, False)
    assert_same(first._key, key)
    model = nn.Sequential(ConcreteDropout(0.1).freeze())
    copy.copy(model.layers[0]).unfreeze()
    assert model.trainable_parameters() == {"layers": [{}]}


def test_a_deep_copy_of_a_model_keeps_what_is_shared():
    model = nn.Sequential(nn.Linear(2, 2), Dropout(mx.array([0.5, 0.25])))
    model.layers.append(model.layers[1])
    copied = copy.deepcopy(model)
    assert copied.layers[1] is copied.layers[2]
    assert copied.layers[1] is not model.layers[1]
    assert_same(copied.layers[1]._p, model.layers[1]._p)
    copied.layers[1]._p += 1
    assert model.layers[1]._p[0] == 0.5
    assert not mx.array_equal(copied.layers[1]._key, model.layers[1]._key)


def test_a_model_whose_layers_are_off(model):
    with pytest.raises(ValueError, match=r"is on.*model\.train\(\)"):
        check_step(model.eval(), model, X)


def test_a_model_without_dropout_layers():
    with pytest.raises(ValueError, match="convert"):
        check_step(nn.Linear(2, 2), lambda: None)


def test_functions_that_were_imported_before(model, monkeypatch):
    """They are MLX's own, under which a layer's own key is wrong."""
    module = types.ModuleType("their_script")
    module.checkpoint = _mlx.checkpoint
    monkeypatch.setitem(sys.modules, "their_script", module)
    with pytest.warns(
        UserWarning, match=r"before chandrop\.nn: their_script\.checkpoint\."
    ):
        check_step(model, model, X)
    module.checkpoint = mx.checkpoint
    check_step(model, model, X)


def test_a_model_that_an_earlier_trace_has_spoilt(model, compiles):
    optimizer = optim.Adam(1e-2)
    forgetful = mx.compile(training_step(model, optimizer))
    with pytest.raises(ValueError, match="rebuild the model and the optimizer"):
        forgetful(X)
    state = [model.state, optimizer.state]
    step = mx.compile(training_step(model, optimizer), inputs=state, outputs=state)
    message = r"an earlier trace.*linears.*Rebuild the model and the optimizer"
    with pytest.raises(ValueError, match=message):
        check_step(model, step, X, optimizer=optimizer)
