"""Concrete dropout: the paper's formulas, finite differences, rates that are learned."""

import math
from fractions import Fraction

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from binomial import Binomial
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from subjects import assert_same, assert_trees_close, normal

from chandrop.functional import concrete_dropout_channels, concrete_regularizer, dropout
from chandrop.nn import (
    ConcreteDropout,
    checkpoint,
    functional_call,
    get_keys,
    rekey,
)
from chandrop.random import example_keys

AXES = (1, 2)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def papers(x, logit, key, temperature=0.1):
    """Equation 5 of the paper in double precision, with p and u as it writes them."""
    u = np.array(mx.random.uniform(shape=(x.shape[0], 1, 1, x.shape[-1]), key=key))
    u = u.astype(np.float64)
    p = sigmoid(np.array(logit, np.float64))
    z = sigmoid((np.log(p) - np.log(1 - p) + np.log(u) - np.log(1 - u)) / temperature)
    return np.array(x, np.float64) * (1 - z) / (1 - p)


def papers_regularizer(logit, weight, length_scale):
    """Equations 3 and 4, with the weights M = W / (1 - p) of dropout without a scale."""
    weight = np.array(weight, np.float64).reshape(-1, weight.shape[-1])
    p = np.broadcast_to(sigmoid(np.array(logit, np.float64)), weight.shape[-1])
    squares = ((weight / (1 - p)) ** 2).sum(0)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    return (length_scale**2 * (1 - p) / 2 * squares - entropy).sum()


LOGITS = {
    "one": mx.array(-1.2),
    "each channel": mx.linspace(-3, 1, 6),
    "each example": mx.linspace(-2, 0, 4).reshape(4, 1, 1, 1),
}
each_logit = pytest.mark.parametrize("logit", LOGITS.values(), ids=LOGITS.keys())


@each_logit
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2 / 3])
def test_the_papers_formula(logit, temperature, key):
    x = normal((4, 3, 2, 6))
    y = concrete_dropout_channels(x, logit, key, AXES, temperature=temperature)
    expected = papers(x, logit, key, temperature)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


