"""Live against torch and Flax: attention with our mask, outputs and gradients."""

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import mlx.core as mx
import numpy as np
import pytest
import torch
from subjects import normal
from torch.nn import functional

from chandrop.functional import channel_mask, dropout_attention
from chandrop.nn import MultiHeadAttention

B, H, L, S, D, E = 3, 4, 5, 6, 8, 7
P, SCALE = 0.3, D**-0.5
AXES = [(), (2,), (2, 3), (0, 1)]
MASKS = {
    "none": None,
    "bool": np.array(mx.random.bernoulli(0.7, (B, 1, L, S), key=mx.random.key(8))),
    "added": np.array(normal((H, L, S))),
}
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}

each_axes = pytest.mark.parametrize("axes", AXES, ids=str)
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def inputs(groups=H):
    shapes = (B, H, L, D), (B, groups, S, D), (B, groups, S, E)
    return [normal(shape, seed=seed) for seed, shape in enumerate(shapes, 1)]


def ours(arrays, mask, key, axes):
    """The output, and the gradients of a weighted sum of it."""

    def loss(*arrays):
        given = None if mask is None else mx.array(mask)
        y = dropout_attention(*arrays, P, key, scale=SCALE, mask=given, spatial_axes=axes)
        return (y * normal(y.shape, seed=9)).sum(), y

    (_, y), gradients = mx.value_and_grad(loss, (0, 1, 2))(*arrays)
    return [y, *gradients]


def check(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, np.asarray(other), **TOLERANCE)


def torch_leaves(arrays):
    return [torch.tensor(np.array(x), requires_grad=True) for x in arrays]


def with_gradients(y, leaves):
    (y * torch.tensor(np.array(normal(tuple(y.shape), seed=9)))).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("groups", [H, 2, 1])
@each_mask
@each_axes
def test_torch(axes, mask, groups, key):
    """The function behind ``scaled_dot_product_attention``, which takes what is kept."""
    arrays = inputs(groups)
    leaves = torch_leaves(arrays)
    kept = channel_mask((B, H, L, S), P, key, axes) > 0
    added = mask
    if mask is not None and mask.dtype == bool:
        added = np.where(mask, np.float32(0), np.float32(-np.inf))
    y, _ = torch.ops.aten._scaled_dot_product_attention_math(
        *leaves,
        attn_mask=None if mask is None else torch.tensor(added),
        dropout_p=P,
        dropout_mask=torch.tensor(np.array(kept)).expand(B, H, L, S),
        scale=SCALE,
        enable_gqa=True,
    )
    check(ours(arrays, mask, key, axes), with_gradients(y, leaves))


@pytest.mark.parametrize("mask", ["causal", None])
@pytest.mark.parametrize("length", [5, 6])
def test_torch_without_dropout(length, mask, key):
    q, k, v = (x[:, :, -length:] for x in inputs())
    q = q[:, :, :5]
    # torch aligns a causal mask to the first query, MLX to the last.
    allowed = torch.ones(5, length, dtype=torch.bool).tril(length - 5)
    theirs = functional.scaled_dot_product_attention(
        *(torch.tensor(np.array(x)) for x in (q, k, v)),
        attn_mask=None if mask is None else allowed,
    )
    for p in (0, mx.array(0.0)):
        y = dropout_attention(q, k, v, p, key, scale=SCALE, mask=mask)
        check([y], [theirs])


@each_axes
def test_torchs_module(axes, key, monkeypatch):
    """With our weights, and what its dropout multiplies by: gradients of all weights."""
    width = H * D
    attention = MultiHeadAttention(width, H, bias=True, dropout=P, spatial_axes=axes)
    query, keys = normal((B, L, width)), normal((B, S, width), seed=2)
    names = ("query_proj", "key_proj", "value_proj")

    theirs = torch.nn.MultiheadAttention(width, H, dropout=P, batch_first=True)
    with torch.no_grad():
        for name in ("weight", "bias"):
            own = mx.concatenate([attention[part][name] for part in names])
            getattr(theirs, f"in_proj_{name}").copy_(torch.tensor(np.array(own)))
            last = torch.tensor(np.array(attention.out_proj[name]))
            getattr(theirs.out_proj, name).copy_(last)
    multiplier = np.array(channel_mask((B, H, L, S), P, key, axes))

    def dropout(weights, p):
        assert p == P
        whole = np.broadcast_to(multiplier, (B, H, L, S))
        return weights * torch.tensor(whole.copy()).view_as(weights)

    with monkeypatch.context() as patch:
        patch.setattr(functional, "dropout", dropout)
        leaves = torch_leaves([query, keys])
        y, _ = theirs(leaves[0], leaves[1], leaves[1])
    expected = with_gradients(y, [*leaves, theirs.in_proj_weight, theirs.out_proj.weight])

    def loss(query, keys, parameters):
        attention.update(parameters)
        y = attention(query, keys, keys, key=key)
        return (y * normal(y.shape, seed=9)).sum(), y

    (_, y), gradients = mx.value_and_grad(loss, (0, 1, 2))(
        query, keys, attention.parameters()
    )
    weights = gradients[2]
    in_proj = mx.concatenate([weights[part]["weight"] for part in names])
    own = [y, *gradients[:2], in_proj, weights["out_proj"]["weight"]]
    for one, other in zip(own, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("module", [flax.linen, flax.nnx], ids=["linen", "nnx"])
@pytest.mark.parametrize("broadcast", [False, True])
@each_mask
def test_flax(mask, broadcast, module, key):
    """With the same key: what is broadcast are the axes 0 and 1 of the weights."""
    arrays = inputs()
    theirs = [jnp.asarray(np.array(x).swapaxes(1, 2)) for x in arrays]
    is_bool = mask is not None and mask.dtype == bool
    masks = {"mask": mask if is_bool else None, "bias": None if is_bool else mask}

    def call(q, k, v):
        y = module.dot_product_attention(
            *(q, k, v),
            **masks,
            dropout_rng=jnp.asarray(np.array(key)),
            dropout_rate=P,
            broadcast_dropout=broadcast,
            deterministic=False,
        )
        return y.swapaxes(1, 2)

    with jax.threefry_partitionable(False):
        y, pull_back = jax.vjp(call, *theirs)
    gradients = pull_back(jnp.asarray(np.array(normal(y.shape, seed=9))))
    expected = [y, *(gradient.swapaxes(1, 2) for gradient in gradients)]
    check(ours(arrays, mask, key, (0, 1) if broadcast else ()), expected)
