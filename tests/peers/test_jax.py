"""Live against JAX, Flax, Equinox, Haiku and Keras: the same key drops the same channels.

JAX draws uniforms of 23 bits and MLX compares 32, so a draw differs at most when its bits
lie within 2**-22 of the rate: in 2.4e-7 of all draws.
"""

import os

os.environ["KERAS_BACKEND"] = "jax"

import equinox
import flax.linen
import haiku
import jax
import jax.numpy as jnp
import keras
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from chandrop.functional import channel_mask, dropout, dropout_channels
from chandrop.random import example_keys, fold_in

jax.config.update("jax_threefry_partitionable", False)

DIFFERENT = 2.4e-7
SHAPE, SPATIAL_AXES = (4, 5, 6, 8), (1, 2)
MASK_SHAPE = (4, 1, 1, 8)
RATES = [0.1, 0.3, 0.5, 0.9]


def jax_key(key):
    return jnp.asarray(np.array(key))


def x_of(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) + 10


def assert_same_mask(ours, theirs):
    """Up to the draws that may differ, at a false-alarm rate of 1e-9."""
    differ = (np.array(ours) != np.array(theirs)).sum()
    assert differ <= binom.isf(1e-9, np.size(theirs), DIFFERENT)


@pytest.mark.statistical(false_alarms=1e-7)
@given(
    st.integers(0, 2**64 - 1),
    st.floats(0, 1),
    st.lists(st.integers(1, 7), min_size=1, max_size=5).map(tuple),
)
def test_bernoulli(seed, p, shape):
    key = mx.random.key(seed)
    theirs = jax.random.bernoulli(jax_key(key), 1 - p, shape)
    assert_same_mask(channel_mask(shape, p, key, ()) > 0, theirs)


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", RATES)
def test_bernoulli_ten_million_draws(p):
    key = mx.random.key(1)
    theirs = jax.random.bernoulli(jax_key(key), 1 - p, (10_000_000,))
    ours = channel_mask((10_000_000,), p, key, ()) > 0
    assert_same_mask(ours, theirs)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_fold_in_is_its_composition(seed, data):
    def draw(key):
        return jax.random.split(key, 1)[0]

    key = mx.random.key(seed)
    salt = jnp.array([0x9E3779B9, data], dtype=jnp.uint32)
    np.testing.assert_array_equal(fold_in(key, data), draw(jax_key(key) + draw(salt)))


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", RATES)
def test_a_batch_of_keys_is_vmap_over_keys(p):
    keys = example_keys(mx.random.key(2), 4)
    theirs = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - p, MASK_SHAPE[1:]))(
        jax_key(keys)
    )
    assert_same_mask(channel_mask(SHAPE, p, keys, SPATIAL_AXES) > 0, theirs)


def flax_dropout(x, p, key):
    module = flax.linen.Dropout(p, broadcast_dims=SPATIAL_AXES, deterministic=False)
    return module.apply({}, x, rng=key)


def haiku_dropout(x, p, key):
    return haiku.dropout(key, p, x, broadcast_dims=SPATIAL_AXES)


def keras_dropout(x, p, key):
    return keras.random.dropout(x, p, noise_shape=MASK_SHAPE, seed=key)


PEERS = {"flax": flax_dropout, "haiku": haiku_dropout, "keras": keras_dropout}


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("peer", PEERS)
def test_values(peer, p):
    """Same key, same channels, same values up to one rounding."""
    key, x = mx.random.key(3), x_of(SHAPE)
    theirs = PEERS[peer](jnp.asarray(x), p, jax_key(key))
    ours = dropout_channels(mx.array(x), p, key, SPATIAL_AXES)
    np.testing.assert_allclose(ours, theirs, rtol=3e-7)


@pytest.mark.parametrize("p", RATES)
def test_equinox(p):
    """Equinox drops elements alone; its mask of ones is a channel's."""
    key, x = mx.random.key(4), x_of((16, 32))
    layer = equinox.nn.Dropout(p)
    theirs = layer(jnp.asarray(x), key=jax_key(key))
    np.testing.assert_allclose(dropout(mx.array(x), p, key), theirs, rtol=3e-7)
    mask = layer(jnp.ones(MASK_SHAPE), key=jax_key(key))
    np.testing.assert_allclose(channel_mask(SHAPE, p, key, SPATIAL_AXES), mask, rtol=3e-7)


@pytest.mark.parametrize("peer", PEERS)
def test_gradient(peer):
    key, x = mx.random.key(5), x_of(SHAPE)

    def theirs(x):
        return (PEERS[peer](x, 0.4, jax_key(key)) ** 3).sum()

    def ours(x):
        return (dropout_channels(x, 0.4, key, SPATIAL_AXES) ** 3).sum()

    np.testing.assert_allclose(
        mx.grad(ours)(mx.array(x)), jax.grad(theirs)(jnp.asarray(x)), rtol=1e-5
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_keras_spatial_dropout_shares_the_same_axes(rank):
    """The layers of Keras have names and axes like ours, and draw from a seed of theirs."""
    shape = (4, *(3,) * rank, 32)
    layer = getattr(keras.layers, f"SpatialDropout{rank}D")(0.5, seed=0)
    theirs = np.array(layer(np.ones(shape, np.float32), training=True))
    from chandrop import functional

    ours = getattr(functional, f"dropout{rank}d")(mx.ones(shape), 0.5, mx.random.key(0))
    for mask in (theirs, np.array(ours)):
        assert set(np.unique(mask)) == {0.0, 2.0}
        spatial = tuple(range(1, rank + 1))
        np.testing.assert_array_equal(mask.min(spatial), mask.max(spatial))
        assert len(np.unique(mask.min(spatial), axis=0)) == 4
