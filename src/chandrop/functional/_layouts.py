"""Shorthands of :func:`dropout_channels` for channels-last layouts."""

import mlx.core as mx

from chandrop._checks import check_rank
from chandrop.functional._dropout_channels import Rate, dropout_channels
from chandrop.random import Key


def dropout(x: mx.array, p: Rate, key: Key, *, groups: int | None = None) -> mx.array:
    """Drops elements independently: ``dropout_channels(x, p, key, ())``.

    `groups` counts the groups of neighbours along the last axis that share a draw. Args,
    returns and raises as :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout
        >>> dropout(mx.ones((8, 128)), 0.5, mx.random.key(0)).shape
        (8, 128)

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014.
    """
    return dropout_channels(x, p, key, (), groups=groups)


def dropout1d(x: mx.array, p: Rate, key: Key, *, groups: int | None = None) -> mx.array:
    """Drops whole channels of sequences: ``dropout_channels(x, p, key, -2)``.

    As :func:`dropout2d`, for ``NLC`` or ``LC``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout1d
        >>> dropout1d(mx.ones((8, 100, 16)), 0.5, mx.random.key(0)).shape
        (8, 100, 16)
    """
    check_rank(x, 1)
    return dropout_channels(x, p, key, (-2,), groups=groups)


def dropout2d(x: mx.array, p: Rate, key: Key, *, groups: int | None = None) -> mx.array:
    """Drops whole channels of images: ``dropout_channels(x, p, key, (-3, -2))``.

    Args:
        x: ``NHWC`` or ``HWC``. For channels first:
            ``dropout_channels(x, p, key, (2, 3))``.
        p: as for :func:`dropout_channels`. One rate per channel has shape ``(C,)``.
        key: one key ``(2,)``; for ``NHWC`` also one for each image ``(N, 2)``, or one for
            all images alike ``(1, 2)``.
        groups: as for :func:`dropout_channels`.

    Returns:
        An array of the shape and dtype of `x`.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: `x` has another rank; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout2d
        >>> dropout2d(mx.ones((8, 28, 28, 16)), 0.5, mx.random.key(0)).shape
        (8, 28, 28, 16)

    Source: "spatial dropout"; see :func:`dropout_channels`.
    """
    check_rank(x, 2)
    return dropout_channels(x, p, key, (-3, -2), groups=groups)


def dropout3d(x: mx.array, p: Rate, key: Key, *, groups: int | None = None) -> mx.array:
    """Drops whole channels of volumes: ``dropout_channels(x, p, key, (-4, -3, -2))``.

    As :func:`dropout2d`, for ``NDHWC`` or ``DHWC``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout3d
        >>> dropout3d(mx.ones((8, 6, 28, 28, 16)), 0.5, mx.random.key(0)).shape
        (8, 6, 28, 28, 16)
    """
    check_rank(x, 3)
    return dropout_channels(x, p, key, (-4, -3, -2), groups=groups)
