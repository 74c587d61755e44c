"""Gaussian dropout: the multiplier's distribution, exactly, and MLX's own draw."""

import mlx.core as mx
import numpy as np
import pytest
from binomial import Binomial
from scipy.stats import norm
from subjects import normal

from chandrop.functional import gaussian_dropout_channels
from chandrop.random import _samples, balanced_keys

QUANTILES = [0.1, 0.25, 0.5, 0.75, 0.95]


def quantile_tests(false_alarms):
    """As many numbers as should be below each quantile: 3 % off is found."""
    each = false_alarms / len(QUANTILES)
    return [Binomial(quantile, each, deviation=0.03) for quantile in QUANTILES]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_it_multiplies_by_mlx_normal_numbers(p, key):
    x = normal((4, 3, 5, 6))
    noise = np.array(mx.random.normal((4, 1, 1, 6), key=key))
    expected = np.array(x) * (1 + (p / (1 - p)) ** 0.5 * noise)
    y = gaussian_dropout_channels(x, p, key, (1, 2))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    array = gaussian_dropout_channels(x, mx.array(p), key, (1, 2))
    np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_the_distribution(p, get_key, false_alarms):
    """As many multipliers below each quantile of N(1, p / (1 - p)) as there should be."""
    deviation = (p / (1 - p)) ** 0.5
    tests = quantile_tests(false_alarms)
    draws = max(test.draws for test in tests)
    y = np.array(gaussian_dropout_channels(mx.ones((draws,)), p, get_key(), ()))
    for q, test in zip(QUANTILES, tests, strict=True):
        test.check((y < norm.ppf(q, 1, deviation)).sum(), draws)


@pytest.mark.statistical(false_alarms=1e-9)
def test_the_distribution_of_a_balanced_member(get_key, false_alarms):
    tests = quantile_tests(false_alarms)
    draws = max(test.draws for test in tests)
    member = balanced_keys(get_key(), 8)[3]
    y = np.array(gaussian_dropout_channels(mx.ones((draws,)), 0.5, member, ()))
    for q, test in zip(QUANTILES, tests, strict=True):
        test.check((y < norm.ppf(q, 1, 1)).sum(), draws)


def test_balanced_members_are_spread_over_the_quantiles(key):
    """Of 8 members, one lies in each eighth of the distribution, for every channel."""
    members = mx.vmap(
        lambda key: gaussian_dropout_channels(mx.ones((4, 100)), 0.5, key, 0)
    )(balanced_keys(key, 8))
    places = np.floor(norm.cdf(np.array(members)[:, 0], 1, 1) * 8)
    # One random shift for all members of a channel moves them by less than an eighth.
    for channel in places.T:
        assert len(set(channel)) >= 7


@pytest.mark.parametrize("word", [0, 2**31, 2**32 - 2**8])
def test_finite_for_every_word_of_a_balanced_key(word, key, monkeypatch):
    words = mx.full((3,), word, dtype=mx.uint32)
    monkeypatch.setattr(_samples, "_balanced", lambda shape, key: words)
    numbers = _samples.normal((3,), balanced_keys(key, 2)[0])
    step = 2.0**-24
    expected = norm.ppf(word * 2.0**-32 + step / 2)
    np.testing.assert_allclose(numbers, expected, rtol=1e-2, atol=1e-6)
