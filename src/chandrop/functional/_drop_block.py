import math
from collections.abc import Sequence
from functools import lru_cache, partial

import mlx.core as mx

from chandrop._affine import affine
from chandrop._checks import as_block_size, check_has_axes, is_zero
from chandrop.functional._channels import channels_of
from chandrop.functional._coefficients import Formula, coefficients
from chandrop.functional._dropout_channels import Rate
from chandrop.random import Key


def drop_block(
    x: mx.array,
    p: Rate,
    key: Key,
    block_size: int,
    spatial_axes: int | Sequence[int],
    *,
    groups: int | None = None,
) -> mx.array:
    """Zeroes blocks of channels, a share `p` in all, and scales the rest.

    Every position is dropped with probability `p`, at the border, too: blocks lie anywhere,
    and the border cuts them. So ``1 / (1 - p)`` is the right scale everywhere, and
    the mean over keys is `x`. Rescaling by what a mask happened to keep would make the
    examples of a batch depend on one another.

    Args:
        x: as for :func:`dropout_channels`, and so is `key`.
        p: the probability of dropping a position: a number in ``[0, 1]``, or an array that
            broadcasts to the shape of `x` with 1 at the spatial axes.
        block_size: the side of a block in elements, at most the length of each spatial
            axis. 1 is element-wise dropout.
        spatial_axes: the axes along which blocks extend: ``(1, 2)`` for squares in
            ``NHWC``, ``(2, 3)`` in ``NCHW``, ``1`` for intervals in ``NLC``.
        groups: the number of groups of channels that share their blocks; 1 for all.
            Default: every channel has its own.

    Returns:
        An array of the shape and dtype of `x`; see :func:`dropout_channels`.

    Raises:
        TypeError: `block_size` is not an int; see :func:`dropout_channels`.
        ValueError: `block_size` is below 1, or longer than a spatial axis; there are no
            spatial axes; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import drop_block
        >>> y = drop_block(mx.ones((1, 5, 6, 1)), 0.3, mx.random.key(1), 2, (1, 2))
        >>> (y[0, :, :, 0] > 0).astype(mx.uint8)
        array([[0, 0, 1, 1, 0, 0],
               [0, 1, 1, 1, 0, 0],
               [1, 1, 1, 1, 1, 1],
               [1, 1, 1, 1, 1, 1],
               [1, 1, 1, 1, 1, 1]], dtype=uint8)

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional
    networks", NeurIPS 2018. There, and in torchvision, blocks lie within the image, so
    corners are dropped less often than the middle, and overlaps are not counted, so the
    share is not `p`; timm's are cut at the border as here.
    """
    channels = channels_of(x, key, spatial_axes, groups)
    check_has_axes(channels.axes)
    block_size = as_block_size(block_size, x.shape, channels.axes)
    rate = channels.rate(p)
    if is_zero(rate) or x.size == 0:
        return x
    # A block begins at each seed. Seeds start block_size - 1 before the first position, so
    # that the same number of blocks can cover every position.
    formula = _formula(block_size ** len(channels.axes))
    seed_probability, scale = coefficients(formula, rate, x.dtype)
    mask_shape, seeds_shape = list(channels.mask_shape), list(channels.mask_shape)
    for axis in channels.axes:
        mask_shape[axis] = x.shape[axis]
        seeds_shape[axis] = x.shape[axis] + block_size - 1
    in_pairs = partial(_bernoulli_in_pairs, max(channels.axes) - x.ndim)
    seeds = channels.draw(in_pairs, key, seed_probability, shape=tuple(seeds_shape))
    dropped = _any_in_block(seeds, block_size, [axis + 1 for axis in channels.axes])
    if groups is not None:
        return affine(x, channels.mask((1 - dropped) * scale, tuple(mask_shape)))
    # This mask is as large as the input, so it is better if mx.compile fuses the two.
    return affine(x, ((1 - mx.squeeze(dropped, 0)) * scale).astype(x.dtype))


@lru_cache
def _formula(covering: int) -> Formula:
    """Returns the formula for blocks of which so many can cover a position."""
    return lambda p, module: (-module.expm1(module.log1p(-p) / covering), 1 / (1 - p))


def _bernoulli_in_pairs(axis: int, shape: Sequence[int], key: Key, p: mx.array) -> mx.array:
    """Draws 0 and 1, ``uint8``, in half the time, where `p` is constant along an axis.

    One random word, as a fraction ``u``, serves two neighbours along `axis`: the first is 1
    for ``u < p``, the second below ``p**2`` and from ``p`` up to ``p + (1 - p) * p``. Each
    is then 1 with probability `p`, and both are with ``p**2``.
    """
    length = shape[axis]
    half = list(shape)
    half[axis] = (length + 1) // 2
    n = math.prod(half)
    # The words of a split are raw bits, two for each key.
    words = mx.random.split(key, (n + 1) // 2).flatten()[:n].reshape(half)
    p = p.astype(mx.float32)
    first, both, either = (
        (words < _as_word(bound)).astype(mx.uint8) for bound in (p, p * p, p + (1 - p) * p)
    )
    pairs = mx.concatenate([first, either - first + both], axis=axis)
    return mx.split(pairs, [length], axis=axis)[0]


def _as_word(fraction: mx.array) -> mx.array:
    """Returns ``fraction * 2**32``, ``uint32``; for 1, the largest that float32 holds."""
    return mx.minimum(fraction * 2.0**32, 2.0**32 - 2**8).astype(mx.uint32)


def _any_in_block(seeds: mx.array, size: int, axes: Sequence[int]) -> mx.array:
    """Returns 1 where any of the next `size` seeds along each of `axes` is set, else 0."""
    # In one dimension every window is a shift of the whole, which MLX reads ten times
    # faster than slices along an axis. What runs past the end of a row is cut off last.
    line = mx.flatten(seeds)
    for axis in axes:
        stride, width = math.prod(seeds.shape[axis + 1 :]), 1
        while width < size:
            step = min(width, size - width)
            line = mx.maximum(line[: -step * stride], line[step * stride :])
            width += step
    end = mx.zeros((seeds.size - line.size,), dtype=mx.uint8)
    whole = mx.concatenate([line, end]).reshape(seeds.shape)
    inner = [slice(None)] * seeds.ndim
    for axis in axes:
        inner[axis] = slice(0, seeds.shape[axis] - size + 1)
    return whole[tuple(inner)]
