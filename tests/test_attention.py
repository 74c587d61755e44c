"""Attention with dropped weights: the laws and errors of the function, layer and module."""

import copy
import pickle
from zlib import crc32

import mlx.core as mx
import mlx.nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same, assert_trees_close, normal

from chandrop.functional import channel_mask, dropout_attention
from chandrop.nn import (
    AttentionDropout,
    KeyedLayer,
    MultiHeadAttention,
    check_step,
    convert,
    functional_call,
    get_keys,
    rekey,
    revert,
    set_keys,
    stack_parameters,
)
from chandrop.random import example_keys, fold_in
from chandrop.uncertainty import predict, sample

B, H, L, S, D, E = 3, 4, 5, 6, 8, 7
P, SCALE = 0.3, D**-0.5
DTYPES = (mx.float32, mx.float16, mx.bfloat16)
MASKS = {
    "none": None,
    "causal": "causal",
    "bool": mx.random.bernoulli(0.7, (L, S), key=mx.random.key(8)),
    "bool of keys": mx.arange(S) < mx.array([3, 6, 1]).reshape(B, 1, 1, 1),
    "bool, nothing attended to": mx.zeros((B, 1, L, S), dtype=mx.bool_),
    "added": normal((H, 1, S)),
    "added, whole": normal((B, H, L, S)),
}
AXES = [(), (2,), (2, 3), (0, 1), (-1,)]
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
each_axes = pytest.mark.parametrize("axes", AXES, ids=str)
each_group = pytest.mark.parametrize("groups", [4, 2, 1])
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def inputs(groups=H, dtype=mx.float32, batch=()):
    """Queries, keys and values."""
    shapes = (H, L, D), (groups, S, D), (groups, S, E)
    return [
        normal((*batch, B, *shape), dtype, seed) for seed, shape in enumerate(shapes, 1)
    ]


def attend(q, k, v, key, p=P, **others):
    return dropout_attention(q, k, v, p, key, scale=SCALE, **others)