@each_logit
def test_the_gradient_is_that_of_finite_differences(logit, key):
    """Central differences of the paper's formula, in double precision."""
    x = normal((4, 3, 2, 6))
    cotangent = normal(x.shape, seed=7)

    def loss(logit):
        y = concrete_dropout_channels(x, logit, key, AXES, temperature=0.5)
        return (y * cotangent).sum()

    gradient = np.array(mx.grad(loss)(logit)).ravel()
    step, logits = 1e-5, np.array(logit, np.float64)
    for i in range(logits.size):
        shifted = np.zeros(logits.size)
        shifted[i] = step
        shifted = shifted.reshape(logits.shape)
        ends = [
            (papers(x, logits + sign * shifted, key, 0.5) * np.array(cotangent)).sum()
            for sign in (1, -1)
        ]
        difference = (ends[0] - ends[1]) / (2 * step)
        assert gradient[i] == pytest.approx(difference, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("length_scale", [1e-6, 0.01, 1.0])
@pytest.mark.parametrize("logit", [mx.array(-1.0), mx.linspace(-4, 3, 6)], ids=["1", "6"])
def test_the_regularizer_and_its_gradients(logit, length_scale):
    weight = normal((5, 3, 3, 6))
    value, (over_logit, over_weight) = mx.value_and_grad(
        concrete_regularizer, argnums=(0, 1)
    )(logit, weight, length_scale)
    expected = papers_regularizer(logit, weight, length_scale)
    assert value.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    step, logits = 1e-6, np.array(logit, np.float64)
    for i in range(logits.size):
        shifted = np.zeros(logits.size)
        shifted[i] = step
        shifted = shifted.reshape(logits.shape)
        ends = [
            papers_regularizer(logits + sign * shifted, weight, length_scale)
            for sign in (1, -1)
        ]
        difference = (ends[0] - ends[1]) / (2 * step)
        found = np.array(over_logit).ravel()[i]
        assert found == pytest.approx(difference, rel=1e-3, abs=1e-4)
    p = sigmoid(np.array(logit, np.float64))
    np.testing.assert_allclose(
        over_weight, length_scale**2 * np.array(weight) / (1 - p), rtol=1e-5
    )


@given(st.floats(-80, 80))
def test_the_regularizer_is_finite(logit):
    value, gradient = mx.value_and_grad(concrete_regularizer)(
        mx.array(logit), mx.zeros((2, 3)), 1.0
    )
    assert math.isfinite(value.item())
    assert math.isfinite(gradient.item())


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", [0.2, 0.6])
def test_the_distribution_is_the_concrete_one(p, get_key, false_alarms):
    """P(z < s) = sigmoid(temperature * logit(s) - logit(p)): 3 % off is found."""
    temperature, logit = 0.3, math.log(p / (1 - p))
    levels = [0.01, 0.5, 0.99]
    rates = [sigmoid(temperature * math.log(s / (1 - s)) - logit) for s in levels]
    tests = [Binomial(rate, false_alarms / 3, deviation=0.03) for rate in rates]
    draws = max(test.draws for test in tests)
    y = concrete_dropout_channels(
        mx.ones((draws,)), mx.array(logit), get_key(), (), temperature=temperature
    )
    z = 1 - np.array(y, np.float64) * (1 - p)
    for level, test in zip(levels, tests, strict=True):
        test.check((z < level).sum(), draws)


def test_at_a_low_temperature_it_is_dropout(key):
    """The share that is dropped, and the scale of what is kept."""
    y = concrete_dropout_channels(
        mx.ones((100_000,)), mx.array(math.log(0.3 / 0.7)), key, (), temperature=1e-3
    )
    plain = dropout(mx.ones((100_000,)), 0.3, key)
    assert (y < 1e-3).mean().item() == pytest.approx((plain == 0).mean().item(), abs=0.01)
    assert mx.max(y).item() == pytest.approx(1 / 0.7, rel=1e-5)


# The laws, for what takes a logit in place of a rate.


def call(x, key, logit=LOGITS["each channel"]):
    return concrete_dropout_channels(x, logit, key, AXES)


def test_purity_and_channels(key):
    x = normal((4, 3, 2, 6))
    assert_same(call(x, key), call(x, mx.array(key)))
    ones = call(mx.ones(x.shape), key)
    assert_same(ones, mx.broadcast_to(ones[:, :1, :1], x.shape))
    assert not mx.array_equal(call(x, key), call(x, mx.random.key(1)))


def test_vmap_over_everything(key):
    xs, keys = normal((3, 4, 3, 2, 6)), mx.random.split(key, 3)
    logits = normal((3, 6), seed=3)
    ys = mx.vmap(call)(xs, keys, logits)
    for i in range(3):
        assert_same(ys[i], call(xs[i], keys[i], logits[i]))
    assert_same(mx.vmap(lambda key: call(xs[0], key))(keys)[1], call(xs[0], keys[1]))


def test_grad_jvp_and_second_order(key):
    x = normal((4, 3, 2, 6))
    logit = LOGITS["each channel"]
    gradient, over_key = mx.grad(lambda x, key: call(x, key).sum(), (0, 1))(x, key)
    assert_same(gradient, call(mx.ones(x.shape), key))
    assert not over_key.any()

    def loss(logit):
        return (call(x, key, logit) ** 2).sum()

    tangent = normal((6,), seed=4)
    _, forward = mx.jvp(loss, [logit], [tangent])
    assert forward[0].item() == pytest.approx(
        (mx.grad(loss)(logit) * tangent).sum().item(), rel=1e-4
    )
    second = mx.grad(lambda logit: (mx.grad(loss)(logit) ** 2).sum())(logit)
    assert mx.isfinite(second).all()


def test_compile(get_key, compiles):
    x, traces = normal((4, 3, 2, 6)), []

    @mx.compile
    def compiled(x, key, logit):
        traces.append(key)
        return call(mx.maximum(x, 0), key, logit)

    for i in range(3):
        key, logit = get_key(), normal((6,), seed=i)
        np.testing.assert_allclose(
            compiled(x, key, logit), call(mx.maximum(x, 0), key, logit), rtol=1e-5
        )
    assert len(traces) <= 2


def test_checkpoint_and_cut(key):
    x = normal((4, 3, 2, 6))

    def loss(logit, call):
        return (call(x, key, logit) ** 2).sum()

    logit = LOGITS["each channel"]
    plain = mx.grad(lambda logit: loss(logit, call))(logit)
    again = mx.grad(lambda logit: loss(logit, mx.checkpoint(call)))(logit)
    np.testing.assert_allclose(again, plain, rtol=1e-5)
    whole = call(x, example_keys(key, 4))
    parts = [call(x[a:b], example_keys(key, b - a, a)) for a, b in [(0, 1), (1, 4)]]
    assert_same(mx.concatenate(parts), whole)
    assert_same(call(x, key[None]), call(x, mx.broadcast_to(key, (4, 2))))


def test_export(key, tmp_path):
    x = normal((4, 3, 2, 6))
    mx.export_function(str(tmp_path / "f.mlxfn"), call, x, key, LOGITS["one"])
    imported = mx.import_function(str(tmp_path / "f.mlxfn"))
    np.testing.assert_allclose(
        imported(x, key, LOGITS["one"])[0], call(x, key, LOGITS["one"]), rtol=1e-6
    )


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.complex64], ids=str)
def test_dtypes(dtype, key):
    x = normal((4, 3, 2, 6), dtype)
    assert call(x, key).dtype == dtype
    halves = call(x, key, LOGITS["one"].astype(mx.float16))
    assert halves.dtype == dtype
    assert not mx.isnan(call(x, key)).any()


