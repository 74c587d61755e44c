from collections.abc import Sequence

import mlx.core as mx

from chandrop.functional._affine import affine
from chandrop.functional._arguments import axes_and_mask_shape, check_dtype, check_input
from chandrop.functional._groups import channel_axis
from chandrop.functional._keep_channels import check_one_key, keep_channels, number_kept
from chandrop.functional._kept import among_zeros


def thin_dropout_channels(
    x: mx.array, p: float, key: mx.array, spatial_axes: int | Sequence[int]
) -> mx.array:
    r"""Keeps a fixed number of channels, the same for the whole batch, and scales them.

    Of :math:`C` channels :math:`k = \max(1, \mathrm{round}((1-p) C))` are kept, and scaled
    by :math:`\frac{C}{k}`, so the expected value over keys is `x`. What a whole batch drops
    need not be computed: :class:`chandrop.nn.ThinSequential` gives the same outputs and
    gradients as layers with this function between them, in less time.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        p: the share of channels to drop: a number in ``[0, 1)``.
        key: one key, ``(2,)`` or ``(1, 2)``.
        spatial_axes: the axes that are not the channels', nor the batch's: an int or a
            sequence of ints, negative ones counted from the last. The channels are the last
            axis that is not among them. All axes but the first make the examples of a batch
            what is kept: the mask of :func:`thin_drop_path`.

    Returns:
        An array of the shape and dtype of `x`. A dropped value is ``x * 0``; see
        :func:`dropout_channels`.

    Raises:
        TypeError: `x` is not an array, or is one of integers or bools; `p` is not a number;
            `key` is not a ``uint32`` array.
        ValueError: `p` is not in ``[0, 1)``; `key` is not one key; an axis is out of range
            or given twice, or all are spatial.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import thin_dropout_channels
        >>> y = thin_dropout_channels(mx.ones((2, 3, 4)), 0.5, mx.random.key(0), 1)
        >>> y[:, 0].tolist()
        [[0.0, 2.0, 0.0, 2.0], [0.0, 2.0, 0.0, 2.0]]

    Source: Graham, Reizenstein and Robinson, "Efficient batchwise dropout training using
    submatrices", 2015: one mask for a batch; there the number of channels is drawn, too.
    """
    check_input(x)
    check_dtype(x.dtype)
    check_one_key(key)
    axes, mask_shape = axes_and_mask_shape(x.shape, spatial_axes)
    axis = channel_axis(len(mask_shape), axes)
    channels = x.shape[axis]
    if number_kept(channels, p) == channels:
        return x
    kept = keep_channels(key, channels, p)
    mask = among_zeros(kept_scale(kept, channels, x.dtype), kept, 0, channels)
    return affine(x, mask.reshape([channels if i == axis else 1 for i in range(x.ndim)]))


def kept_scale(kept: mx.array, channels: int, dtype: mx.Dtype) -> mx.array:
    """Gives what each of the channels that are kept is multiplied by, ``(k,)``."""
    return mx.full(kept.shape, channels / kept.shape[0], dtype=dtype)