def formula(q, k, v, multiplier, mask=None):
    """Equation 1 in plain MLX, its weights times a constant."""
    if isinstance(mask, str):
        mask = mx.tril(mx.ones((L, S), dtype=mx.bool_), S - L)
    repeats = q.shape[1] // k.shape[1]
    k, v = (mx.repeat(x, repeats, axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) * SCALE
    if mask is not None and mask.dtype == mx.bool_:
        scores = mx.where(mask, scores, mx.finfo(mx.float32).min)
    elif mask is not None:
        scores = scores + mask
    return (mx.softmax(scores, axis=-1) * multiplier) @ v


def multiplier(key, axes=(), p=P, dtype=mx.float32):
    return channel_mask((B, H, L, S), p, key, axes, dtype)


# The function.


@each_group
@each_axes
@each_mask
def test_it_is_the_formula(mask, axes, groups, key):
    q, k, v = inputs(groups)
    y = attend(q, k, v, key, mask=mask, spatial_axes=axes)
    assert y.shape == (B, H, L, E)
    expected = formula(q, k, v, multiplier(key, axes), mask)
    np.testing.assert_allclose(y, expected, **TOLERANCE)
    assert not mx.allclose(y, formula(q, k, v, 1, mask))


def test_what_is_dropped(key):
    """Seen in the output: its values are one-hot, and the weights are uniform."""
    q, k, v = mx.zeros((B, H, L, D)), mx.zeros((B, H, 8, D)), mx.eye(8)
    v = mx.broadcast_to(v, (B, H, 8, 8))
    for axes, shape in {
        (): (B, H, L, 8),
        (2,): (B, H, 1, 8),
        (2, 3): (B, H, 1, 1),
        (0, 1): (1, 1, L, 8),
    }.items():
        weights = attend(q, k, v, key, 0.5, spatial_axes=axes) * 8
        kept = mx.random.bernoulli(0.5, shape, key=key) * 2.0
        assert_same(weights, mx.broadcast_to(kept, weights.shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_group
@each_mask
def test_without_dropout_it_is_mlxs(mask, groups, dtype, key):
    """The very bits, also where our own operations run: on the CPU they are MLX's."""
    q, k, v = inputs(groups, dtype)
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        mask = mask.astype(dtype)
    theirs = mx.fast.scaled_dot_product_attention(q, k, v, scale=SCALE, mask=mask)
    for p in (0, 0.0):
        assert_same(attend(q, k, v, key, p, mask=mask), theirs)
    ours = attend(q, k, v, key, mx.zeros((H, 1, 1)), mask=mask)
    if mx.default_device() == mx.cpu:
        assert_same(ours, theirs)
    np.testing.assert_allclose(
        *(y.astype(mx.float32) for y in (ours, theirs)), rtol=0.02, atol=0.02
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype, key):
    q, k, v = inputs(2, dtype)
    y = attend(q, k, v, key, mask=MASKS["bool"])
    assert y.dtype == dtype
    wide = attend(*(x.astype(mx.float32) for x in (q, k, v)), key, mask=MASKS["bool"])
    np.testing.assert_allclose(y.astype(mx.float32), wide, rtol=0.03, atol=0.03)
    # Scores of 1000 and more, whose float16 exponentials would be inf.
    huge = attend(q * 100, k * 100, v, key, mask=MASKS["bool"])
    assert mx.isfinite(huge).all()


def test_dtypes_are_promoted_as_mlx_promotes_them(key):
    q, k, v = inputs()
    mixed = q.astype(mx.float16), k.astype(mx.bfloat16), v.astype(mx.float16)
    assert attend(*mixed, key).dtype == mx.float32
    assert_same(attend(*mixed, key), attend(*(x.astype(mx.float32) for x in mixed), key))
    added = normal((L, S), mx.float16)
    assert_same(attend(q, k, v, key, mask=added), attend(q, k, v, key, mask=added * 1.0))


def test_the_softmax_is_in_float32(key):
    """Of many keys: in bfloat16 the sum of their exponentials would stop at 256."""
    q, k = mx.zeros((1, 1, 1, 4), mx.bfloat16), mx.zeros((1, 1, 4096, 4), mx.bfloat16)
    v = mx.ones((1, 1, 4096, 1), mx.bfloat16)
    assert attend(q, k, v, key, mx.array(0.0)).item() == pytest.approx(1, abs=0.01)


def test_rates(key):
    """All, and one for each head."""
    q, k, v = inputs(2)
    assert_same(attend(q, k, v, key, 1), mx.zeros((B, H, L, E)))
    rates = mx.array([0.0, 1.0, 0.5, 0.0]).reshape(H, 1, 1)
    y = attend(q, k, v, key, rates)
    plain = attend(q, k, v, key, 0)
    assert_same(y[:, ::3], plain[:, ::3])
    assert_same(y[:, 1], mx.zeros_like(y[:, 1]))
    np.testing.assert_allclose(y, formula(q, k, v, multiplier(key, p=rates)), **TOLERANCE)


def test_keys_for_each_example(key):
    """Law 9: however the batch is cut."""
    q, k, v = inputs(2)
    keys = example_keys(key, B)
    y = attend(q, k, v, keys, spatial_axes=2)
    for i in range(B):
        own = slice(i, i + 1)
        part = attend(q[own], k[own], v[own], keys[own], spatial_axes=2)
        np.testing.assert_allclose(y[own], part, **TOLERANCE)
    alike = formula(q, k, v, multiplier(key[None]))
    assert multiplier(key[None]).shape == (1, H, L, S)
    np.testing.assert_allclose(attend(q, k, v, key[None]), alike, **TOLERANCE)


@pytest.mark.parametrize("empty", ["batch", "queries", "keys"])
def test_nothing_to_attend_with_or_to(empty, key):
    q, k, v = inputs()
    if empty == "batch":
        q, k, v = q[:0], k[:0], v[:0]
    elif empty == "queries":
        q = q[:, :, :0]
    else:
        k, v = k[:, :, :0], v[:, :, :0]
    assert_same(attend(q, k, v, key), attend(q, k, v, key, 0))


@each_mask
def test_gradients_are_those_of_the_formula(mask, key):
    q, k, v = inputs(2)
    constant = multiplier(key, 2)

    def loss(call):
        return lambda *arrays: (mx.sin(call(*arrays)) * normal((B, H, L, E))).sum()

    ours = loss(lambda q, k, v: attend(q, k, v, key, mask=mask, spatial_axes=2))
    theirs = loss(lambda q, k, v: formula(q, k, v, constant, mask))
    gradients, expected = (mx.grad(f, (0, 1, 2))(q, k, v) for f in (ours, theirs))
    assert_trees_close(gradients, expected)

    def squared(f):
        return lambda q: (mx.grad(f)(q, k, v) ** 2).sum()

    second = [mx.grad(squared(f))(q) for f in (ours, theirs)]
    np.testing.assert_allclose(*second, rtol=1e-4, atol=1e-5)
    # There, the jvp of mx.where ends the process.
    if mx.__version__ < "0.32":
        return
    tangents = [normal(x.shape, seed=9) for x in (q, k, v)]
    jvps = [mx.jvp(f, [q, k, v], tangents)[1][0] for f in (ours, theirs)]
    np.testing.assert_allclose(*jvps, rtol=1e-4)


def test_what_has_no_gradient_and_what_has(key):
    """The key and the rate have none; a mask that is added has."""
    q, k, v = inputs()
    added = MASKS["added"]
    by_key = mx.grad(lambda key: attend(q, k, v, key).sum())(key)
    assert_same(by_key, mx.zeros_like(key))
    by_rate = mx.grad(lambda p: attend(q, k, v, key, p).sum())(mx.array(P))
    assert by_rate.item() == 0
    ours, theirs = (
        mx.grad(lambda mask, call=call: (call(mask) ** 2).sum())(added)
        for call in (
            lambda mask: attend(q, k, v, key, mask=mask),
            lambda mask: formula(q, k, v, multiplier(key), mask),
        )
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("over", ["keys", "all", "queries", "rates"])
def test_vmap(over, key):
    """Law 5, also nested."""
    keys = mx.random.split(key, 4)
    arrays = [*inputs(2, batch=(4,)), keys, mx.array([0.1, 0.0, 1.0, 0.5])]
    mapped = {"keys": [3], "all": range(5), "queries": [0], "rates": [4]}[over]
    arguments = [a if i in mapped else a[0] for i, a in enumerate(arrays)]
    in_axes = tuple(0 if i in mapped else None for i in range(5))

    def call(q, k, v, key, p):
        return attend(q, k, v, key, p, mask="causal", spatial_axes=2)

    y = mx.vmap(call, in_axes)(*arguments)
    for i in range(4):
        own = [a[i] if i_ in mapped else a for i_, a in enumerate(arguments)]
        np.testing.assert_allclose(y[i], call(*own), **TOLERANCE)
    halves = [
        mx.unflatten(a, 0, (2, 2)) if i in mapped else a for i, a in enumerate(arguments)
    ]
    nested = mx.vmap(mx.vmap(call, in_axes), in_axes)(*halves)
    np.testing.assert_allclose(nested.flatten(0, 1), y, **TOLERANCE)


def test_vmap_of_gradients(key):
    q, k, v = inputs(2)
    keys = mx.random.split(key, 3)
    gradient = mx.grad(lambda q, key: (attend(q, k, v, key) ** 2).sum())
    batched = mx.vmap(gradient, (None, 0))(q, keys)
    for i in range(3):
        np.testing.assert_allclose(batched[i], gradient(q, keys[i]), **TOLERANCE)


@each_axes
def test_compile(axes, get_key, compiles):
    """Law 7: as eager, and no retrace for new keys and rates."""
    q, k, v = inputs(2)
    traces = []

    def call(q, k, v, key, p):
        traces.append(p)
        return attend(q, k, v, key, p, mask="causal", spatial_axes=axes)

    compiled = mx.compile(call)
    for _ in range(2):  # The first function that a process compiles is traced twice.
        compiled(q, k, v, get_key(), mx.array(P))
    traces.clear()
    outputs = []
    for p in (0.3, 0.6, 0.0):
        key = get_key()
        outputs.append(compiled(q, k, v, key, mx.array(p)))
        assert not traces
        expected = attend(q, k, v, key, mx.array(p), mask="causal", spatial_axes=axes)
        np.testing.assert_allclose(outputs[-1], expected, **TOLERANCE)
    assert not mx.allclose(outputs[0], outputs[1])


def test_checkpoint(key):
    q, k, v = inputs(2)

    def loss(q, k, v):
        return (attend(q, k, v, key, mask="causal") ** 2).sum()

    plain = mx.value_and_grad(loss, (0, 1, 2))(q, k, v)
    again = mx.value_and_grad(mx.checkpoint(loss), (0, 1, 2))(q, k, v)
    assert_trees_close(again, plain)


def test_export(get_key, tmp_path):
    q, k, v = inputs(2)

    def call(q, k, v, key):
        return attend(q, k, v, key, mask="causal", spatial_axes=2)

    path = str(tmp_path / "attention.mlxfn")
    mx.export_function(path, call, q, k, v, get_key())
    imported = mx.import_function(path)
    for _ in range(2):
        key = get_key()
        np.testing.assert_allclose(
            imported(q, k, v, key)[0], call(q, k, v, key), **TOLERANCE
        )


# Bad inputs, of the function and of the layer in both modes.


def _calls():
    def function(q, k, v, **others):
        return dropout_attention(q, k, v, P, mx.random.key(0), **others)

    def off(q, k, v, **others):
        return dropout_attention(q, k, v, 0.0, mx.random.key(0), **others)

    layer = AttentionDropout(P)
    return {
        "function": function,
        "at p = 0": off,
        "layer": layer,
        "layer, eval": AttentionDropout(P).eval(),
        "layer, given a key": lambda *a, **kw: layer(*a, **kw, key=mx.random.key(0)),
    }


each_call = pytest.mark.parametrize("call", _calls().values(), ids=_calls())


def changed(number, change):
    """The inputs, one of them changed."""
    return [change(x) if i == number else x for i, x in enumerate(inputs())]


BAD_SHAPES = {
    "rank 3": ([x[0] for x in inputs()], "expected to be rank 4"),
    "a batch of another length": (changed(1, lambda k: k[:1]), "mismatching batch dim"),
    "a batch of 1": (changed(0, lambda q: q[:1]), "mismatching batch dimension"),
    "heads that do not divide": (changed(0, lambda q: q[:, :3]), "must be a multiple of"),
    "more heads of keys": (changed(2, lambda v: v[:, :2]), "matching n_kv_heads"),
    "another depth": (changed(1, lambda k: k[..., :4]), "matching last dimension"),
    "fewer values": (changed(2, lambda v: v[:, :, :5]), "one G above 0 and one S"),
    "one value": (changed(2, lambda v: v[:, :, :1]), "one G above 0 and one S"),
    "no heads": ([x[:, :0] for x in inputs()], "one G above 0 and one S"),
}


@each_call
@pytest.mark.parametrize("case", BAD_SHAPES)
def test_shapes_that_do_not_fit(case, call):
    arrays, message = BAD_SHAPES[case]
    with pytest.raises(ValueError, match=message):
        call(*arrays, scale=SCALE)


@each_call
@pytest.mark.parametrize("number", range(3))
def test_inputs_of_other_types(number, call):
    name = "qkv"[number]
    for dtype in (mx.int32, mx.uint32, mx.bool_, mx.complex64):
        arrays = changed(number, lambda x, dtype=dtype: x.astype(dtype))
        message = rf"Received {name} of dtype .*: {name}\.astype\(mx\.float32\)\.$"
        with pytest.raises(TypeError, match=message):
            call(*arrays, scale=SCALE)
    with pytest.raises(TypeError, match=r"input of type ndarray\. Expected an mx\.array"):
        call(*changed(number, np.array), scale=SCALE)


@each_call
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (mx.ones((L, S), dtype=mx.int32), r"dtype .*int32\. Expected bools, mask\.astype"),
        (np.ones((L, S), bool), r"a mask of type ndarray\. Expected an mx\.array, mx\.arr"),
        ([[True] * S] * L, r"a mask of type list\. Expected"),
        (True, r"a mask of type bool\. Expected"),
    ],
    ids=["ints", "numpy", "list", "a flag"],
)
def test_masks_of_other_types(mask, message, call):
    with pytest.raises(TypeError, match=message):
        call(*inputs(), scale=SCALE, mask=mask)


@each_call
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (mx.ones((L, L), dtype=mx.bool_), "cannot be broadcast"),
        (mx.ones((2, 1, L, S), dtype=mx.bool_), "cannot be broadcast"),
        (mx.ones((2, B, H, L, S), dtype=mx.bool_), "at most rank 4"),
        (mx.ones((1, B, H, L, S), dtype=mx.bool_), "at most rank 4"),
        ("casual", "invalid mask option 'casual'"),
    ],
    ids=["another length", "another batch", "rank 5", "rank 5 of 1", "a misspelled name"],
)
def test_masks_that_do_not_fit(mask, message, call):
    with pytest.raises(ValueError, match=message):
        call(*inputs(), scale=SCALE, mask=mask)


