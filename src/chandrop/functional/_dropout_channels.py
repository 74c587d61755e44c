from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import mlx.core as mx

from chandrop.functional._noise import Noise, with_noise
from chandrop.random._samples import bernoulli


def dropout_channels(
    x: mx.array,
    p: float | mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    *,
    groups: int | None = None,
) -> mx.array:
    r"""Zeroes channels with probability `p` and scales the rest by :math:`\frac{1}{1-p}`.

    One draw serves all of `spatial_axes`, and every other axis has its own: with
    ``spatial_axes=(1, 2)`` each channel of each ``NHWC`` image is kept or dropped as a
    whole; with ``()`` each element is; with all axes but the first each example is, which
    is stochastic depth. The expected value over keys is `x`.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to the mask's shape (a rate per channel, or one traced rate). An
            array is used as float32, so its mask can differ from the same number's in the
            last bit. Its values are not checked, since that would evaluate it: nan gives
            nan, and what lies outside ``[0, 1]`` acts as clipped.
        key: a key ``(2,)``; or a batch of keys ``(B, 2)`` for an `x` whose axis 0 has
            length ``B``, so that example ``i`` is masked by key ``i`` alone, however the
            batch is cut; or ``(1, 2)``, one key that masks all examples alike. One of
            :func:`chandrop.random.balanced_keys` has 6 words in place of 2. Two layers of
            one shape with one key drop the same channels: give each its own, as
            ``chandrop.random.fold_in(key, i)``.
        spatial_axes: the axes that share one draw: an int or a sequence of ints, negative
            ones counted from the last. A batch of keys needs axis 0 not to be among them.
        groups: how many groups of channels share a draw each, as in a convolution with
            ``groups``: a divisor of the number of channels, which are the last axis that is
            not spatial. `p` then has a rate for each group. Default: every channel has its
            own draw.

    Returns:
        An array of the shape and dtype of `x`. A dropped value is ``x * 0``: inf and nan
        in a dropped channel become nan, as in ``mlx.nn`` and torch. The gradient with
        respect to `x` is the mask; `p` and `key` have none.

    Raises:
        TypeError: `x` is not an array, or is one of integers or bools; `p` is neither a
            real number nor an ``mx.array``, or is a key; `key` is not a ``uint32`` array;
            `groups` is not an int.
        ValueError: `p` is outside ``[0, 1]`` or nan, or does not broadcast; an axis is out
            of range or given twice; `key` has the wrong shape or batch; `groups` does not
            divide the channels.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout_channels
        >>> x = mx.ones((2, 3, 4))
        >>> y = dropout_channels(x, 0.5, mx.random.key(0), spatial_axes=1)
        >>> y[0].tolist()
        [[0.0, 2.0, 2.0, 0.0], [0.0, 2.0, 2.0, 0.0], [0.0, 2.0, 2.0, 0.0]]
        >>> mx.array_equal(y, dropout_channels(x, 0.5, mx.random.key(0), 1)).item()
        True

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2; for all axes but the first,
    Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV 2016.
    """
    return with_noise(DROPOUT, x, p, key, spatial_axes, groups)


def _coefficients(p: Any, module: ModuleType) -> tuple[Any, ...]:
    return 1 - p, 1 / (1 - p)


def _numbers(
    draw: Callable[..., mx.array], keep_probability: mx.array, scale: mx.array
) -> tuple[mx.array]:
    return (draw(bernoulli, keep_probability) * scale,)


DROPOUT = Noise(_coefficients, _numbers)
