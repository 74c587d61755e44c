"""The draw of zeros and ones: bit for bit that of ``mx.random.bernoulli``."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chandrop.functional._bernoulli import _threshold, bernoulli

RATES = [0.0, 2**-33, 1e-10, 2**-32, 1e-7, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9]
RATES += [1 - 2**-24, 1 - 2**-25, 1 - 1e-9, 1.0]
SHAPES = [(1,), (2,), (3,), (64,), (65,), (0,), (4, 0), (3, 5), (1, 4, 1, 6), (7, 1, 3)]


def assert_mlx(p, shape, key):
    drawn = bernoulli(shape, key, p)
    expected = mx.random.bernoulli(mx.array(p), shape, key=key)
    assert drawn.dtype == mx.bool_
    assert drawn.size == expected.size
    np.testing.assert_array_equal(drawn.flatten(), expected.flatten())


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_mlx_bernoulli(p, shape, get_key):
    for _ in range(3):
        assert_mlx(p, shape, get_key())


@given(
    st.floats(0, 1),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 2**64 - 1),
)
def test_any_rate_and_shape(p, shape, seed):
    assert_mlx(p, tuple(shape), mx.random.key(seed))


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("n", [2**20, 2**20 + 1])
def test_many_draws(p, n, key):
    assert_mlx(p, (n,), key)


@pytest.mark.parametrize("p", [0.3, [0.1, 0.5, 0.9]], ids=str)
def test_arrays_of_rates(p, key):
    for dtype in (mx.float32, mx.float16):
        rates = mx.array(p).astype(dtype)
        expected = mx.random.bernoulli(rates.astype(mx.float32), (100, 3), key=key)
        np.testing.assert_array_equal(bernoulli((100, 3), key, rates), expected)


def is_below(words, p):
    """MLX's comparison, of words rounded to float32, in NumPy."""
    bound = np.float32(p) * np.float32(2.0**32 + 2**9)
    return np.asarray(words, np.uint32).astype(np.float32) < bound


def assert_threshold(p):
    """Which words are below, around the last of them and at both ends."""
    (last,) = {int(word) for word in np.array(_threshold(p)[1])}
    around = [last + i for i in range(-600, 601)] + [2**i for i in range(32)]
    around += [0, 1, 2**32 - 2**8, 2**32 - 2**7 - 1, 2**32 - 2**7, 2**32 - 1]
    words = np.array(sorted({word for word in around if 0 <= word < 2**32}), np.uint64)
    below = is_below(words, p)
    if not below.any():
        # No word is below: then one in 2**32 draws would be true, and is multiplied by 0.
        assert last == 0
        assert p < 2**-32
        below[0] = True
    np.testing.assert_array_equal(words <= last, below)


@pytest.mark.parametrize("p", [p for p in RATES if p])
def test_the_threshold_of_a_rate(p):
    assert_threshold(p)


@given(st.floats(0, 1))
def test_the_threshold_of_any_rate(p):
    assert_threshold(p)


def test_thresholds_of_many_rates():
    rates = np.linspace(0, 1, 2001).tolist() + [2.0**-i for i in range(1, 60)]
    rates += [1 - 2.0**-i for i in range(1, 54)] + [i / 2**24 for i in range(1, 40)]
    for p in rates:
        assert_threshold(p)


@pytest.mark.parametrize("p", [0.3, 2**-32])
def test_the_words_at_the_threshold(p, key, monkeypatch):
    last = int(_threshold(p)[1][0])
    words = mx.array([[last, last + 1]], mx.uint32)
    monkeypatch.setattr(mx.random, "split", lambda key, n: words)
    assert bernoulli((2,), key, p).flatten().tolist() == [True, False]


def test_mlx_compares_so(key):
    """The comparison that the threshold stands for, with the words that MLX draws."""
    words = np.array(mx.random.split(key, 2**19).flatten())
    for p in (1e-4, 0.1, 0.5, 1 - 1e-6):
        drawn = mx.random.bernoulli(mx.array(p), (2**20,), key=key)
        np.testing.assert_array_equal(drawn, is_below(words, p))