@each_call
def test_a_mask_of_a_wider_dtype(call):
    with pytest.raises(ValueError, match="Mask type must promote to output type"):
        call(*inputs(dtype=mx.float16), scale=SCALE, mask=MASKS["added"])


@each_call
def test_scales(call):
    arrays = inputs()
    for scale in (None, "1", True, mx.array(1.0)):
        with pytest.raises(TypeError, match=r"scale of type .*\. Expected a number above"):
            call(*arrays, scale=scale)
    for scale in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"Received scale = .*\. Expected a number"):
            call(*arrays, scale=scale)
    for scale in (1, np.float32(1), np.float64(1)):
        assert call(*arrays, scale=scale).dtype == mx.float32


def test_rates_keys_and_axes_are_those_of_the_core(key):
    q, k, v = inputs()
    for p in (0.0, P):  # At p = 0, too.
        with pytest.raises(ValueError, match=r"Received spatial axis 4 for an input with"):
            attend(q, k, v, key, p, spatial_axes=4)
        with pytest.raises(ValueError, match=r"Received a batch of 2 keys for an input of"):
            attend(q, k, v, mx.random.split(key, 2), p)
        with pytest.raises(ValueError, match=r"a batch of 3 keys .* without a batch axis"):
            attend(q, k, v, mx.random.split(key, 3), p, spatial_axes=(0, 1))
        with pytest.raises(TypeError, match=r"Received a key of type int\. Expected a key"):
            attend(q, k, v, 0, p)
    with pytest.raises(ValueError, match=r"probability 1\.5 is not in \[0, 1\]"):
        attend(q, k, v, key, 1.5)
    with pytest.raises(TypeError, match="p of dtype uint32, as keys have"):
        attend(q, k, v, key, key)
    with pytest.raises(ValueError, match="which does not broadcast to the mask's shape"):
        attend(q, k, v, key, mx.full((H,), P))


