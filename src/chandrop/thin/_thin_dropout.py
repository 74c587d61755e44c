from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from chandrop._affine import affine
from chandrop._checks import (
    as_axes,
    axes_and_mask_shape,
    channel_axis,
    check_dtype,
    check_input,
)
from chandrop.random import Key
from chandrop.thin._keep_channels import check_one_key, keep_channels, number_kept
from chandrop.thin._kept import among_zeros
from chandrop.thin._thin_layer import ThinLayer


def thin_dropout_channels(
    x: mx.array, p: float, key: Key, spatial_axes: int | Sequence[int]
) -> mx.array:
    """Keeps a fixed number of channels, the same for the whole batch, and scales them.

    Of ``C`` channels ``k = max(1, round((1 - p) * C))`` are kept and scaled by ``C / k``,
    so the mean over keys is `x`. Channels that a whole batch drops need not be computed:
    :class:`ThinSequential` returns the same outputs and gradients as layers with this
    function between them, in less time.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        p: the share of channels to drop: a number in ``[0, 1)``.
        key: one key, ``(2,)`` or ``(1, 2)``.
        spatial_axes: the axes that are neither the channels' nor the batch's: an int or a
            sequence of ints. The channels are the last axis that is not among them. With
            all axes but the first, the examples of a batch are kept or dropped: the mask of
            :func:`thin_drop_path`.

    Returns:
        An array of the shape and dtype of `x`. A dropped value is ``x * 0``; see
        :func:`chandrop.functional.dropout_channels`.

    Raises:
        TypeError: `x` is not an array, or holds integers or bools; `p` is not a number;
            `key` is not a ``uint32`` array.
        ValueError: `p` is not in ``[0, 1)``; `key` is not one key; an axis is out of range
            or repeated, or all are spatial.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.thin import thin_dropout_channels
        >>> y = thin_dropout_channels(mx.ones((2, 3, 4)), 0.5, mx.random.key(0), 1)
        >>> y[:, 0].tolist()
        [[0.0, 2.0, 0.0, 2.0], [0.0, 2.0, 0.0, 2.0]]

    Source: Graham, Reizenstein and Robinson, "Efficient batchwise dropout training using
    submatrices", 2015: one mask for a batch, and there the number kept is drawn, too.
    """
    check_input(x)
    check_dtype(x.dtype)
    check_one_key(key)
    axes, mask_shape = axes_and_mask_shape(x.shape, as_axes(spatial_axes))
    axis = channel_axis(len(mask_shape), axes)
    channels = x.shape[axis]
    if number_kept(channels, p) == channels:
        return x
    kept = keep_channels(key, channels, p)
    mask = among_zeros(kept_scale(kept, channels, x.dtype), kept, 0, channels)
    return affine(x, mask.reshape([channels if i == axis else 1 for i in range(x.ndim)]))


def kept_scale(kept: mx.array, channels: int, dtype: mx.Dtype) -> mx.array:
    """Returns what each kept channel is multiplied by, ``(k,)``."""
    return mx.full(kept.shape, channels / kept.shape[0], dtype=dtype)


class ThinDropout(ThinLayer):
    """Keeps a fixed number of channels, the same for the whole batch, channels last.

    In a :class:`ThinSequential` the channels that it drops are not computed. Anywhere else
    it multiplies them by 0, with the same result; see :func:`thin_dropout_channels`.

    Shape:
        Input and output: any shape whose last axis holds the channels, of a floating-point
        or complex dtype.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.thin import ThinDropout
        >>> y = ThinDropout(0.75)(mx.ones((8, 28, 28, 16)))
        >>> (y != 0).sum(-1).max().item()
        4
    """

    on_channels = "multiplies"
    _draws_batches = True

    def __init__(self, p: float = 0.5, *, key: Key | None = None):
        """Creates a layer in training mode.

        Args:
            p: the share of channels to drop: a number in ``[0, 1)``. Of ``C`` channels
                ``max(1, round((1 - p) * C))`` are kept. Default: 0.5.
            key: the initial key, ``(2,)``. At the call, and by :func:`functional_call` or
                :func:`rekey`, the layer takes one key, not one for each example.

        Raises:
            TypeError: `p` is not a number; `key` is not a ``uint32`` array.
            ValueError: `p` is not in ``[0, 1)``; `key` is not one key.
        """
        super().__init__(p, key=key)

    def draw(self, x: mx.array, key: Key) -> mx.array:
        check_input(x)
        check_has_channels(x)
        return thin_dropout_channels(x, self.p, key, ())

    def _check(self, x: Any, key: Key | None) -> None:
        super()._check(x, key)
        check_has_channels(x)

    def _keeps_all(self, x: Any = None) -> bool:
        if isinstance(x, mx.array) and x.ndim:
            x = x.shape[-1]
        return super()._keeps_all(x)

    def _constant_axes(self, ndim: int) -> range:
        return range(ndim - 1)


def check_has_channels(x: mx.array) -> None:
    """Raises for a scalar."""
    if x.ndim == 0:
        raise ValueError(
            "Received a scalar. Expected an input whose last axis holds the channels."
        )