# The rates that are learned.


def expected_loss(p, signal, examples, temperature):
    """Per channel and example: that of y = w x + noise, with w x of mean square `signal`.

    Its noise has variance 1. The mean is over the relaxed draws, by quadrature.
    """
    logit = math.log(p / (1 - p))

    def squared_error(u):
        z = sigmoid((logit + math.log(u) - math.log1p(-u)) / temperature)
        return ((1 - z) / (1 - p) - 1) ** 2

    # Half of z's change is where u is near 1 - p.
    mean, _ = quad(squared_error, 0, 1, points=[1 - p], limit=400)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    return signal * mean / 2 - entropy / examples


def test_it_learns_the_right_rates():
    """Channels that matter less are dropped more: as much as the objective's minimum says.

    Data of a linear model with known weights, whose channels differ in size: the expected
    objective is known in closed form but for one integral, so its minimum is.
    """
    temperature, examples = 0.1, 50
    signals = np.array([0.001, 0.01, 0.03, 0.07])
    right = [
        minimize_scalar(
            expected_loss,
            bounds=(1e-3, 0.7),
            args=(signal, examples, temperature),
            method="bounded",
        ).x
        for signal in signals
    ]
    assert right[0] > 0.4 > right[1] > 0.3 > right[2] > 0.2 > right[3] > 0.1

    layer = ConcreteDropout(mx.full((4,), 0.2), temperature=temperature)
    sizes = mx.array(np.sqrt(signals))
    optimizer = mlx.optimizers.Adam(mlx.optimizers.cosine_decay(0.1, 250))
    optimizer.init(layer.trainable_parameters())
    key = mx.random.key(0)

    def loss(layer, x, noise, key):
        # Each channel is an output of its own: no channel can stand in for another.
        y = layer(x, key=key)
        error = ((x + noise - y) ** 2).mean(0).sum() / 2
        return error + layer.regularizer(mx.zeros((1, 4)), 1.0) / examples

    gradient = nn.value_and_grad(layer, loss)

    def step(key):
        keys = mx.random.split(key, 3)
        x = sizes * mx.random.normal((1024, 4), key=keys[0])
        noise = mx.random.normal((1024, 4), key=keys[1])
        _, gradients = gradient(layer, x, noise, keys[2])
        optimizer.update(layer, gradients)

    for i in range(250):
        step(mx.random.split(key, 250)[i])
        mx.eval(layer.state, optimizer.state)
    np.testing.assert_allclose(layer.p, right, rtol=0.1)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4, 6), ()),
        ((4, 3, 6), 1),
        ((4, 3, 3, 6), (1, 2)),
        ((4, 2, 3, 3, 6), (1, -2, 2)),
        ((4, 6, 3, 3), (2, 3)),
        ((6, 3), -1),
    ],
    ids=str,
)
def test_the_layer_is_the_function(shape, axes, key):
    x = normal(shape)
    rates = mx.linspace(0.1, 0.6, 6)
    after = shape[::-1].index(6)
    rates = rates.reshape(6, *[1] * after)
    layer = ConcreteDropout(rates, axes, temperature=0.2, key=key)
    _, sub = mx.random.split(key)
    expected = concrete_dropout_channels(x, layer.logit, sub, axes, temperature=0.2)
    assert_same(layer(x), expected)
    assert not mx.array_equal(layer(x), expected)
    np.testing.assert_allclose(layer.p, rates, rtol=1e-6)
    assert layer.eval()(x) is x


