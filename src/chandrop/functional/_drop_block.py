import math
from collections.abc import Sequence

import mlx.core as mx

from chandrop.functional._affine import affine
from chandrop.functional._arguments import check_rank, is_zero
from chandrop.functional._channels import channels_of
from chandrop.functional._coefficients import coefficients_of
from chandrop.random._as_integer import as_integer
from chandrop.random._samples import bernoulli_in_pairs


def drop_block2d(
    x: mx.array,
    p: float | mx.array,
    key: mx.array,
    block_size: int,
    *,
    groups: int | None = None,
) -> mx.array:
    r"""Zeroes square blocks of channels, in all a share of `p`, and scales the rest.

    Every position is dropped with probability `p`, at the border, too: blocks lie anywhere,
    and the border cuts them. So :math:`\frac{1}{1-p}` is the right scale everywhere, and
    the expected value over keys is `x`. To rescale by what a mask happened to keep would
    make the examples of a batch depend on one another.

    Args:
        x: ``NHWC`` or ``HWC``, of a floating-point or complex dtype. For channels first:
            ``mx.moveaxis(x, 1, -1)``, and back.
        p: the probability of dropping a position: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, C)``, such as ``(C,)``; see :func:`dropout_channels`.
        key: a key ``(2,)``; or for ``NHWC`` one for each example, ``(N, 2)``, or one for
            all of them alike, ``(1, 2)``.
        block_size: the side of a block in pixels, at most the height and the width. 1 is
            element-wise dropout.
        groups: how many groups of channels share their blocks; 1 for all. Default: every
            channel has its own.

    Returns:
        An array of the shape and dtype of `x`; see :func:`dropout_channels`.

    Raises:
        TypeError: `block_size` is not an int; see :func:`dropout_channels`.
        ValueError: `block_size` is below 1, or larger than the image; `x` has another rank;
            see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import drop_block2d
        >>> y = drop_block2d(mx.ones((1, 5, 6, 1)), 0.3, mx.random.key(1), block_size=2)
        >>> (y[0, :, :, 0] > 0).astype(mx.uint8)
        array([[0, 0, 1, 1, 0, 0],
               [0, 1, 1, 1, 0, 0],
               [1, 1, 1, 1, 1, 1],
               [1, 1, 1, 1, 1, 1],
               [1, 1, 1, 1, 1, 1]], dtype=uint8)

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional
    networks", NeurIPS 2018. There, and in torchvision, blocks lie within the image, so that
    corners are dropped less often than the middle, and overlaps are not counted, so that
    the share in all is not `p`; timm's are cut at the border as here.
    """
    check_rank(x, 2)
    return _drop_block(x, p, key, (-3, -2), block_size, groups)


def drop_block3d(
    x: mx.array,
    p: float | mx.array,
    key: mx.array,
    block_size: int,
    *,
    groups: int | None = None,
) -> mx.array:
    r"""Zeroes cubes of channels, in all a share of `p`, and scales the rest.

    Every position is dropped with probability `p`, those at the border too; see
    :func:`drop_block2d`.

    Args:
        x: ``NDHWC`` or ``DHWC``, of a floating-point or complex dtype.
        p: the probability of dropping a position: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, 1, C)``, such as ``(C,)``.
        key: a key ``(2,)``; or for ``NDHWC`` one for each example, ``(N, 2)``, or one for
            all of them alike, ``(1, 2)``.
        block_size: the side of a block in voxels, at most the depth, height and width.
        groups: how many groups of channels share their blocks; 1 for all. Default: every
            channel has its own.

    Returns:
        An array of the shape and dtype of `x`; see :func:`dropout_channels`.

    Raises:
        TypeError: `block_size` is not an int; see :func:`dropout_channels`.
        ValueError: `block_size` is below 1, or larger than the volume; `x` has another
            rank; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import drop_block3d
        >>> drop_block3d(mx.ones((2, 8, 8, 8, 4)), 0.1, mx.random.key(0), 3).shape
        (2, 8, 8, 8, 4)

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional
    networks", NeurIPS 2018; torchvision's ``drop_block3d``.
    """
    check_rank(x, 3)
    return _drop_block(x, p, key, (-4, -3, -2), block_size, groups)


def _drop_block(
    x: mx.array,
    p: float | mx.array,
    key: mx.array,
    spatial_axes: Sequence[int],
    block_size: int,
    groups: int | None,
) -> mx.array:
    channels = channels_of(x, key, spatial_axes, groups)
    rate = channels.rate(p)
    block_size = as_block_size(block_size, x.shape, channels.axes)
    if is_zero(p) or x.size == 0:
        return x
    # A block begins at each seed. There are seeds before the first pixel, so that every
    # pixel is covered by the blocks of as many seeds, as many as a block has pixels.
    seeds = block_size ** len(channels.axes)
    seed_probability, scale = coefficients_of(
        lambda p, module: (-module.expm1(module.log1p(-p) / seeds), 1 / (1 - p)),
        rate,
        x.dtype,
    )
    seeds_shape = list(channels.mask_shape)
    for axis in channels.axes:
        seeds_shape[axis] = x.shape[axis] + block_size - 1
    drawn = channels.draw(bernoulli_in_pairs, seed_probability, shape=tuple(seeds_shape))
    dropped = _any_in_block(drawn, block_size, [axis + 1 for axis in channels.axes])
    if groups is not None:
        return affine(x, channels.mask((1 - dropped) * scale, x.dtype))
    # This mask is as large as the input, so mx.compile had better fuse the two.
    return affine(x, ((1 - mx.squeeze(dropped, 0)) * scale).astype(x.dtype))


def as_block_size(
    block_size: int, shape: Sequence[int] = (), axes: Sequence[int] = ()
) -> int:
    """Gives a block size as an int, which fits into the axes of an input."""
    size = as_integer(block_size, "block_size")
    if size < 1:
        raise ValueError(f"Received block_size = {block_size}. Expected at least 1.")
    lengths = [shape[axis] for axis in axes]
    # An empty input has no pixel to drop.
    if 0 not in shape and any(size > n for n in lengths):
        raise ValueError(
            f"Received block_size = {block_size} for an input of "
            f"{'x'.join(map(str, lengths))}, without batch and channels. Expected at most "
            f"{min(lengths)}."
        )
    return size


def _any_in_block(seeds: mx.array, size: int, axes: Sequence[int]) -> mx.array:
    """Gives 1 where any of the next `size` seeds along each of `axes` is set, else 0."""
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
