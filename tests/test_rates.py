"""Rates: one for each channel, and ones that change from step to step."""

import pickle

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same, normal

from chandrop import nn as layers
from chandrop.functional import drop_path
from chandrop.nn import Dropout, DropPath, checkpoint, functional_call, rekey

CHANNELS = 6
SHAPES = {"": (4, 6), "1d": (4, 3, 6), "2d": (4, 3, 3, 6), "3d": (4, 3, 3, 3, 6)}
BUILD = {
    f"Dropout{layout}": (getattr(layers, f"Dropout{layout}"), shape, {})
    for layout, shape in SHAPES.items()
}
BUILD |= {
    f"{kind.__name__} of {len(shape)} axes": (
        kind,
        shape,
        {"spatial_axes": tuple(range(1, len(shape) - 1))},
    )
    for kind in (layers.AlphaDropout, layers.GaussianDropout, layers.ChannelDropout)
    for shape in SHAPES.values()
}
BUILD |= {
    f"DropBlock of {len(shape)} axes": (
        layers.DropBlock,
        shape,
        {"spatial_axes": tuple(range(1, len(shape) - 1)), "block_size": 2},
    )
    for shape in SHAPES.values()
    if len(shape) > 2
}
each = pytest.mark.parametrize("name", BUILD)


def build(name, p, **arguments):
    kind, _, own = BUILD[name]
    return kind(p, **own, **arguments)


@each
def test_a_rate_for_each_channel_is_the_loop_over_channels(name, key):
    x = normal(BUILD[name][1])
    rates = mx.array([0.0, 0.2, 0.5, 0.8, 1.0, 0.4])
    y = build(name, rates)(x, key=key)
    for channel, rate in enumerate(rates):
        one = build(name, rate)(x, key=key)
        assert_same(y[..., channel], one[..., channel])


@each
def test_rates_are_state_and_not_trained(name, tmp_path):
    x = normal(BUILD[name][1])
    model = nn.Sequential(nn.Linear(6, 6), build(name, mx.linspace(0, 0.5, 6)))
    for _ in range(2):
        assert {n for n, _ in tree_flatten(model.parameters())} == {
            "layers.0.weight",
            "layers.0.bias",
        }
        assert "layers.1._p" in dict(tree_flatten(model.state))
        model.freeze()
        model.unfreeze()
    model.layers[1].unfreeze(keys=["_p"], strict=False)
    assert "layers.1._p" not in dict(tree_flatten(model.trainable_parameters()))
    optimizer = mlx.optimizers.SGD(0.1)
    gradient = nn.value_and_grad(model, lambda model, x: (model(x) ** 2).sum())
    _, gradients = gradient(model, x)
    optimizer.update(model, gradients)
    assert_same(model.layers[1].p, mx.linspace(0, 0.5, 6))
    model.set_dtype(mx.float16)
    assert model.layers[1].p.dtype == mx.float32
    copy = pickle.loads(pickle.dumps(model))
    assert_same(copy.layers[1].p, model.layers[1].p)


@each
def test_rates_of_the_wrong_length(name, key):
    layer = build(name, mx.full((5,), 0.5))
    with pytest.raises(ValueError, match=r"Received p of shape \(5,\), which does not"):
        layer(mx.ones(BUILD[name][1]), key=key)


@each
def test_a_rate_may_be_set(name, key):
    layer = build(name, 0.5)
    x = normal(BUILD[name][1])
    for p in (0.25, mx.array(0.25), mx.full((6,), 0.25), 0.75):
        layer.p = p
        assert_same(layer(x, key=key), build(name, p)(x, key=key))
        assert layer.parameters() == {}
    with pytest.raises(ValueError, match=r"The dropout probability 1\.5 is not in"):
        layer.p = 1.5
    with pytest.raises(TypeError, match="Received p of type str"):
        layer.p = "0.5"
    assert layer.p == 0.75


@pytest.mark.parametrize(
    "attribute", ["key", "groups", "block_size", "spatial_axes", "training"]
)
def test_what_cannot_be_set(attribute, key):
    """Else nn.Module would make a key a parameter, and take the rest without a word."""
    layer = layers.DropBlock(0.5, 3, (1, 2), key=key)
    instead = r".*rekey or set_keys\." if attribute == "key" else r".*build a new layer\."
    message = rf"A layer's {attribute} cannot be set\.{instead}"
    with pytest.raises(AttributeError, match=message):
        setattr(layer, attribute, mx.random.key(1))
    assert layer.parameters() == {}
    layer.own = 5
    assert layer.own == 5


