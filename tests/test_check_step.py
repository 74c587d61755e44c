"""check_step: layers whose masks repeat are named, and what to add is said."""

import copy
import pickle
import re
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten
from models import InDicts
from subjects import assert_same

from chandrop.nn import (
    ConcreteDropout,
    Dropout,
    Dropout2d,
    check_step,
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


@pytest.mark.parametrize("carried", ["nothing", "random", "outputs"])
def test_the_frozen_mask(model, optimizer, carried, compiles):
    state = [model.state, optimizer.state]
    how = {
        "nothing": {},
        "random": {"inputs": mx.random.state, "outputs": mx.random.state},
        "outputs": {"outputs": state},
    }[carried]
    step = training_step(model, optimizer)
    if carried != "outputs":
        step = model  # Training would leave the trace's arrays in the weights.
    with pytest.raises(ValueError, match="drop the same at every step") as error:
        check_step(model, mx.compile(step, **how), X)
    assert_says_what_to_add(error, "dropouts.first", "dropouts.rest.0.last")


@pytest.mark.parametrize("carried", ["nothing", "optimizer", "random", "copy", "inputs"])
def test_a_trace_that_stays_in_the_model(model, carried, compiles):
    optimizer = optim.Adam(1e-2)
    before = dict(tree_flatten(model.state))
    state = {
        "nothing": None,
        "optimizer": [optimizer.state],
        "random": [optimizer.state, mx.random.state],
        "copy": [model.parameters(), optimizer.state],
        "inputs": [model.state, optimizer.state],
    }[carried]
    outputs = None if carried == "inputs" else state
    step = mx.compile(training_step(model, optimizer), inputs=state, outputs=outputs)
    with pytest.raises(ValueError, match="arrays of its trace in the model") as error:
        check_step(model, step, X)
    assert_says_what_to_add(error, "linears.first.weight", "linears.first.bias")
    for name, array in tree_flatten(model.state):
        assert_same(array, before[name])


def test_a_part_that_is_frozen(model, optimizer, compiles):
    frozen = Dropout(0.5)
    model.frozen = frozen
    state = [model.dropouts["first"].state, model.dropouts["rest"][0]["last"].state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x):
        return frozen(model(x))

    with pytest.raises(ValueError, match='at every step: "frozen"'):
        check_step(model, step, X)


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

    with pytest.raises(ValueError, match="drop the same at every step") as error:
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
