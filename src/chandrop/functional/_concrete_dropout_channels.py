import math
import numbers
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from chandrop.functional._affine import affine
from chandrop.functional._arguments import (
    check_broadcasts,
    check_dtype,
    check_input,
    check_real_array,
)
from chandrop.functional._channels import Channels
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
            used as float32. Its gradient is that of the relaxed draws.
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
    check_input(x)
    check_dtype(x.dtype)
    check_temperature(temperature)
    channels = Channels(x.shape, key, spatial_axes, groups=None)
    logit = as_logit(logit)
    check_broadcasts(logit, "logit", channels.mask_shape)
    drawn = channels.draw(uniform)
    # sigmoid(-a) in place of 1 - sigmoid(a), which would round off what is left.
    kept = mx.sigmoid((mx.log((1 - drawn) / drawn) - logit) / temperature)
    return affine(x, channels.mask(kept * (1 + mx.exp(logit)), x.dtype))


def as_logit(logit: Any) -> mx.array:
    """Gives `logit` as float32."""
    check_real_array(logit, "logit")
    array: mx.array = logit
    return array.astype(mx.float32)


def check_temperature(temperature: Any) -> None:
    """Raises unless `temperature` is a number above 0."""
    if isinstance(temperature, bool) or not isinstance(temperature, numbers.Real):
        raise TypeError(
            f"Received temperature of type {type(temperature).__name__}. Expected a number "
            "above 0, such as 0.1."
        )
    number: Any = temperature
    if not 0 < number < math.inf:
        raise ValueError(
            f"Received temperature = {temperature}. Expected a number above 0, such as 0.1."
        )
