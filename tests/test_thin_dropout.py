"""Thin dropout as one function and one layer: the laws, against a NumPy reference."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from binomial import Binomial
from subjects import assert_same, normal

from chandrop.nn import checkpoint, functional_call, get_keys, rekey
from chandrop.random import example_keys
from chandrop.thin import ThinDropout, keep_channels, thin_dropout_channels

# A shape, its spatial axes, and the axis of the channels.
CASES = [
    ((3, 8), (), 1),
    ((3, 5, 8), 1, 2),
    ((3, 4, 5, 8), (1, 2), 3),
    ((2, 3, 4, 5, 8), (-4, -3, -2), 4),
    ((3, 8, 4, 5), (2, 3), 1),
    ((4, 5, 8), (0, 1), 2),
    ((8, 4, 5), (1, 2), 0),
    ((8,), (), 0),
]
each = pytest.mark.parametrize(("shape", "axes", "axis"), CASES, ids=str)


def reference(shape, p, key, axis):
    """The mask by NumPy, from what is kept."""
    kept = np.array(keep_channels(key, shape[axis], p)).astype(int)
    mask = np.zeros(shape, np.float32)
    np.moveaxis(mask, axis, 0)[kept] = shape[axis] / kept.size
    return mask


@each
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9])
def test_one_mask_for_the_batch_that_keeps_a_fixed_number(shape, axes, axis, p, key):
    x = normal(shape)
    y = thin_dropout_channels(x, p, key, axes)
    np.testing.assert_allclose(y, np.array(x) * reference(shape, p, key, axis), rtol=1e-6)
    kept = np.moveaxis(np.array(y), axis, 0).reshape(shape[axis], -1) != 0
    np.testing.assert_array_equal(kept.all(1), kept.any(1))
    assert kept.all(1).sum() == max(1, round((1 - p) * shape[axis]))


@pytest.mark.statistical(false_alarms=1e-9)
def test_the_mean_over_keys_is_x(get_key, false_alarms):
    """The sum over keys is a count of C / k: 2 % off is found."""
    test = Binomial(4 / 6, false_alarms, counts=6, deviation=0.02)
    keys = mx.random.split(get_key(), test.draws)
    y = mx.vmap(lambda key: thin_dropout_channels(mx.ones((2, 6)), 0.35, key, ()))(keys)
    sums = np.array(y, np.float64).sum(0)
    np.testing.assert_array_equal(sums[0], sums[1])
    test.check(np.round(sums[0] * 4 / 6), test.draws)


@each
def test_purity_and_vmap(shape, axes, axis, get_key):
    keys = mx.stack([get_key() for _ in range(5)])
    x, xs = normal(shape), normal((5, *shape), seed=2)
    over_keys = mx.vmap(lambda key: thin_dropout_channels(x, 0.5, key, axes))(keys)
    over_both = mx.vmap(lambda x, key: thin_dropout_channels(x, 0.5, key, axes))(xs, keys)
    over_x = mx.vmap(lambda x: thin_dropout_channels(x, 0.5, keys[0], axes))(xs)
    for i, key in enumerate(keys):
        assert_same(over_keys[i], thin_dropout_channels(x, 0.5, key, axes))
        assert_same(over_both[i], thin_dropout_channels(xs[i], 0.5, key, axes))
        assert_same(over_x[i], thin_dropout_channels(xs[i], 0.5, keys[0], axes))
    assert len({str(y.tolist()) for y in over_keys}) > 1


@each
def test_gradients(shape, axes, axis, key):
    def call(x):
        return thin_dropout_channels(x, 0.5, key, axes)

    x, cotangent = normal(shape), normal(shape, seed=2)
    mask = reference(shape, 0.5, key, axis)
    _, (backward,) = mx.vjp(call, [x], [cotangent])
    _, (forward,) = mx.jvp(call, [x], [cotangent])
    np.testing.assert_allclose(backward, mask * np.array(cotangent), rtol=1e-6)
    np.testing.assert_allclose(forward, mask * np.array(cotangent), rtol=1e-6)
    second = mx.grad(lambda x: (mx.grad(lambda x: (call(x) ** 3).sum())(x)).sum())(x)
    np.testing.assert_allclose(second, 6 * np.array(x) * mask**3, rtol=1e-5)
    over_key = mx.grad(lambda key: thin_dropout_channels(x, 0.5, key, axes).sum())(key)
    assert_same(over_key, mx.zeros_like(key))


def test_the_batch_may_be_cut(key):
    """The mask depends on the key alone, so the same key serves all parts of a batch."""
    x = normal((6, 4, 8))
    whole = thin_dropout_channels(x, 0.5, key, 1)
    parts = [thin_dropout_channels(part, 0.5, key, 1) for part in (x[:1], x[1:])]
    assert_same(mx.concatenate(parts), whole)


def test_compiled_is_eager_bit_for_bit_without_a_retrace(compiles, get_key):
    traces = []

    @mx.compile
    def compiled(x, key):
        traces.append(x)
        return thin_dropout_channels(mx.maximum(x, 0), 1 / 3, key, (1, 2))

    x = normal((2, 4, 5, 7))
    for key in [get_key() for _ in range(4)]:
        expected = thin_dropout_channels(mx.maximum(x, 0), 1 / 3, key, (1, 2))
        assert_same(compiled(x, key), expected)
    assert len(traces) <= 2


def test_checkpoint_and_export(key, tmp_path):
    def call(x, key):
        return thin_dropout_channels(mx.tanh(x), 0.5, key, (1, 2))

    x = normal((2, 4, 5, 8))
    gradient = mx.grad(lambda x: (call(x, key) ** 2).sum())(x)
    again = mx.grad(lambda x: (mx.checkpoint(call)(x, key) ** 2).sum())(x)
    assert_same(again, gradient)
    path = str(tmp_path / "thin.mlxfn")
    mx.export_function(path, call, x, mx.random.key(99))
    assert_same(mx.import_function(path)(x, key)[0], call(x, key))


@pytest.mark.parametrize(
    "dtype", [mx.float16, mx.bfloat16, mx.float32, mx.complex64], ids=str
)
def test_dtypes(dtype, key):
    x = normal((2, 3, 6)).astype(dtype)
    y = thin_dropout_channels(x, 1 / 3, key, 1)
    assert y.dtype == dtype
    mask = mx.array(reference(x.shape, 1 / 3, key, 2)).astype(dtype)
    assert_same(mx.abs(y), mx.abs(x * mask))


@pytest.mark.parametrize("shape", [(0, 8), (3, 0)], ids=str)
def test_empty_inputs(shape, key):
    assert thin_dropout_channels(mx.zeros(shape), 0.5, key, ()).shape == shape


def test_the_layer_is_the_function(key):
    x = normal((3, 4, 5, 8))
    layer = ThinDropout(0.5, key=key)
    assert_same(layer(x, key=key), thin_dropout_channels(x, 0.5, key, (1, 2)))
    _, second = mx.random.split(key)
    assert_same(layer(x), thin_dropout_channels(x, 0.5, second, (1, 2)))
    assert not mx.array_equal(layer._key, key)
    assert layer.eval()(x) is x
    assert not layer.parameters()
    assert repr(layer) == "ThinDropout(p=0.5)"


def test_tools_for_whole_models(key, get_key):
    model = nn.Sequential(nn.Linear(6, 8), ThinDropout(0.5), nn.Linear(8, 2))
    x = normal((5, 6))
    y = functional_call(model, {}, x, key=key)
    rekey(model, key)
    np.testing.assert_allclose(model(x), y, rtol=1e-6)
    assert_same(functional_call(model, {}, x, key=key[None]), y)
    assert list(get_keys(model)) == ["layers.1"]
    with pytest.raises(ValueError, match=r'layer at "layers\.1": Received keys of shape'):
        functional_call(model, {}, x, key=example_keys(key, 5))
    rekey(model, key)
    checkpointed = checkpoint(model)(x)
    np.testing.assert_allclose(checkpointed, y, rtol=1e-6)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert not mx.array_equal(copied.layers[1]._key, model.layers[1]._key)
    assert mx.array_equal(pickled.layers[1]._key, model.layers[1]._key)


def test_the_rate_may_be_set(key):
    layer = ThinDropout(0.5)
    layer.p = 0.75
    assert (layer(mx.ones((2, 8)), key=key)[0] > 0).sum() == 2
    for p, error in ((mx.array(0.5), TypeError), (1, ValueError), (None, TypeError)):
        with pytest.raises(error, match="Expected"):
            layer.p = p
        with pytest.raises(error, match="Expected"):
            ThinDropout(p)
    assert layer.p == 0.75


def test_bad_inputs(key):
    x = mx.ones((3, 4, 8))
    with pytest.raises(
        ValueError, match=r"keys of shape \(3, 2\)\. Expected one key, \(2,"
    ):
        thin_dropout_channels(x, 0.5, example_keys(key, 3), 1)
    with pytest.raises(ValueError, match=r"keys of shape \(3, 2\)\. .*Dropout2d"):
        ThinDropout(0.5)(x, key=example_keys(key, 3))
    with pytest.raises(ValueError, match=r"Received p = 1\.0\."):
        thin_dropout_channels(x, 1.0, key, 1)
    with pytest.raises(TypeError, match=r"type array\. Expected a number in \[0, 1\)"):
        thin_dropout_channels(x, mx.array(0.5), key, 1)
    with pytest.raises(ValueError, match=r"3 axes are all spatial"):
        thin_dropout_channels(x, 0.5, key, (0, 1, 2))
    with pytest.raises(ValueError, match=r"Received spatial axis 3"):
        thin_dropout_channels(x, 0.5, key, 3)
    with pytest.raises(TypeError, match=r"Expected an mx\.array"):
        thin_dropout_channels([1.0], 0.5, key, ())
    with pytest.raises(TypeError, match=r"Received dtype .*int32"):
        thin_dropout_channels(mx.ones((2, 8), dtype=mx.int32), 0.5, key, ())
    with pytest.raises(TypeError, match=r"Received a key of type int"):
        thin_dropout_channels(x, 0.5, 0, 1)
    with pytest.raises(ValueError, match=r"Received a scalar"):
        ThinDropout()(mx.array(1.0))
    with pytest.raises(ValueError, match=r"Received keys of shape"):
        ThinDropout(key=key[None])