# The layer.


def test_the_layer_is_its_function(key):
    layer = AttentionDropout(P, 2, key=key)
    q, k, v = inputs(2)
    others = {"scale": SCALE, "mask": "causal"}
    for _ in range(3):
        key, sub = mx.random.split(key)
        expected = attend(q, k, v, sub, mask="causal", spatial_axes=2)
        assert_same(layer(q, k, v, **others), expected)
        assert_same(layer._key, key)
    keys = mx.random.split(key, B)
    for given in (keys[0], keys, keys[:1]):
        expected = attend(q, k, v, given, mask="causal", spatial_axes=2)
        assert_same(layer(q, k, v, **others, key=given), expected)
    assert set(dict(tree_flatten(layer.state))) == {"_key"}
    assert layer.parameters() == {}
    plain = mx.fast.scaled_dot_product_attention(q, k, v, **others)
    assert_same(layer.eval()(q, k, v, **others), plain)
    layer.train().p = 0
    assert_same(layer(q, k, v, **others), plain)
    assert_same(layer._key, key)
    rekey(layer, mx.random.split(key, 8))  # For another batch: no matter in eval mode.
    assert_same(layer.eval()(q, k, v, **others), plain)
    with pytest.raises(TypeError, match="Received a key of type int"):
        layer(q, k, v, **others, key=0)