@pytest.mark.parametrize("batch", [1, 3], ids=["one for all", "one for each"])
@each
def test_rates_with_a_key_for_each_example(name, batch, key):
    x = normal((3, *BUILD[name][1][1:]))
    ones = [1] * (x.ndim - 1)
    rates = mx.linspace(0.2, 0.8, batch).reshape(batch, *ones)
    for keys in (mx.random.split(key, 3), key[None]):
        y = build(name, rates)(x, key=keys)
        for i in range(3):
            own = keys[i % len(keys)]
            one = build(name, rates[i % batch])(x[i : i + 1], key=own)
            assert_same(y[i : i + 1], one)


def test_drop_path_takes_a_rate_for_each_example(key):
    x = normal((4, 3, 6))
    y = drop_path(x, mx.array([0.0, 1.0, 0.0, 1.0]).reshape(4, 1, 1), key)
    assert_same(y[0::2], x[0::2])
    assert (y[1::2] == 0).all()
    with pytest.raises(ValueError, match=r"Received p of shape \(6,\), which does not"):
        DropPath(mx.full((6,), 0.5))(x)


class Residual(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.branches = [nn.Linear(6, 6) for _ in range(blocks)]
        self.paths = [DropPath(mx.array(0.0)) for _ in range(blocks)]

    def __call__(self, x):
        for branch, path in zip(self.branches, self.paths, strict=True):
            x = x + path(mx.tanh(branch(x)))
        return x


def test_a_schedule_of_rates_is_traced_once(key, compiles):
    """Set before each call of a compiled step, it is one more array of the state."""
    mx.random.seed(1)
    model, x, traces = Residual(3), normal((8, 6)), []

    def step(x, key):
        traces.append(key)
        rekey(model, key)
        return model(x)

    compiled = mx.compile(step, inputs=model.state, outputs=model.state)
    ys = []
    for i, end in enumerate([0.0, 0.1, 0.3, 0.5, 1.0]):
        for depth, path in enumerate(model.paths):
            path.p = mx.array(end * depth / 2)
        step_key = mx.random.split(key, 5)[i]
        ys.append(compiled(x, step_key))
        # The first call in a process may be traced once more than those that follow.
        if i == 1:
            traces.clear()
        assert_same(model.paths[2].p, mx.array(end))
        expected = functional_call(model, {}, x, key=step_key)
        np.testing.assert_allclose(ys[-1], expected, rtol=1e-5, atol=1e-6)
    assert not mx.array_equal(ys[-1], ys[0])
    assert traces == []


def test_a_rate_that_the_step_computes(key, compiles):
    """Set inside of a compiled step, from an argument: the rate is traced."""
    model, x, traces = Residual(2), normal((8, 6)), []

    def step(x, rate, key):
        traces.append(key)
        for path in model.paths:
            path.p = rate
        rekey(model, key)
        return model(x)

    compiled = mx.compile(step, inputs=model.state, outputs=model.state)
    results = [compiled(x, mx.array(rate), key) for rate in (0.2, 0.2, 1.0, 0.0)]
    assert len(traces) <= 2
    assert_same(results[0], results[1])
    np.testing.assert_allclose(results[2], x, rtol=1e-6)
    np.testing.assert_allclose(results[3], model.eval()(x), rtol=1e-5, atol=1e-6)


def test_a_rate_under_checkpoint_and_functional_call(key):
    model = nn.Sequential(nn.Linear(6, 6), Dropout(mx.linspace(0, 0.9, 6)), nn.Tanh())
    x = normal((4, 6))

    def loss(call):
        return lambda x: (call(x) ** 2).sum()

    rekey(model, key)
    plain = mx.grad(loss(model))(x)
    rekey(model, key)
    again = mx.grad(loss(checkpoint(model)))(x)
    np.testing.assert_allclose(again, plain, rtol=1e-5)
    functional_call(model, {}, x, key=key)
    assert_same(model.layers[1].p, mx.linspace(0, 0.9, 6))


def test_setting_a_rate_to_an_array_and_back(key):
    layer = Dropout(0.5)
    layer.p = mx.array(0.5)
    assert "_p" in layer.state
    layer.p = 0.5
    assert "_p" not in layer.state
    assert repr(layer) == "Dropout(p=0.5)"
