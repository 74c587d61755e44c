"""Gaussian dropout: the multiplier's distribution, exactly, and MLX's own draw."""

import mlx.core as mx
import numpy as np
import pytest
from binomial import Binomial
from scipy.stats import norm
from subjects import normal

from chandrop.functional import gaussian_dropout_channels

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


# For a number of draws: a shape, the axes that share one, and one entry of each of these.
LAYOUTS = {
    "elements": (lambda n: (n,), (), np.s_[:]),
    "sequences": (lambda n: (n // 8 + 1, 2, 8), 1, np.s_[:, 0]),
    "channels first": (lambda n: (n // 8 + 1, 8, 2, 2), (2, 3), np.s_[:, :, 0, 0]),
}


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_the_distribution(p, layout, get_key, false_alarms):
    """As many multipliers below each quantile of N(1, p / (1 - p)) as there should be."""
    deviation = (p / (1 - p)) ** 0.5
    tests = quantile_tests(false_alarms)
    make_shape, axes, once = LAYOUTS[layout]
    x = mx.ones(make_shape(max(test.draws for test in tests)))
    drawn = np.array(gaussian_dropout_channels(x, p, get_key(), axes))[once]
    for q, test in zip(QUANTILES, tests, strict=True):
        test.check((drawn < norm.ppf(q, 1, deviation)).sum(), drawn.size)