def test_what_the_layer_says_of_itself(key):
    assert repr(AttentionDropout(0.4)) == "AttentionDropout(p=0.4)"
    assert repr(AttentionDropout(0.4, 2)) == "AttentionDropout(p=0.4, spatial_axes=(2,))"
    with pytest.raises(TypeError, match=r"Expected p: AttentionDropout\(p=0\.1\)"):
        AttentionDropout(dropout=0.1)
    with pytest.raises(ValueError, match=r"1\.5 is not in \[0, 1\]"):
        AttentionDropout(1.5)
    with pytest.raises(ValueError, match=r"a AttentionDropout\(p=.* mlx\.nn does not have"):
        revert(MultiHeadAttention(8, 2))


# The module.


DIMS = 8


def module(key=None, **others):
    mx.random.seed(3)
    return MultiHeadAttention(DIMS, 2, dropout=P, key=key, **others)


def x(batch=4):
    return normal((batch, 5, DIMS))


def test_it_takes_the_place_of_mlx_nns(tmp_path):
    """The weights of one seed, the names of the parameters and the outputs."""
    ours = module(bias=True)
    mx.random.seed(3)
    theirs = mlx.nn.MultiHeadAttention(DIMS, 2, bias=True)
    assert isinstance(ours, mlx.nn.MultiHeadAttention)
    assert not isinstance(ours, KeyedLayer)
    ours_flat, theirs_flat = (
        tree_flatten(attention.parameters()) for attention in (ours, theirs)
    )
    assert [path for path, _ in ours_flat] == [path for path, _ in theirs_flat]
    for (_, one), (_, other) in zip(ours_flat, theirs_flat, strict=True):
        assert_same(one, other)
    mask = ours.create_additive_causal_mask(5)
    assert_same(ours.eval()(x(), x(), x(), mask), theirs(x(), x(), x(), mask))
    ours.train().dropout.p = 0
    assert_same(ours(x(), x(), x(), mask), theirs(x(), x(), x(), mask))
    off = MultiHeadAttention(DIMS, 2)
    assert repr(off.dropout) == "AttentionDropout(p=0.0)"
    file = str(tmp_path / "theirs.safetensors")
    theirs.save_weights(file)
    again = MultiHeadAttention(DIMS, 2, bias=True, dropout=P)
    again.load_weights(file, strict=True)
    assert_same(again.eval()(x(), x(), x()), theirs(x(), x(), x()))
    again.save_weights(file)
    theirs.load_weights(file, strict=True)


