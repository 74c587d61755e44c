"""Beside the input, a call uses memory for one output and one small mask."""

import mlx.core as mx
import pytest
from subjects import normal

from chandrop import functional

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="a GPU rounds its allocations up"
)


def peak_beside_the_input(x, function):
    mx.eval(x)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(function(x))
    return (mx.get_peak_memory() - before) / x.nbytes


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("keys", [1, 8], ids=["one key", "a key per example"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dropout1d", (8, 4096, 64)),
        ("dropout2d", (8, 64, 64, 64)),
        ("dropout3d", (8, 16, 16, 16, 64)),
    ],
)
def test_many_channels(name, shape, keys, dtype, key):
    keys = key if keys == 1 else mx.random.split(key, keys)
    function = getattr(functional, name)
    x = normal(shape, dtype)
    assert peak_beside_the_input(x, lambda x: function(x, 0.5, keys)) < 1.01


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dropout1d", (64, 512, 3)),
        ("dropout2d", (8, 12, 512, 3)),
        ("dropout1d", (2048, 64, 3)),
    ],
)
def test_few_channels(name, shape, key):
    """The repeated mask is at most an eighth of the input."""
    function = getattr(functional, name)
    assert peak_beside_the_input(normal(shape), lambda x: function(x, 0.5, key)) < 1.2
