import math
from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx

# MLX's CPU loop over a broadcast mask runs along the axes after the last spatial one. It
# is four times slower where they hold few elements, needs no help from 32 on, and is at
# its best with some hundreds.
_SHORT, _BEST = 32, 512
# The repeated mask is at most this share of the input, and for few elements not worth it.
_SHARE, _FEW = 1 / 8, 2**14


def affine(x: mx.array, multiplier: mx.array, shift: mx.array | None = None) -> mx.array:
    """Returns ``x * multiplier + shift``, fast also for few channels.

    Both have length 1 at the spatial axes, or the shape of `x`.
    """
    y = _by_channel(mx.multiply, x, multiplier)
    return y if shift is None else _by_channel(mx.add, y, shift)


def _by_channel(
    operation: Callable[[mx.array, mx.array], mx.array], x: mx.array, mask: mx.array
) -> mx.array:
    axis, repeats = _repeats(x.shape, mask.shape)
    if repeats == 1:
        return operation(x, mask)
    repeated = _repeat(mask, repeats, axis)
    # mx.compile can fuse this operation with what x comes from, but not across a view of x.
    if repeats == x.shape[axis]:
        return operation(x, repeated)
    blocks = operation(mx.unflatten(x, axis, (-1, repeats)), mx.expand_dims(repeated, axis))
    return mx.flatten(blocks, axis, axis + 1)


def _repeat(mask: mx.array, repeats: int, axis: int) -> mx.array:
    # mx.repeat would give a view of the mask with the same short runs, and mx.contiguous
    # cannot be exported. Flattening across the repeated axis has to copy.
    shape = (*mask.shape[:axis], repeats, *mask.shape[axis + 1 :])
    return mx.unflatten(mx.flatten(mx.broadcast_to(mask, shape), axis), axis, shape[axis:])


@lru_cache(maxsize=4096)
def _repeats(shape: tuple[int, ...], mask_shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the last spatial axis, and how often the mask is best repeated along it."""
    axis, run = len(shape) - 1, 1
    while axis >= 0 and mask_shape[axis] == shape[axis]:
        run *= shape[axis]
        axis -= 1
    if axis < 0 or not 1 < run < _SHORT or math.prod(shape) < _FEW:
        return axis, 1
    most = int(math.prod(shape) / math.prod(mask_shape) * _SHARE)
    longest = range(1, min(shape[axis], most, 16 * _BEST // run) + 1)
    divisors = [n for n in longest if shape[axis] % n == 0]
    return axis, min(divisors, key=lambda n: abs(math.log(n * run / _BEST)), default=1)
