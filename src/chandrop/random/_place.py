"""A member's place in a balanced ensemble, which its key carries after the key proper."""

import mlx.core as mx

# The words of a key, and those of a place: one in each of four random orders.
KEY_WORDS, PLACE_WORDS = 2, 4


def without_place(key: mx.array) -> mx.array:
    """Gives the key proper, which ``mx.random`` takes."""
    return key if key.shape[-1] == KEY_WORDS else key[..., :KEY_WORDS]


def place(key: mx.array) -> mx.array:
    """Gives the place, as fractions of ``2**32``."""
    return key[..., KEY_WORDS:]


def with_place_of(key: mx.array, derived: mx.array) -> mx.array:
    """Gives keys that were derived from `key` its place, if it has one."""
    if key.shape[-1] == KEY_WORDS:
        return derived
    places = mx.broadcast_to(place(key), (*derived.shape[:-1], PLACE_WORDS))
    return mx.concatenate([derived, places], axis=-1)
