"""Stochastic depth that does not scale what it keeps, beyond the laws."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from subjects import assert_same, normal

from chandrop.functional import drop_path
from chandrop.nn import DropPath, rekey
from chandrop.thin import ThinDropout, ThinSequential


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.complex64], ids=str)
@pytest.mark.parametrize("p", [0.3, 0.9, 0.99999])
def test_what_is_kept_stays_as_it_is(p, dtype, key):
    """By the very bits; 1 / (1 - p) would be inf in float16 at 0.99999."""
    x = normal((64, 3, 5), dtype)
    kept = mx.random.bernoulli(1 - p, (64, 1, 1), key=key)
    assert_same(drop_path(x, p, key, scale=False), x * kept.astype(dtype))
    rates = mx.full((64, 1, 1), p)
    assert_same(drop_path(x, rates, key, scale=False), x * kept.astype(dtype))


def test_rates_that_are_no_numbers_are_seen(key):
    y = drop_path(
        mx.ones((4, 2)), mx.array([0.0, mx.nan, 1.0, 0.0])[:, None], key, scale=False
    )
    assert mx.array_equal(mx.isnan(y[:, 0]), mx.array([False, True, False, False]))
    assert y[::2, 0].tolist() == [1.0, 0.0]


def test_at_p_0_it_is_the_input(key):
    x = normal((4, 3))
    assert drop_path(x, 0, key, scale=False) is x


def test_flags(key):
    for scale in (0, None, "no", 1.0):
        with pytest.raises(
            TypeError, match=r"Received scale = .*\. Expected True or False"
        ):
            drop_path(mx.ones((4, 3)), 0.5, key, scale=scale)
        with pytest.raises(
            TypeError, match=r"Received scale = .*\. Expected True or False"
        ):
            DropPath(0.5, scale=scale)
    with pytest.raises(AttributeError, match="A layer's scale cannot be set"):
        DropPath(0.5).scale = False


def test_in_a_chain(key):
    """A thin chain asks the layer what it multiplies by."""
    dropout, path = ThinDropout(0.5), DropPath(0.5, scale=False)
    layers = [nn.Linear(6, 8), dropout, path, nn.Linear(8, 3)]
    x, outputs = normal((16, 6)), []
    for chain in (ThinSequential(*layers), nn.Sequential(*layers)):
        rekey(chain, key)
        outputs.append(chain(x))
    assert mx.allclose(*outputs, rtol=1e-5, atol=1e-6)
    rekey(chain, key)
    hidden = path(dropout(layers[0](x)))
    assert mx.allclose(layers[3](hidden), outputs[0], rtol=1e-5, atol=1e-6)
    assert 0 < (hidden == 0).all(1).sum().item() < 16
