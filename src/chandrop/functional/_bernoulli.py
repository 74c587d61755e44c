import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from struct import pack, unpack

import mlx.core as mx

from chandrop.random import Key


def bernoulli(shape: Sequence[int], key: Key, p: float | mx.array) -> mx.array:
    """Draws bools that are true with probability `p`: those of ``mx.random.bernoulli``.

    For a float `p` it takes fewer operations, and the bools come in any shape.
    """
    if isinstance(p, mx.array):
        return mx.random.bernoulli(p.astype(mx.float32), shape, key=key)
    probability, last = _threshold(p)
    n = math.prod(shape)
    if n % 2 or not 0 < n < 2**32:
        return mx.random.bernoulli(probability[:1], shape, key=key)
    # The words of the split are the random bits that mx.random.bernoulli would draw.
    return mx.random.split(key, n // 2) <= last[:1]


# MLX's bernoulli compares a random word, rounded to float32, with p times this number.
_SCALE = 2.0**32 + 2**9


@lru_cache(maxsize=4096)
def _threshold(p: float) -> tuple[mx.array, mx.array]:
    """Returns `p`, and the last random word for which MLX's bernoulli is true.

    Each array holds its value twice, so that MLX sees a slice and not a constant; see
    :func:`coefficients`.
    """
    bound = _as_float32(_as_float32(p) * _SCALE)
    true = bisect_left(range(2**32), True, key=lambda word: _as_float32(word) >= bound)
    # At p = 0 word 0 still passes, but what is kept is then multiplied by 0.
    last = max(true - 1, 0)
    return mx.array([p, p], mx.float32), mx.array([last, last], mx.uint32)


def _as_float32(number: float) -> float:
    rounded: float = unpack("f", pack("f", number))[0]
    return rounded
