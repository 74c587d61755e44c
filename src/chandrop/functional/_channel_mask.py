from collections.abc import Sequence

import mlx.core as mx

from chandrop.functional._arguments import check_dtype
from chandrop.functional._channels import Channels
from chandrop.functional._dropout_channels import DROPOUT
from chandrop.functional._noise import noise_of


def channel_mask(
    shape: Sequence[int],
    p: float | mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    dtype: mx.Dtype = mx.float32,
    *,
    groups: int | None = None,
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
        groups: how many groups of channels share a draw each; see :func:`dropout_channels`.

    Returns:
        The mask: `shape` with 1 at the spatial axes, at axis 0 if the key is for all
        examples, and at the channel axis for one group, of dtype `dtype`.

    Raises:
        TypeError: `p` is neither a real number nor an ``mx.array``; `key` is not a
            ``uint32`` array; `dtype` is an integer's or bool; `groups` is not an int.
        ValueError: `p` is outside ``[0, 1]`` or nan, or does not broadcast; an axis is out
            of range or given twice; `key` has the wrong shape or batch; `groups` does not
            divide the channels.

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
    channels = Channels(shape, key, spatial_axes, groups)
    (mask,) = noise_of(DROPOUT, channels, channels.rate(p), dtype)
    return mask
