from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from chandrop.functional._affine import affine
from chandrop.functional._arguments import (
    as_positive,
    check_broadcasts,
    check_real_array,
)
from chandrop.functional._channels import channels_of
from chandrop.random._samples import uniform


def concrete_dropout_channels(
    x: mx.array,
    logit: mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    *,
    temperature: float = 0.1,
) -> mx.array:
    r"""Drops channels by relaxed draws, so that the rate has a gradient and is learned.

    With :math:`u` uniform and :math:`p = \sigma(\text{logit})`, a channel is multiplied by
    :math:`\frac{1 - z}{1 - p}`, where :math:`z = \sigma((\text{logit} + \log u -
    \log(1 - u)) / \text{temperature})` is near 0 or 1. Add :func:`concrete_regularizer` to
    the loss: without it, the rate goes to 0.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        logit: :math:`\log\frac{p}{1-p}` of the rate :math:`p`: an array that broadcasts to
            the mask's shape, ``()`` for one rate, ``(C,)`` for a rate per channel. It is
            used as float32, and up to 88, where the scale is no longer finite. Its gradient
            is that of the relaxed draws.
        key: a key ``(2,)``, one for each example ``(B, 2)``, or one for all examples alike
            ``(1, 2)``; see :func:`dropout_channels`.
        spatial_axes: the axes that share one draw: an int or a sequence of ints.
        temperature: how far from 0 and 1 the relaxed draws are: a number above 0. The
            smaller, the nearer to :func:`dropout_channels`, and the larger the variance of
            the gradient.

    Returns:
        An array of the shape and dtype of `x`. Its mean over keys is not exactly `x`, as
        that of :math:`z` is not exactly `p`.

    Raises:
        TypeError: `logit` is not a real ``mx.array``, or `temperature` not a number; see
            :func:`dropout_channels`.
        ValueError: `logit` does not broadcast, or `temperature` is not above 0; see
            :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import concrete_dropout_channels
        >>> x, key = mx.ones((8, 28, 28, 16)), mx.random.key(0)
        >>> def loss(logit):
        ...     return (concrete_dropout_channels(x, logit, key, (1, 2)) ** 2).mean()
        >>> mx.grad(loss)(mx.array(-1.0)).item() > 0
        True

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017, equation 5; Maddison,
    Mnih and Teh, "The concrete distribution", ICLR 2017.
    """
    channels = channels_of(x, key, spatial_axes)
    temperature = as_positive(temperature, "temperature")
    logit = as_logit(logit)
    check_broadcasts(logit, "logit", channels.mask_shape)
    drawn = channels.draw(uniform)
    # sigmoid(-a) in place of 1 - sigmoid(a), which would round off what is left.
    kept = mx.sigmoid((mx.log((1 - drawn) / drawn) - logit) / temperature)
    return affine(x, channels.mask(kept * (1 + mx.exp(logit)), x.dtype))


def as_logit(logit: Any) -> mx.array:
    """Gives `logit` as float32."""
    if not isinstance(logit, mx.array):
        raise TypeError(
            f"Received logit of type {type(logit).__name__}. Expected an mx.array of "
            "log(p / (1 - p)): for p = 0.1, mx.array(-2.197)."
        )
    check_real_array(logit, "logit")
    array: mx.array = logit
    return array.astype(mx.float32)