@pytest.mark.parametrize("training", [True, False])
def test_other_widths(training, key):
    """Positional, as mlx.nn takes them, and other lengths of keys."""
    widths = (8, 2, 3, 4, 5, 6, 7)
    mx.random.seed(3)
    ours = MultiHeadAttention(*widths, True, dropout=P).train(training)
    mx.random.seed(3)
    theirs = mlx.nn.MultiHeadAttention(*widths, True)
    arrays = normal((2, 5, 3)), normal((2, 9, 4)), normal((2, 9, 5))
    y = ours(*arrays, "causal", key=key)
    assert y.shape == (2, 5, 7)
    assert mx.allclose(y, theirs(*arrays, "causal")) == (not training)


def test_its_dropout_is_that_of_the_weights(key):
    attention = module(key, spatial_axes=2)
    advanced, sub = mx.random.split(key)

    def heads(project):
        return mx.unflatten(project(x()), -1, (2, -1)).transpose(0, 2, 1, 3)

    q, k, v = map(heads, (attention.query_proj, attention.key_proj, attention.value_proj))
    kept = channel_mask((4, 2, 5, 5), P, sub, 2)
    weights = mx.softmax(q @ k.swapaxes(-1, -2) / 4**0.5, axis=-1) * kept
    expected = attention.out_proj((weights @ v).transpose(0, 2, 1, 3).flatten(-2))
    np.testing.assert_allclose(attention(x(), x(), x()), expected, **TOLERANCE)
    assert_same(attention.dropout._key, advanced)
    np.testing.assert_allclose(attention(x(), x(), x(), key=sub), expected, **TOLERANCE)
    assert_same(attention.dropout._key, advanced)


