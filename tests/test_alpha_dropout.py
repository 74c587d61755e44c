"""Alpha dropout against its paper: what it multiplies by and adds, and what that keeps."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from binomial import Binomial
from subjects import normal

from chandrop.functional import alpha_dropout_channels, dropout_channels

# Klambauer et al., 2017: alpha' = -lambda * alpha.
SATURATED = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


def maps(p, key=None):
    """The multipliers and shifts of kept and of dropped channels, in double precision."""
    key = mx.random.key(0) if key is None else key
    zeros = alpha_dropout_channels(mx.zeros((4096,)), p, key, ())
    ones = alpha_dropout_channels(mx.ones((4096,)), p, key, ())
    kept = np.array(dropout_channels(mx.ones((4096,)), p, key, ())) > 0
    shifts, outputs = np.array(zeros, np.float64), np.array(ones, np.float64)
    return kept, outputs - shifts, shifts


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.9, mx.array(0.3)], ids=str)
def test_the_affine_maps_are_the_papers(p):
    rate = p.item() if isinstance(p, mx.array) else p
    kept, multipliers, shifts = maps(p)
    q = 1 - rate
    a = (q + SATURATED**2 * q * (1 - q)) ** -0.5
    b = -a * (1 - q) * SATURATED
    assert kept.any()
    assert not kept.all()
    np.testing.assert_allclose(multipliers[kept], a, rtol=1e-6)
    np.testing.assert_allclose(shifts[kept], b, rtol=1e-6)
    assert not multipliers[~kept].any()
    np.testing.assert_allclose(shifts[~kept], a * SATURATED + b, rtol=1e-6)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.5, 0.8, 0.99])
def test_mean_and_variance_are_kept(p):
    """Of an input of mean 0 and variance 1, over inputs and keys: in closed form."""
    kept, multipliers, shifts = maps(p)
    a, b = multipliers[kept][0], shifts[kept][0]
    dropped = shifts[~kept][0]
    mean = (1 - p) * b + p * dropped
    variance = (1 - p) * (a**2 + b**2) + p * dropped**2 - mean**2
    assert mean == pytest.approx(0, abs=1e-5)
    assert variance == pytest.approx(1, rel=1e-5)


def test_a_dropped_value_is_what_selu_saturates_to(key):
    """Before the rescaling, which is the same for all values."""
    x = nn.selu(mx.array([-200.0, 0.0]))
    assert x[0].item() == pytest.approx(SATURATED, rel=1e-5)  # MLX's constants
    _, multipliers, shifts = maps(0.3)
    kept = multipliers > 0
    saturated = multipliers[kept][0] * x[0].item() + shifts[kept][0]
    np.testing.assert_allclose(shifts[~kept], saturated, rtol=1e-4)


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_rate_is_that_of_dropout(p, get_key, false_alarms):
    test = Binomial(p, false_alarms)
    y = alpha_dropout_channels(mx.ones((test.draws, 2)), p, get_key(), 1)
    assert mx.array_equal(y[:, 0], y[:, 1])
    test.check((y[:, 0] < 0).sum().item(), test.draws)


def test_activations_of_a_selu_network_stay_normal(key):
    """Through 20 layers, where dropout's variance grows without bound."""
    mx.random.seed(0)
    x = normal((512, 128))
    plain = x
    for i in range(20):
        weight = mx.random.normal((128, 128)) / 128**0.5
        layer_key = mx.random.split(key, 20)[i]
        x = nn.selu(alpha_dropout_channels(x, 0.1, layer_key, ()) @ weight)
        plain = nn.selu(dropout_channels(plain, 0.1, layer_key, ()) @ weight)
    assert abs(x.mean().item()) < 0.1
    assert 0.8 < x.var().item() < 1.2
    assert abs(plain.mean().item()) > 0.1 or not 0.8 < plain.var().item() < 1.2
