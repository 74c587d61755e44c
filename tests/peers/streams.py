"""The streams of keys of Flax and Haiku: functions that return the next key, as numbers."""

import flax.nnx
import haiku
import jax
import numpy as np


class FlaxRngs:
    def __init__(self):
        self.rngs = flax.nnx.Rngs(0)

    def __call__(self):
        return np.array(jax.random.key_data(self.rngs()))

    def resumed(self):
        """Another stream, from what this one's state is now."""
        other = FlaxRngs()
        other.rngs = flax.nnx.merge(*flax.nnx.split(self.rngs))
        return other


class HaikuSequence:
    def __init__(self):
        self.sequence = haiku.PRNGSequence(0)

    def __call__(self):
        with jax.threefry_partitionable(False):
            return np.array(next(self.sequence))

    def resumed(self):
        other = HaikuSequence()
        other.sequence.replace_internal_state(self.sequence.internal_state)
        return other


def haiku_next_keys(count):
    """The keys of ``next_rng_key`` in a transformed function."""

    def keys():
        return [haiku.next_rng_key() for _ in range(count)]

    with jax.threefry_partitionable(False):
        return np.array(haiku.transform(keys).apply({}, jax.random.PRNGKey(0)))