def test_copies(key):
    attention = module(key, spatial_axes=2)
    copied = copy.deepcopy(attention)
    pickled = pickle.loads(pickle.dumps(attention))
    assert repr(copied) == repr(pickled) == repr(attention)
    assert not mx.array_equal(copied.dropout._key, key)
    assert_same(pickled(x(), x(), x()), attention(x(), x(), x()))


def test_bad_arguments():
    with pytest.raises(ValueError, match="divisible by the number of heads"):
        MultiHeadAttention(8, 3, dropout=P)
    for p in (-0.1, 1.5, 10):
        with pytest.raises(ValueError, match=rf"{p} is not in \[0, 1\]"):
            MultiHeadAttention(8, 2, dropout=p)
    with pytest.raises(TypeError, match="p of dtype uint32, as keys have"):
        MultiHeadAttention(8, 2, dropout=mx.random.key(0))
    with pytest.raises(ValueError, match=r"Received spatial axis 4 for an input with 4"):
        MultiHeadAttention(8, 2, spatial_axes=4)(x(), x(), x())
    for mode in (True, False):
        with pytest.raises(ValueError):
            module().train(mode)(x()[0], x()[0], x()[0])


# Whole models: mlx.nn's encoder, its attention in both layers with dropout.


class Encoder(mlx.nn.Module):
    def __init__(self, checkpoint=False):
        super().__init__()
        self.encoder = convert(
            mlx.nn.TransformerEncoder(2, DIMS, 2, 16, 0.1, checkpoint=checkpoint)
        )
        for layer in self.encoder.layers:
            layer.attention = MultiHeadAttention(DIMS, 2, dropout=P)

    def __call__(self, x):
        return self.encoder(x, None)


PATH = "encoder.layers.0.attention.dropout"


def encoder(**others):
    mx.random.seed(5)
    return Encoder(**others)


def test_keys_by_path(key):
    model = encoder()
    assert sum("attention.dropout" in path for path in get_keys(model)) == 2
    rekey(model, key)
    assert_same(get_keys(model)[PATH], fold_in(key, crc32(PATH.encode())))
    keys = get_keys(model)
    y = model(x())
    assert not mx.allclose(model(x()), y)
    set_keys(model, keys)
    assert_same(model(x()), y)
    rekey(model, key)
    assert_same(functional_call(model, {}, x(), key=key), model(x()))


def test_functional_call_chooses_layers(key):
    model = encoder().eval()

    def call(dropout):
        return functional_call(model, {}, x(), key=key, dropout=dropout)

    attention = call(lambda path, _: path.endswith("attention.dropout"))
    assert_same(call(False), model(x()))
    assert not mx.allclose(attention, model(x()))
    assert not mx.allclose(attention, call(True))


def test_a_batch_may_be_cut(key):
    model = encoder()

    def call(x, offset):
        keys = example_keys(key, len(x), offset)
        return functional_call(model, {}, x, key=keys, dropout=True)

    whole = call(x(6), 0)
    parts = [call(x(6)[a:b], a) for a, b in ((0, 1), (1, 4), (4, 6))]
    np.testing.assert_allclose(mx.concatenate(parts), whole, **TOLERANCE)


