from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mlx.core as mx

from chandrop._affine import affine
from chandrop._checks import is_zero
from chandrop.functional._channels import channels_of
from chandrop.functional._coefficients import coefficients
from chandrop.functional._dropout_channels import Rate
from chandrop.random import Key


def gaussian_dropout_channels(
    x: mx.array,
    p: Rate,
    key: Key,
    spatial_axes: int | Sequence[int],
    *,
    groups: int | None = None,
) -> mx.array:
    """Multiplies channels by normal draws of mean 1 and variance ``p / (1 - p)``.

    The multiplier has the mean and the variance that it has in :func:`dropout_channels`.
    Args, returns and raises as there; `p` = 1, where the variance would be infinite,
    returns zeros.

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
    channels = channels_of(x, key, spatial_axes, groups)
    rate = channels.rate(p)
    if is_zero(rate):
        return x
    mean, deviation = coefficients(_formula, rate, x.dtype)
    drawn = channels.draw(_normal, key)
    return affine(x, channels.mask(mean + drawn * deviation))


def _normal(shape: Sequence[int], key: Key) -> mx.array:
    return mx.random.normal(shape, key=key)


def _formula(p: Any, module: ModuleType) -> tuple[Any, ...]:
    return 1.0, module.sqrt(p / (1 - p))
