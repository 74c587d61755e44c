"""Law 2: ``y / x`` is one constant per channel, 0 or ``1 / (1 - p)``."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import DROPPING, SUBJECTS, assert_same, normal

from chandrop._affine import _repeats, affine
from chandrop.functional import channel_mask, dropout2d, dropout_channels


def assert_channels(subject, x, y, p):
    """Computed by NumPy from x and y alone."""
    x, y = np.array(x, dtype=np.float64), np.array(y, dtype=np.float64)
    ratio = y / x
    axes = subject.spatial_axes(x.ndim)
    np.testing.assert_allclose(
        ratio, np.broadcast_to(ratio.max(axes, keepdims=True), x.shape), rtol=3e-7
    )
    scale = 1 / (1 - p) if p < 1 else 0
    dropped = y == 0
    np.testing.assert_allclose(ratio[~dropped], scale, rtol=3e-7)


@pytest.mark.parametrize("subject", DROPPING, ids=lambda s: s.name)
@given(st.data())
def test_constant_per_channel(subject, data):
    x = normal(data.draw(subject.cases()))
    p = data.draw(st.floats(0, 0.999))
    key = mx.random.key(data.draw(st.integers(0, 2**64 - 1)))
    assert_channels(subject, x, subject.call(x, p, key), p)


@pytest.mark.parametrize("subject", DROPPING, ids=lambda s: s.name)
def test_both_values_occur_in_every_channel_axis(subject, key):
    shape = subject.shape(batch=12, space=3, channels=16)
    x = normal(shape)
    y = subject.call(x, 0.5, key)
    assert_channels(subject, x, y, 0.5)
    mask = np.array(y / x)
    for axis in range(x.ndim):
        varies = (mask != mask.take([0], axis)).any()
        assert varies == (axis not in subject.spatial_axes(x.ndim))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_p_0_is_the_identity_and_p_1_is_zeros(subject, key):
    x = normal(subject.shape())
    for zero, one in (
        (0, 1),
        (0.0, 1.0),
        (mx.array(0.0), mx.array(1.0)),
        (mx.array(0), mx.array(1)),
    ):
        assert_same(subject.call(x, zero, key), x)
        assert_same(mx.abs(subject.call(x, one, key)), mx.zeros(x.shape))


@pytest.mark.parametrize("subject", DROPPING, ids=lambda s: s.name)
def test_a_dropped_inf_or_nan_is_nan(subject, key):
    x = mx.full(subject.shape(batch=20), float("inf"))
    y = np.array(subject.call(x, 0.5, key))
    assert np.isnan(y).any()
    assert np.isposinf(y).any()
    assert (np.isnan(y) | np.isposinf(y)).all()
    assert mx.isnan(subject.call(mx.full(subject.shape(), float("nan")), 0.5, key)).all()


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_a_rate_per_channel_equals_the_loop_over_channels(subject, key):
    x = normal(subject.shape(batch=6, space=6, channels=6))
    spatial_axes = subject.spatial_axes(x.ndim)
    axis = max(axis for axis in range(x.ndim) if axis not in spatial_axes)
    x = x[tuple(slice(6) for _ in x.shape)]
    rates = mx.array([0.0, 0.2, 0.5, 0.8, 1.0, 0.4])
    y = subject.call(x, rates.reshape(6, *[1] * (x.ndim - 1 - axis)), key)
    for channel, rate in enumerate(rates):
        one = subject.call(x, rate, key)
        assert_same(mx.take(y, channel, axis), mx.take(one, channel, axis))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_an_array_of_rates_is_clipped_and_nan_is_nan(subject, key):
    x = normal(subject.shape())
    assert_same(subject.call(x, mx.array(-0.5), key), x)
    assert_same(mx.abs(subject.call(x, mx.array(1.5), key)), mx.zeros(x.shape))
    assert_same(mx.abs(subject.call(x, mx.array(float("inf")), key)), mx.zeros(x.shape))
    assert mx.isnan(subject.call(x, mx.array(float("nan")), key)).all()


@pytest.mark.parametrize("rate", [0.04, 0.15, 0.25, 0.29, 0.5, 0.75, 0.99])
def test_a_number_and_an_array_of_the_same_rate_agree(rate, key):
    """Up to the last bit: an array is used as float32."""
    x = normal((4, 3, 3, 32))
    array = dropout2d(x, mx.array(rate), key)
    np.testing.assert_allclose(dropout2d(x, rate, key), array, rtol=1e-6 / (1 - rate))


def test_a_number_0_costs_nothing(key):
    x = normal((4, 3, 3, 32))
    assert dropout2d(x, 0, key) is x
    assert dropout2d(x, 0.0, key) is x


@given(st.data())
def test_the_mask_is_what_dropout_multiplies_by(data):
    ndim = data.draw(st.integers(1, 5))
    shape = data.draw(st.tuples(*[st.integers(1, 6)] * ndim))
    axes = data.draw(st.lists(st.integers(-ndim, ndim - 1), unique_by=lambda a: a % ndim))
    p = data.draw(st.floats(0, 1))
    key = mx.random.key(data.draw(st.integers(0, 2**64 - 1)))
    x = normal(shape)
    mask = channel_mask(shape, p, key, axes)
    expected = [
        1 if axis in {a % ndim for a in axes} else n for axis, n in enumerate(shape)
    ]
    assert mask.shape == tuple(expected)
    assert_same(dropout_channels(x, p, key, axes), x * mask)


# Each way through the multiplication: how often the mask is repeated along the last
# spatial axis, so that MLX's inner loop has some hundreds of elements.
REPEATS = [
    ((2, 8, 8, 64), (1, 2), 1),  # many channels
    ((2, 8, 8, 3), (1, 2), 1),  # few elements
    ((64, 16, 8, 3), (1, 2), 8),  # the whole axis
    ((4, 16, 103, 3), (1, 2), 103),
    ((2, 16, 1999, 3), (1, 2), 1999),  # no divisor but itself
    ((2, 40, 300, 2), (1, 2), 300),
    ((2, 16, 1024, 2), (1, 2), 256),  # blocks of the axis
    ((16, 256, 4), (1,), 32),  # at most an eighth of the input
    ((3, 1000, 7), (1,), 100),
    ((16, 997, 2), (1,), 1),  # a prime, and nothing else to repeat along
    ((8192, 4), (0,), 128),
    ((2, 128, 128, 1), (1, 2), 1),  # a single channel is a scalar to MLX
    ((2, 64, 8, 32), (1, 2), 1),  # as many as need no help
    ((16, 64, 5, 4), (1,), 8),  # a run over two axes
    ((16, 5, 64, 2, 3), (0, 2), 64),
    ((64, 64, 6, 6), (0, 1), 1),
]


@pytest.mark.parametrize(("shape", "axes", "repeats"), REPEATS, ids=str)
def test_every_way_to_multiply(shape, axes, repeats, key):
    x = normal(shape)
    mask = channel_mask(shape, 0.5, key, axes)
    assert _repeats(shape, mask.shape)[1] == repeats
    expected = np.array(x) * np.array(mask)
    np.testing.assert_array_equal(dropout_channels(x, 0.5, key, axes), expected)
    turned = mx.transpose(normal(shape[::-1]))
    np.testing.assert_array_equal(
        dropout_channels(turned, 0.5, key, axes), np.array(turned) * np.array(mask)
    )


@pytest.mark.parametrize(("shape", "axes", "repeats"), REPEATS, ids=str)
def test_the_mask_is_repeated_and_the_input_left_whole(
    shape, axes, repeats, key, monkeypatch
):
    """What is multiplied: the numbers alone would be right however slowly they came."""
    operands = []

    def multiply(x, mask):
        operands.append((x.shape, mask.size))
        return x * mask

    monkeypatch.setattr(mx, "multiply", multiply)
    mask = channel_mask(shape, 0.5, key, axes)
    operands.clear()
    affine(normal(shape), mask)
    [(met, size)] = operands
    assert size == mask.size * repeats
    # mx.compile fuses nothing across a view of the input.
    assert (met == shape) == (repeats in (1, shape[axes[-1]]))


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 4, 0)])
def test_empty_inputs(shape, key):
    x = mx.zeros(shape)
    assert_same(dropout2d(x, 0.5, key), x)
    assert_same(dropout2d(x, mx.array([0.5]), mx.random.split(key, 2)[: shape[0]]), x)


def test_scalar_inputs(key):
    assert dropout_channels(mx.array(1.0), 0.5, key, ()).item() in (0.0, 2.0)