def test_vmap_over_members(key):
    """With keys that are given, and with its own: ``fold_in(subkey, i)``."""
    model, keys = encoder(), mx.random.split(key, 3)
    members = stack_parameters([encoder(), Encoder(), Encoder()])

    def call(parameters, key):
        return functional_call(model, parameters, x(), key=key)

    y = mx.vmap(call)(members, keys)
    np.testing.assert_allclose(y[0], call({}, keys[0]), rtol=1e-4, atol=1e-5)
    layer = AttentionDropout(P, key=key)
    q, k, v = inputs(2, batch=(3,))
    y = mx.vmap(lambda q, k, v: layer(q, k, v, scale=SCALE))(q, k, v)
    advanced, sub = mx.random.split(key)
    for i in range(3):
        expected = attend(q[i], k[i], v[i], fold_in(sub, i))
        np.testing.assert_allclose(y[i], expected, **TOLERANCE)
    assert_same(layer._key, advanced)


def step_of(model):
    optimizer = mlx.optimizers.SGD(0.1)
    loss = mlx.nn.value_and_grad(model, lambda x: (model(x)[..., :3] ** 2).mean())

    def step(x):
        value, gradients = loss(x)
        optimizer.update(model, gradients)
        return value, gradients

    return step, optimizer


class SelfAttention(mlx.nn.Module):
    def __init__(self):
        super().__init__()
        mx.random.seed(5)
        self.attention = MultiHeadAttention(x().shape[-1], 2, dropout=0.4)

    def __call__(self, x):
        return self.attention(x, x, x)


def test_mlxs_checkpoint_sees_the_masks_of_the_call():
    """By ``nn.utils.checkpoint``, in the encoder itself, with its own keys."""
    results = []
    for checkpoint in (False, True):
        model = encoder(checkpoint=checkpoint)
        step, _ = step_of(model)
        results.append([[step(x()) for _ in range(2)], get_keys(model)])
    assert_trees_close(*results, atol=1e-5)


def test_a_compiled_step_has_new_masks(compiles):
    # One layer of the encoder, as MLX compiles each kernel of a step for seconds.
    eager, compiled = SelfAttention(), SelfAttention()
    plain_step, _ = step_of(eager)
    step, optimizer = step_of(compiled)
    state = [compiled.state, optimizer.state]
    step = mx.compile(step, inputs=state, outputs=state)
    for _ in range(3):
        assert_trees_close(step(x()), plain_step(x()), rtol=1e-4, atol=1e-5)
    assert_trees_close(get_keys(compiled), get_keys(eager))
    check_step(compiled, step, x(), optimizer=optimizer)
    forgetful = mx.compile(lambda x: eager(x))
    with pytest.raises(ValueError, match=r"mx\.compile"):
        forgetful(x())


def test_uncertainty(key):
    """One subnetwork for all examples, however they are batched."""
    model, keys = encoder().eval(), mx.random.split(key, 3)
    samples = sample(model, keys, x(6))
    for i in range(3):
        expected = functional_call(model, {}, x(6), key=keys[i][None], dropout=True)
        np.testing.assert_allclose(samples[i], expected, **TOLERANCE)
    whole = predict(model, keys, x(6))
    parts = predict(model, keys, x(6), batch_size=4)
    np.testing.assert_allclose(whole.probabilities, parts.probabilities, **TOLERANCE)


def test_uncertainty_warns_of_windows(key):
    """Axis 0 of q must be the examples, as for other layers."""

    class Windows(mlx.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = module()

        def __call__(self, x):
            windows = mx.concatenate([x, x[:1]])
            return self.attention(windows, windows, windows)[: len(x), 0]

    with pytest.warns(UserWarning, match=r'"attention\.dropout" received an input of sha'):
        predict(Windows(), key[None], x(4))
