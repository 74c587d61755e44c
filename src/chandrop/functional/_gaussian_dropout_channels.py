from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import mlx.core as mx

from chandrop.functional._noise import Noise, with_noise
from chandrop.random._samples import normal


def gaussian_dropout_channels(
    x: mx.array,
    p: float | mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    *,
    groups: int | None = None,
) -> mx.array:
    r"""Multiplies channels by draws from :math:`N(1, \frac{p}{1-p})`.

    The mean and the variance of the multiplier are those of :func:`dropout_channels`.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        p: the rate of the dropout whose variance the noise has; see
            :func:`dropout_channels`. 0 is the identity. 1 gives zeros, as it does there,
            since the variance would be infinite.
        key: a key ``(2,)``, one for each example ``(B, 2)``, or one for all examples alike
            ``(1, 2)``; see :func:`dropout_channels`.
        spatial_axes: the axes that share one draw: an int or a sequence of ints.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.

    Returns:
        An array of the shape and dtype of `x`.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import gaussian_dropout_channels
        >>> x = mx.ones((2, 3, 4))
        >>> y = gaussian_dropout_channels(x, 0.2, mx.random.key(0), spatial_axes=1)
        >>> mx.array_equal(y[:, 0], y[:, 2]).item()
        True

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014, section 10; Keras'
    ``GaussianDropout``. The draw is ``mx.random.normal(mask_shape, key=key)``.
    """
    return with_noise(_GAUSSIAN_DROPOUT, x, p, key, spatial_axes, groups)


def _coefficients(p: Any, module: ModuleType) -> tuple[Any, ...]:
    return 1.0, module.sqrt(p / (1 - p))


def _numbers(
    draw: Callable[..., mx.array], mean: mx.array, deviation: mx.array
) -> tuple[mx.array]:
    return (mean + draw(normal) * deviation,)


_GAUSSIAN_DROPOUT = Noise(_coefficients, _numbers)