def test_what_the_layer_says_of_itself():
    layer = ConcreteDropout(0.5, spatial_axes=(2, 3), temperature=0.2)
    assert repr(layer) == "ConcreteDropout(p=0.5, spatial_axes=(2, 3), temperature=0.2)"
    assert "spatial_axes" not in repr(ConcreteDropout())
    assert ConcreteDropout().p.item() == pytest.approx(0.1)


def test_the_logit_is_a_parameter(key, tmp_path):
    model = nn.Sequential(nn.Linear(3, 6), ConcreteDropout(0.25), nn.Linear(6, 2))
    names = {name for name, _ in tree_flatten(model.trainable_parameters())}
    assert "layers.1.logit" in names
    path = str(tmp_path / "weights.safetensors")
    model.save_weights(path)
    other = nn.Sequential(nn.Linear(3, 6), ConcreteDropout(0.5), nn.Linear(6, 2))
    other.load_weights(path, strict=True)
    assert_same(other.layers[1].logit, model.layers[1].logit)
    model.layers[1].freeze()
    names = {name for name, _ in tree_flatten(model.trainable_parameters())}
    assert "layers.1.logit" not in names
    model.layers[1].p = 0.4
    assert model.layers[1].p.item() == pytest.approx(0.4)
    assert repr(model.layers[1]).startswith("ConcreteDropout(p=0.4")
    each = ConcreteDropout(mx.full((6,), 0.1))
    each.p = 0.4
    np.testing.assert_allclose(each.p, np.full(6, 0.4), rtol=1e-6)


def test_tools_for_whole_models(key):
    model = nn.Sequential(nn.Linear(3, 6), ConcreteDropout(0.25), nn.Linear(6, 2))
    x = normal((4, 3))
    rekey(model, key)
    assert list(get_keys(model)) == ["layers.1"]
    parameters = model.trainable_parameters()

    def loss(parameters, x):
        return (functional_call(model, parameters, x, key=key) ** 2).sum()

    plain = mx.grad(loss)(parameters, x)
    assert plain["layers"][1]["logit"].item() != 0

    def trained(call):
        def loss(model, x):
            return (call(model)(x) ** 2).sum()

        rekey(model, key)
        return nn.value_and_grad(model, loss)(model, x)

    assert_trees_close(trained(checkpoint), trained(lambda model: model))
    assert trained(checkpoint)[1]["layers"][1]["logit"].item() != 0
    keys = mx.random.split(key, 3)
    ensemble = mx.vmap(
        lambda parameters, key: functional_call(model, parameters, x, key=key),
        in_axes=(None, 0),
    )(parameters, keys)
    single = functional_call(model, parameters, x, key=keys[1])
    np.testing.assert_allclose(ensemble[1], single, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1e-50, 1e-9, 1 - 1e-9, 1 - 2**-53])
def test_rates_near_0_and_1(p, key):
    layer = ConcreteDropout(p)
    expected = math.log(p) - math.log1p(-p)
    assert layer.logit.item() == pytest.approx(expected, rel=1e-6)
    assert mx.isfinite(layer(mx.ones((3, 4)), key=key)).all()


def test_a_logit_of_a_high_rate(key):
    """What is left of a channel is not rounded off: it is scaled by three million."""
    x, logit = mx.ones((64, 1, 1, 64)), mx.array(15.0)
    y = concrete_dropout_channels(x, logit, key, AXES, temperature=1.0)
    np.testing.assert_allclose(y, papers(x, logit, key, 1.0), rtol=1e-3)


def test_a_logit_and_weights_of_16_bits(key):
    x, logit = normal((4, 3, 2, 6)), mx.array(-1.25, dtype=mx.float16)
    expected = call(x, key, logit.astype(mx.float32))
    assert_same(call(x, key, logit), expected)
    weight = mx.full((2, 3), 300.0, dtype=mx.float16)  # their squares are past its range
    value = concrete_regularizer(logit, weight, 1.0)
    assert value.item() == pytest.approx(papers_regularizer(logit, weight, 1.0), rel=1e-5)


def test_a_temperature_that_is_a_fraction(key):
    x, logit = normal((4, 3, 2, 6)), LOGITS["one"]
    y = concrete_dropout_channels(x, logit, key, AXES, temperature=Fraction(1, 10))
    assert_same(y, call(x, key, logit))


