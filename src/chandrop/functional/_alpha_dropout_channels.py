from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import mlx.core as mx

from chandrop.functional._noise import Noise, with_noise
from chandrop.random._samples import bernoulli

# What SELU saturates to is -ALPHA, the product of its two constants.
ALPHA = 1.6732632423543772 * 1.0507009873554805


def alpha_dropout_channels(
    x: mx.array,
    p: float | mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    *,
    groups: int | None = None,
) -> mx.array:
    r"""Sets channels to what SELU saturates to with probability `p`, and rescales all.

    For networks of ``mlx.nn.selu``: an input of mean 0 and variance 1 keeps both, over
    keys. With :math:`\alpha' = -1.7581`, :math:`m` the draw of :func:`dropout_channels` and
    :math:`a = ((1 - p)(1 + p \alpha'^2))^{-1/2}`, the output is
    :math:`a (x m + \alpha' (1 - m) - p \alpha')`.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        p: the probability of dropping a channel; see :func:`dropout_channels`. 0 is the
            identity, 1 gives zeros.
        key: a key ``(2,)``, one for each example ``(B, 2)``, or one for all examples alike
            ``(1, 2)``; see :func:`dropout_channels`.
        spatial_axes: the axes that share one draw: an int or a sequence of ints.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.

    Returns:
        An array of the shape and dtype of `x`. Inf and nan in a dropped channel become nan.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import alpha_dropout_channels
        >>> x = mx.random.normal((64, 32, 64), key=mx.random.key(1))
        >>> y = alpha_dropout_channels(x, 0.2, mx.random.key(0), spatial_axes=1)
        >>> bool(abs(y.mean()) < 0.05) and bool(abs(y.var() - 1) < 0.05)
        True

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural networks",
    NeurIPS 2017, section "New dropout technique"; for whole channels, torch's
    ``feature_alpha_dropout``.
    """
    return with_noise(_ALPHA_DROPOUT, x, p, key, spatial_axes, groups)


def _coefficients(p: Any, module: ModuleType) -> tuple[Any, ...]:
    scale = 1 / module.sqrt((1 - p) * (1 + p * ALPHA**2))
    return 1 - p, scale, ALPHA * scale, ALPHA * scale * (1 - p)


def _numbers(
    draw: Callable[..., mx.array],
    keep_probability: mx.array,
    scale: mx.array,
    raised: mx.array,
    lowered: mx.array,
) -> tuple[mx.array, mx.array]:
    kept = draw(bernoulli, keep_probability)
    return kept * scale, kept * raised - lowered


_ALPHA_DROPOUT = Noise(_coefficients, _numbers)
