import math
from collections.abc import Sequence

import mlx.core as mx

from chandrop.random._place import KEY_WORDS, place, without_place


def bernoulli(p: mx.array, shape: Sequence[int], key: mx.array) -> mx.array:
    """Draws bools that are true with probability `p`, as ``mx.random.bernoulli`` does.

    With one of :func:`balanced_keys`, the members of an ensemble share their random bits,
    but each adds its place to them, in an order drawn for each bool.
    """
    if key.shape[-1] == KEY_WORDS:
        return mx.random.bernoulli(p, shape, key=key)
    # What split gives are raw bits: two words for each bool.
    bits = mx.random.split(without_place(key), math.prod(shape)).reshape(*shape, 2)
    uniform, order = bits[..., 0], bits[..., 1]
    # Not order // 2**30, nor shifted // 2**8: under mx.vmap, old MLX divides in float32.
    quarters = mx.array([2**30, 2**31, 3 * 2**30], dtype=mx.uint32)
    in_order = mx.take(place(key), (order[..., None] >= quarters).sum(-1))
    # An odd multiple, modulo 2**32, permutes the places, which are multiples of 2**32 / n.
    shifted = uniform + (2 * order + 1) * in_order
    # A float32 holds 24 bits: with more, rounding would make counts uneven.
    return shifted - shifted % 2**8 < p * 2.0**32