# What it refuses.


@pytest.mark.parametrize("logit", [0.5, None, np.zeros(6)], ids=str)
def test_logits_that_are_no_arrays(logit, key):
    message = rf"Received logit of type {type(logit).__name__}\. .*log\(p / \(1 - p\)\): fo"
    with pytest.raises(TypeError, match=message):
        concrete_dropout_channels(mx.ones((4, 6)), logit, key, ())
    with pytest.raises(TypeError, match=message):
        concrete_regularizer(logit, mx.ones((4, 6)), 1.0)


def test_logits_of_another_shape(key):
    with pytest.raises(ValueError, match=r"Received logit of shape \(5,\), which does not"):
        concrete_dropout_channels(mx.ones((4, 6)), mx.zeros((5,)), key, ())
    message = r"weight of shape \(4, 6\) for logits of shape \(5,\)\. .*reshape"
    with pytest.raises(ValueError, match=message):
        concrete_regularizer(mx.zeros((5,)), mx.ones((4, 6)), 1.0)
    with pytest.raises(ValueError, match=r"logit of shape \(6, 1\)\. Expected one for all"):
        concrete_regularizer(mx.zeros((6, 1)), mx.ones((4, 6)), 1.0)
    with pytest.raises(ValueError, match=r"weight of shape \(\) for logits"):
        concrete_regularizer(mx.array(0.0), mx.array(1.0), 1.0)
    flattened = mx.ones((4, 10))
    as_it_says = flattened.reshape(4, -1, 5)
    assert concrete_regularizer(mx.zeros((5,)), as_it_says, 1.0).shape == ()


def test_weights_of_another_type():
    with pytest.raises(TypeError, match=r"Received weight of type ndarray\. .*mx\.array"):
        concrete_regularizer(mx.array(0.0), np.ones((4, 6)), 1.0)
    with pytest.raises(TypeError, match=r"Received weight of dtype .*complex64"):
        concrete_regularizer(mx.array(0.0), mx.ones((4, 6), dtype=mx.complex64), 1.0)


@pytest.mark.parametrize("length_scale", [0, -1.0, math.nan])
def test_length_scales_out_of_range(length_scale):
    message = rf"Received length_scale = {length_scale}\. Expected a number above 0"
    with pytest.raises(ValueError, match=message):
        ConcreteDropout().regularizer(mx.ones((4, 6)), length_scale)
    with pytest.raises(TypeError, match="Received length_scale of type NoneType"):
        ConcreteDropout().regularizer(mx.ones((4, 6)), None)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_temperatures_out_of_range(temperature, key):
    message = rf"Received temperature = {temperature}\. Expected a number above 0"
    with pytest.raises(ValueError, match=message):
        concrete_dropout_channels(
            mx.ones((4, 6)), mx.array(0.0), key, (), temperature=temperature
        )
    with pytest.raises(ValueError, match=message):
        ConcreteDropout(temperature=temperature)


@pytest.mark.parametrize("temperature", [None, "0.1", True, mx.array(0.1)], ids=str)
def test_temperatures_of_another_type(temperature):
    with pytest.raises(TypeError, match="Received temperature of type"):
        ConcreteDropout(temperature=temperature)


@pytest.mark.parametrize("p", [0, 1, 0.0, 1.0])
def test_rates_that_would_not_be_learned(p):
    with pytest.raises(ValueError, match=rf"Received p = {p}\. Expected 0 < p < 1"):
        ConcreteDropout(p)


@pytest.mark.parametrize(
    "p", [[0.0, 0.5], [0.5, 1.0], [-1.0, 0.5], [math.nan, 0.5]], ids=str
)
def test_arrays_of_rates_that_would_not_be_learned(p):
    layer = ConcreteDropout(mx.array([0.2, 0.5]))
    before = layer.logit
    for build in (ConcreteDropout, lambda p: setattr(layer, "p", p)):
        with pytest.raises(ValueError, match=r"Received p = \[.*\. Expected 0 < p < 1"):
            build(mx.array(p))
    assert layer.logit is before


def test_rates_whose_values_are_not_known():
    """Within a transform they are not checked, since that would evaluate them."""

    def logits(p):
        return ConcreteDropout(p).logit

    rates = mx.array([[0.2, 0.5], [0.3, 0.9]])
    assert_same(mx.vmap(logits)(rates), logits(rates))
