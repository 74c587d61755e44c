from collections.abc import Sequence

import mlx.core as mx

from chandrop.functional._arguments import (
    as_rate,
    axes_and_mask_shape,
    check_dtype,
    check_keys,
    check_rate_shape,
)
from chandrop.random._bernoulli import bernoulli


def channel_mask(
    shape: Sequence[int],
    p: float | mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    dtype: mx.Dtype = mx.float32,
) -> mx.array:
    r"""Draws what :func:`dropout_channels` multiplies by: 0 or :math:`\frac{1}{1-p}`.

    Args:
        shape: the shape of the input to be masked.
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to the mask's shape (a rate per channel, or one traced rate). An
            array is used as float32, so its mask can differ from the same number's in the
            last bit. Its values are not checked, since that would evaluate it: nan gives
            nan, and what lies outside ``[0, 1]`` acts as clipped.
        key: a key ``(2,)``; or a batch of keys ``(B, 2)`` for a `shape` that begins with
            ``B``, which masks example ``i`` by key ``i`` alone; or ``(1, 2)``, one key that
            masks all examples alike. One of :func:`chandrop.random.balanced_keys` has 6
            words in place of 2.
        spatial_axes: the axes of `shape` along which the mask is one value: an int or a
            sequence of ints, negative ones counted from the last. A batch of keys needs
            axis 0 not to be among them.
        dtype: a floating-point or complex dtype. A scale past its range is inf.

    Returns:
        The mask: `shape` with 1 at the spatial axes, and at axis 0 if the key is for all
        examples, of dtype `dtype`.

    Raises:
        TypeError: `p` is neither a real number nor an ``mx.array``; `key` is not a
            ``uint32`` array; `dtype` is an integer's or bool.
        ValueError: `p` is outside ``[0, 1]`` or nan, or does not broadcast; an axis is out
            of range or given twice; `key` has the wrong shape or batch.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import channel_mask
        >>> mask = channel_mask((8, 28, 28, 16), 0.5, mx.random.key(0), (1, 2))
        >>> mask.shape
        (8, 1, 1, 16)
        >>> sorted(set(mask.flatten().tolist()))
        [0.0, 2.0]

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015. The draw is ``mx.random.bernoulli(1 - p,
    mask_shape, key=key)``, that of ``mlx.nn.Dropout2d``.
    """
    check_dtype(dtype)
    rate = as_rate(p)
    axes, mask_shape = axes_and_mask_shape(shape, spatial_axes)
    check_keys(key, shape, axes)
    if isinstance(rate, mx.array):
        check_rate_shape(rate, mask_shape)
    keep_probability, scale = _keep_probability_and_scale(rate, dtype)
    mask = _draw(keep_probability, mask_shape, key) * scale
    # mx.compile would fuse the mask's arithmetic into the loop over the input and repeat
    # it for every element (on the CPU, 13 times slower after a relu), but it fuses nothing
    # across a change of shape. Hence the draw's extra axis.
    return mx.squeeze(mask.astype(dtype), 0)


def _keep_probability_and_scale(
    rate: float | mx.array, dtype: mx.Dtype
) -> tuple[mx.array, mx.array]:
    if isinstance(rate, mx.array):
        return 1 - rate, mx.where(rate == 1, 0.0, 1 / (1 - rate))
    # Slices of one array, since MLX writes a lone number into the source of the kernel that
    # it compiles: one more run of the compiler for every rate, and in old MLX with too few
    # digits, so that compiled and eager would differ.
    scale = 0.0 if rate == 1 else 1 / (1 - rate)
    numbers = mx.array([1 - rate, scale])
    if dtype == mx.float64:
        return numbers[:1], mx.array(scale, dtype=dtype)
    return numbers[:1], numbers[1:]


def _draw(
    keep_probability: mx.array, mask_shape: tuple[int, ...], key: mx.array
) -> mx.array:
    """Draws what is kept: bools of shape ``(1, *mask_shape)``."""
    # RandomBits has no derivative, so a key that is being differentiated must not reach it.
    key = mx.stop_gradient(key)
    if key.ndim == 1:
        return bernoulli(keep_probability, (1, *mask_shape), key)
    # MLX divides by the number of keys.
    if mask_shape[0] == 0:
        return mx.zeros((1, *mask_shape), dtype=mx.bool_)
    one_rate = keep_probability.ndim < len(mask_shape) or keep_probability.shape[0] == 1
    if key.shape[0] == 1 and one_rate:
        return bernoulli(keep_probability, (1, 1, *mask_shape[1:]), key[0])
    keys = mx.broadcast_to(key, (mask_shape[0], key.shape[1]))
    return mx.vmap(
        lambda keep, key: bernoulli(keep, (1, *mask_shape[1:]), key), out_axes=1
    )(mx.broadcast_to(keep_probability, mask_shape), keys)
