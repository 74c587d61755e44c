"""Numbers drawn by a key, as ``mx.random`` draws them.

With one of :func:`balanced_keys`, the members of an ensemble share their random bits, but
each adds its place to them, in an order drawn for each number.
"""

import math
from collections.abc import Sequence

import mlx.core as mx

from chandrop.random._place import KEY_WORDS, PLACE_WORDS, place, without_place


def bernoulli(p: mx.array, shape: Sequence[int], key: mx.array) -> mx.array:
    """Draws bools that are true with probability `p`."""
    p = p.astype(mx.float32)
    if key.shape[-1] == KEY_WORDS:
        return mx.random.bernoulli(p, shape, key=key)
    return _balanced(shape, key) < p * 2.0**32


def bernoulli_in_pairs(p: mx.array, shape: Sequence[int], key: mx.array) -> mx.array:
    """Draws as :func:`bernoulli`, in half the time, where `p` is constant along axis -2.

    One random word, as a fraction ``u``, serves two neighbours there: the first is true for
    ``u < p``, the second below ``p**2`` and from ``p`` up to ``p + (1 - p) * p``. Each is
    then true with probability `p`, and both with ``p**2``. It gives 0 and 1, ``uint8``.
    """
    if key.shape[-1] != KEY_WORDS:
        return bernoulli(p, shape, key).astype(mx.uint8)
    half = (*shape[:-2], (shape[-2] + 1) // 2, shape[-1])
    n = math.prod(half)
    # What split gives are raw bits, two words for each key.
    words = mx.random.split(key, (n + 1) // 2).flatten()[:n].reshape(half)
    p = p.astype(mx.float32)
    first, both, either = (
        (words < _as_word(bound)).astype(mx.uint8) for bound in (p, p * p, p + (1 - p) * p)
    )
    pairs = mx.concatenate([first, either - first + both], axis=-2)
    return pairs[..., : shape[-2], :]


def _as_word(fraction: mx.array) -> mx.array:
    """Gives ``fraction * 2**32``, ``uint32``; for 1, the largest that float32 holds."""
    return mx.minimum(fraction * 2.0**32, 2.0**32 - 2**8).astype(mx.uint32)


def uniform(shape: Sequence[int], key: mx.array) -> mx.array:
    """Draws numbers from the unit interval."""
    if key.shape[-1] == KEY_WORDS:
        return mx.random.uniform(shape=shape, key=key)
    return _balanced(shape, key) * 2.0**-32


def choice(n: int, size: int, key: mx.array) -> mx.array:
    """Draws so many different numbers below `n`, in any order."""
    if key.shape[-1] == KEY_WORDS:
        return mx.random.permutation(n, key=key)[:size]
    # All members draw one order, and each takes what follows its place in that.
    order_key, bits = mx.random.split(without_place(key))
    start = (mx.take(place(key), bits[0] % PLACE_WORDS) * (n * 2.0**-32)).astype(mx.uint32)
    follow = (start + mx.arange(size, dtype=mx.uint32)) % n
    # Not mx.take, whose result under mx.vmap old MLX does not sort.
    return mx.take_along_axis(mx.random.permutation(n, key=order_key), follow, axis=0)


def normal(shape: Sequence[int], key: mx.array) -> mx.array:
    """Draws numbers from the standard normal distribution."""
    if key.shape[-1] == KEY_WORDS:
        return mx.random.normal(shape, key=key)
    # Half a step of the 24 bits past each number: neither end of (-1, 1) is one.
    return mx.erfinv(uniform(shape, key) * 2 + (2.0**-24 - 1)) * 2**0.5


def _balanced(shape: Sequence[int], key: mx.array) -> mx.array:
    """Draws multiples of ``2**8`` from ``[0, 2**32)``, ``uint32``."""
    # What split gives are raw bits: two words for each number.
    bits = mx.random.split(without_place(key), math.prod(shape)).reshape(*shape, 2)
    uniform, order = bits[..., 0], bits[..., 1]
    # Not order // 2**30, nor shifted // 2**8: under mx.vmap, old MLX divides in float32.
    quarters = mx.array([2**30, 2**31, 3 * 2**30], dtype=mx.uint32)
    in_order = mx.take(place(key), (order[..., None] >= quarters).sum(-1))
    # An odd multiple, modulo 2**32, permutes the places, which are multiples of 2**32 / n.
    shifted = uniform + (2 * order + 1) * in_order
    # A float32 holds 24 bits: with more, rounding would make counts uneven.
    return shifted - shifted % 2**8
