"""Law 12: float16, bfloat16, float32 and complex64 in, the same out."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import SUBJECTS, assert_same, normal

from chandrop.functional import channel_mask, dropout2d
from chandrop.functional._coefficients import coefficients

DTYPES = {
    mx.float16: 2**-11,
    mx.bfloat16: 2**-8,
    mx.float32: 2**-24,
    mx.complex64: 2**-24,
}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
@given(st.data())
def test_dtype_is_kept_and_the_mask_is_that_of_float32(subject, data):
    dtype = data.draw(st.sampled_from(list(DTYPES)))
    p = data.draw(st.floats(0, 0.99))
    key = mx.random.key(data.draw(st.integers(0, 2**32)))
    x = normal(data.draw(subject.cases()), dtype)
    # Of the scale and of the product; with a shift, of each in y and in what is expected.
    rounding = (5.01 if subject.shifts else 2.01) * DTYPES[dtype]
    for rate in (p, mx.array(p)):
        y = subject.call(x, rate, key)
        assert y.dtype == dtype
        wide = mx.complex64 if dtype == mx.complex64 else mx.float32
        mask = np.array(subject.multiplier(x.shape, rate, key))
        shift = np.array(subject.shift(x.shape, rate, key))
        expected = np.array(x.astype(wide)) * mask + shift
        atol = 8 * rounding * np.abs(shift).max()
        np.testing.assert_allclose(
            np.array(y.astype(wide)), expected, rtol=rounding, atol=atol
        )


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_channel_mask(dtype, key):
    mask = channel_mask((4, 3, 64), 0.3, key, 1, dtype)
    assert mask.dtype == dtype
    assert_same(mask, channel_mask((4, 3, 64), 0.3, key, 1).astype(dtype))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_a_scale_too_large_for_the_dtype_leaves_dropped_channels_zero(dtype, key):
    y = dropout2d(mx.ones((4, 2, 2, 64), dtype=dtype), 1 - 1e-7, key)
    assert not mx.isnan(y).any()


@pytest.mark.parametrize("dtype", [*DTYPES, mx.float64], ids=str)
def test_numbers_of_a_float_are_double_for_double_alone(dtype):
    """A GPU has no float64."""
    numbers = coefficients(lambda p, module: (p, 1 - p), 0.25, dtype)
    expected = mx.float64 if dtype == mx.float64 else mx.float32
    assert [number.dtype for number in numbers] == [expected, expected]


def test_float64_on_the_cpu(key):
    with mx.stream(mx.cpu):
        x = normal((4, 3, 3, 16)).astype(mx.float64)
        y = dropout2d(x, 0.3, key)
        mask = np.array(dropout2d(mx.ones(x.shape), 0.3, key)) > 0
        assert y.dtype == mx.float64
        np.testing.assert_allclose(np.array(y), np.array(x) * mask / 0.7, rtol=1e-15)
