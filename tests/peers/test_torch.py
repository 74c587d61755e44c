"""Live against torch: it takes no key, so what is compared is what a mask does."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from binomial import Binomial

from chandrop import functional

RATES = [0.1, 0.5, 0.9]
pytestmark = pytest.mark.filterwarnings(
    "ignore:dropout2d. Received a 3-D input:UserWarning"
)


def torch_dropout(x, p, rank):
    """Torch's channels come first."""
    y = getattr(torch.nn.functional, f"dropout{rank}d")(
        torch.tensor(np.moveaxis(x, -1, 1)), p
    )
    return np.moveaxis(y.numpy(), 1, -1)


def our_dropout(x, p, rank):
    return np.array(
        getattr(functional, f"dropout{rank}d")(mx.array(x), p, mx.random.key(0))
    )


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_channel_is_zero_or_scaled_alike(rank, p):
    x = np.random.default_rng(0).normal(size=(8, *(3,) * rank, 16)).astype(np.float32)
    torch.manual_seed(0)
    spatial = tuple(range(1, rank + 1))
    for drop in (torch_dropout, our_dropout):
        ratio = drop(x, p, rank) / x
        np.testing.assert_allclose(ratio.min(spatial), ratio.max(spatial), rtol=1e-6)
        scale = 1 / (1 - p) if p < 1 else 0.0
        np.testing.assert_allclose(ratio[ratio != 0], scale, rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_dropped_inf_or_nan_becomes_nan_alike(rank):
    torch.manual_seed(0)
    for value in (np.inf, np.nan):
        x = np.full((8, *(2,) * rank, 16), value, np.float32)
        for drop in (torch_dropout, our_dropout):
            y = drop(x, 0.5, rank)
            assert np.isnan(y).any()
            assert not (y == 0).any()


@pytest.mark.statistical(false_alarms=1e-8)
@pytest.mark.parametrize("p", RATES)
def test_rates(p, false_alarms):
    """Both drop the share p: a 1 % error in either is found with 99 % power."""
    test = Binomial(p, false_alarms, counts=2)
    n = test.draws
    torch.manual_seed(0)
    x = np.ones((n, 1, 1, 1), np.float32)
    test.check([(drop(x, p, 2) == 0).sum() for drop in (torch_dropout, our_dropout)], n)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_gradient_is_the_mask_alike(rank):
    x = np.random.default_rng(0).normal(size=(4, *(3,) * rank, 8)).astype(np.float32)
    theirs = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    torch.manual_seed(0)
    y = getattr(torch.nn.functional, f"dropout{rank}d")(theirs, 0.4)
    y.sum().backward()
    np.testing.assert_allclose(theirs.grad, (y / theirs).detach(), rtol=1e-5)

    drop = getattr(functional, f"dropout{rank}d")
    key = mx.random.key(0)
    ours = mx.grad(lambda x: drop(x, 0.4, key).sum())(mx.array(x))
    np.testing.assert_allclose(ours, our_dropout(x, 0.4, rank) / x, rtol=1e-5)
