"""Law 11: export and import round-trip, with the key an input."""

import tempfile

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import SUBJECTS, assert_same, normal

from chandrop.functional import dropout_channels
from chandrop.random import example_keys, fold_in


def round_trip(path, function, *args):
    mx.export_function(str(path), function, *args)
    return mx.import_function(str(path))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_one_key(subject, get_key, tmp_path):
    x = normal(subject.shape())
    imported = round_trip(
        tmp_path / "f.mlxfn", lambda x, key: subject.call(x, 0.3, key), x, get_key()
    )
    for _ in range(2):
        key = get_key()
        assert_same(imported(x, key)[0], subject.call(x, 0.3, key))


@given(st.data())
def test_any_shape_and_axes(data):
    ndim = data.draw(st.integers(1, 5))
    x = normal(data.draw(st.tuples(*[st.integers(1, 6)] * ndim)))
    axes = data.draw(st.lists(st.integers(0, ndim - 1), unique=True))
    p = data.draw(st.floats(0, 1))
    key = mx.random.key(data.draw(st.integers(0, 2**32)))
    with tempfile.TemporaryDirectory() as folder:
        imported = round_trip(
            f"{folder}/f.mlxfn", lambda x, key: dropout_channels(x, p, key, axes), x, key
        )
        assert_same(imported(x, key)[0], dropout_channels(x, p, key, axes))


@pytest.mark.parametrize("shape", [(2, 40, 104, 2), (2, 16, 1024, 2)], ids=str)
def test_few_channels(shape, key, tmp_path):
    x = normal(shape)
    imported = round_trip(
        tmp_path / "f.mlxfn", lambda x, key: dropout_channels(x, 0.3, key, (1, 2)), x, key
    )
    assert_same(imported(x, key)[0], dropout_channels(x, 0.3, key, (1, 2)))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_a_rate_and_a_batch_of_keys(subject, key, tmp_path):
    x = normal(subject.shape())
    if 0 in subject.spatial_axes(x.ndim):
        pytest.skip("axis 0 is spatial")
    keys = mx.random.split(key, x.shape[0])
    imported = round_trip(tmp_path / "f.mlxfn", subject.call, x, mx.array(0.5), keys)
    for rate in (0.0, 0.2, 1.0):
        rate = mx.array(rate)
        assert_same(imported(x, rate, keys)[0], subject.call(x, rate, keys))


def test_keys(key, tmp_path):
    imported = round_trip(
        tmp_path / "f.mlxfn",
        lambda key, data: (fold_in(key, data), example_keys(key, 3, data)),
        key,
        mx.array(5),
    )
    folded, keys = imported(key, mx.array(9))
    assert_same(folded, fold_in(key, 9))
    assert_same(keys, example_keys(key, 3, 9))


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_gradients(subject, key, tmp_path):
    """Those of the function itself, but for an array of rates: see test_limits.py."""
    x, p = normal(subject.shape()), mx.array(0.3)
    imported = round_trip(tmp_path / "f.mlxfn", lambda x, p: subject.call(x, p, key), x, p)
    own = mx.grad(lambda x: (subject.call(x, p, key) ** 2).sum())(x)
    theirs = mx.grad(lambda x: (imported(x, p)[0] ** 2).sum())(x)
    np.testing.assert_allclose(own, theirs, rtol=1e-6, atol=1e-6)
