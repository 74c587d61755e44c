from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mlx.core as mx

from chandrop._affine import affine
from chandrop._checks import is_zero
from chandrop.functional._bernoulli import bernoulli
from chandrop.functional._channels import channels_of
from chandrop.functional._coefficients import coefficients
from chandrop.functional._dropout_channels import Rate
from chandrop.random import Key

# SELU saturates to -ALPHA, the product of its two constants.
ALPHA = 1.6732632423543772 * 1.0507009873554805


def alpha_dropout_channels(
    x: mx.array,
    p: Rate,
    key: Key,
    spatial_axes: int | Sequence[int],
    *,
    groups: int | None = None,
) -> mx.array:
    """Sets channels to the value at which SELU saturates, and rescales all channels.

    For networks of ``mlx.nn.selu``: an input of mean 0 and variance 1 keeps both, over
    keys. With ``m`` 1 where :func:`dropout_channels` keeps and 0 where it drops, ``c =
    -1.7581`` and ``a = ((1 - p) * (1 + p * c**2)) ** -0.5``, the output is
    ``a * (x * m + c * (1 - m) - p * c)``.

    Args, returns and raises as :func:`dropout_channels`; `p` = 1 returns zeros.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import alpha_dropout_channels
        >>> x = mx.random.normal((64, 32, 64), key=mx.random.key(1))
        >>> y = alpha_dropout_channels(x, 0.2, mx.random.key(0), spatial_axes=1)
        >>> bool(abs(y.mean()) < 0.05) and bool(abs(y.var() - 1) < 0.05)
        True

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural networks",
    NeurIPS 2017; for whole channels, torch's ``feature_alpha_dropout``.
    """
    channels = channels_of(x, key, spatial_axes, groups)
    rate = channels.rate(p)
    if is_zero(rate):
        return x
    scale, raised, lowered = coefficients(_formula, rate, x.dtype)
    kept = channels.draw(bernoulli, key, 1 - rate)
    return affine(x, channels.mask(kept * scale), channels.mask(kept * raised - lowered))


def _formula(p: Any, module: ModuleType) -> tuple[Any, ...]:
    scale = 1 / module.sqrt((1 - p) * (1 + p * ALPHA**2))
    return scale, ALPHA * scale, ALPHA * scale * (1 - p)
