from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeAlias

import mlx.core as mx

from chandrop._affine import affine
from chandrop._checks import is_zero
from chandrop.functional._bernoulli import bernoulli
from chandrop.functional._channels import channels_of, channels_of_shape
from chandrop.functional._coefficients import coefficients
from chandrop.random import Key

# A dropout rate: a number in [0, 1], or an array of them.
Rate: TypeAlias = float | mx.array


def dropout_channels(
    x: mx.array,
    p: Rate,
    key: Key,
    spatial_axes: int | Sequence[int],
    *,
    groups: int | None = None,
) -> mx.array:
    """Zeroes channels with probability `p` and scales the rest by ``1 / (1 - p)``.

    All of `spatial_axes` share one draw; every other axis has its own. With
    ``spatial_axes=(1, 2)`` each channel of each ``NHWC`` image is kept or dropped as a
    whole, with ``()`` each element, with all axes but the first each example (stochastic
    depth). The mean over keys is `x`.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to the mask's shape (`x`'s, with 1 at the spatial axes). The values
            of an array are clipped to ``[0, 1]``, and nan returns nan. An array is
            converted to float32, so its mask can differ from the same number's in the last
            bit.
        key: one key ``(2,)``; or a batch of keys ``(B, 2)`` for an `x` whose axis 0 has
            length ``B``, so that key ``i`` alone masks example ``i``, however the batch is
            cut; or ``(1, 2)``, which masks all examples alike. Two layers of one shape with
            the same key drop the same channels: use ``fold_in(key, i)``.
        spatial_axes: the axes that share one draw: an int or a sequence of ints; negative
            ones count from the last. With a batch of keys, axis 0 may not be one of them.
        groups: the number of groups of neighbouring channels that share a draw, as in a
            grouped convolution. It divides the number of channels, which are the last axis
            that is not spatial; `p` then has a rate for each group. Default: every channel
            has its own draw.

    Returns:
        An array of the shape and dtype of `x`. A dropped value is ``x * 0``, so inf and nan
        become nan, as in ``mlx.nn`` and torch. The gradient with respect to `x` is the
        mask; `p` and `key` have none.

    Raises:
        TypeError: `x` is not an array, or holds integers or bools; `p` is not a real number
            or ``mx.array``, or is a key; `key` is not a ``uint32`` array; `groups` is not
            an int.
        ValueError: `p` is outside ``[0, 1]``, is nan, or does not broadcast; an axis is out
            of range or repeated; `key` has the wrong shape; `groups` does not divide the
            channels.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout_channels
        >>> y = dropout_channels(mx.ones((2, 3, 4)), 0.5, mx.random.key(0), spatial_axes=1)
        >>> y[0].tolist()
        [[0.0, 2.0, 2.0, 0.0], [0.0, 2.0, 2.0, 0.0], [0.0, 2.0, 2.0, 0.0]]

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2; for all axes but the first,
    Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV 2016.
    """
    channels = channels_of(x, key, spatial_axes, groups)
    rate = channels.rate(p)
    if is_zero(rate):
        return x
    # As in channel_mask: a function for both would be one more in every call of a layer.
    (scale,) = coefficients(_scale, rate, x.dtype)
    return affine(x, channels.mask(channels.draw(bernoulli, key, 1 - rate) * scale))


def channel_mask(
    shape: Sequence[int],
    p: Rate,
    key: Key,
    spatial_axes: int | Sequence[int],
    dtype: mx.Dtype = mx.float32,
    *,
    groups: int | None = None,
) -> mx.array:
    """Draws what :func:`dropout_channels` multiplies by: 0 or ``1 / (1 - p)``.

    Args:
        shape: the shape of the input; `p`, `key`, `spatial_axes` and `groups` as there.
        dtype: a floating-point or complex dtype. A scale beyond its range is inf.

    Returns:
        The mask: `shape` with 1 at the spatial axes, at axis 0 for a key ``(1, 2)``, and
        at the channel axis for one group. It is ``mx.random.bernoulli(1 - p, mask_shape,
        key=key) / (1 - p)``, the draw of ``mlx.nn.Dropout2d``.

    Raises:
        TypeError: `dtype` is an integer's or bool; see :func:`dropout_channels`.
        ValueError: see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import channel_mask
        >>> mask = channel_mask((8, 28, 28, 16), 0.5, mx.random.key(0), (1, 2))
        >>> mask.shape, sorted(set(mask.flatten().tolist()))
        ((8, 1, 1, 16), [0.0, 2.0])
    """
    channels = channels_of_shape(shape, dtype, key, spatial_axes, groups)
    rate = channels.rate(p)
    (scale,) = coefficients(_scale, rate, dtype)
    return channels.mask(channels.draw(bernoulli, key, 1 - rate) * scale)


def _scale(p: Any, module: ModuleType) -> tuple[Any]:
    return (1 / (1 - p),)
