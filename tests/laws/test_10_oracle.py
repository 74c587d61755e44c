"""Law 10: masks equal JAX's and mlx.nn's for the same key, ``fold_in`` its composition.

JAX's masks are stored ones; the peers suite compares with a live JAX.
"""

import json
import pathlib

import mlx.core as mx
import mlx.nn as nn
import pytest
from subjects import assert_same, normal

from chandrop import functional
from chandrop.functional import channel_mask
from chandrop.random import fold_in

REFERENCE = json.loads(
    (pathlib.Path(__file__).parents[1] / "reference" / "masks.json").read_text()
)


@pytest.mark.parametrize("case", REFERENCE["masks"], ids=lambda case: str(case["seed"]))
def test_stored_masks_of_jax(case):
    p, key = case["p"], mx.random.key(case["seed"])
    mask = channel_mask(case["shape"], p, key, case["spatial_axes"])
    assert "".join("01"[int(bit)] for bit in (mask.flatten() > 0).tolist()) == case["kept"]
    assert set(mask.flatten().tolist()) <= {
        0.0,
        mx.array(1 / (1 - p)).item() if p < 1 else 0,
    }


@pytest.mark.parametrize("case", REFERENCE["fold_in"], ids=lambda case: str(case["data"]))
def test_stored_keys_of_jax(case):
    assert fold_in(mx.random.key(case["seed"]), case["data"]).tolist() == case["key"]


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@pytest.mark.parametrize("p", [0, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dropout", (7, 9)),
        ("dropout2d", (5, 6, 7)),
        ("dropout2d", (4, 5, 6, 7)),
        ("dropout3d", (4, 5, 6, 7)),
        ("dropout3d", (3, 4, 5, 6, 7)),
    ],
)
def test_mlx_nn(name, shape, p, dtype):
    """The layer of mlx.nn draws with the second half of the global key's split."""
    x = normal(shape, dtype)
    layer = getattr(nn, name.capitalize())(p)
    mx.random.seed(20261122)
    _, key = mx.random.split(mx.array(mx.random.state[0]))
    y = layer(x)
    assert_same(getattr(functional, name)(x, p, key), y.astype(dtype))
