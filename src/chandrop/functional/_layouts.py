"""`dropout_channels` under the names of the layouts that people use."""

import mlx.core as mx

from chandrop.functional._arguments import check_rank
from chandrop.functional._dropout_channels import dropout_channels


def dropout(
    x: mx.array, p: float | mx.array, key: mx.array, *, groups: int | None = None
) -> mx.array:
    """Drops elements, each on its own.

    Args:
        x: an array of any shape, of a floating-point or complex dtype.
        p: the probability of dropping an element: a number in ``[0, 1]``, or an array that
            broadcasts to the shape of `x`.
        key: a key ``(2,)``; or one for each index of axis 0, ``(B, 2)``; or one for all of
            them alike, ``(1, 2)``.
        groups: how many groups of neighbours along the last axis share a draw each.
            Default: every element has its own.

    Returns:
        Shape and dtype of `x`: ``dropout_channels(x, p, key, ())``.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout
        >>> dropout(mx.ones((8, 128)), 0.5, mx.random.key(0)).shape
        (8, 128)

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014.
    """
    return dropout_channels(x, p, key, (), groups=groups)


def dropout1d(
    x: mx.array, p: float | mx.array, key: mx.array, *, groups: int | None = None
) -> mx.array:
    """Drops whole channels of sequences, channels last.

    Args:
        x: ``NLC`` or ``LC``, of a floating-point or complex dtype.
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, C)``, such as ``(C,)``.
        key: a key ``(2,)``; or for ``NLC`` one for each example, ``(N, 2)``, or one for
            all of them alike, ``(1, 2)``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.

    Returns:
        Shape and dtype of `x`: ``dropout_channels(x, p, key, (-2,))``.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: `x` has another rank; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout1d
        >>> dropout1d(mx.ones((8, 100, 16)), 0.5, mx.random.key(0)).shape
        (8, 100, 16)

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2.
    """
    check_rank(x, 1)
    return dropout_channels(x, p, key, (-2,), groups=groups)


def dropout2d(
    x: mx.array, p: float | mx.array, key: mx.array, *, groups: int | None = None
) -> mx.array:
    """Drops whole channels of images, channels last.

    Args:
        x: ``NHWC`` or ``HWC``, of a floating-point or complex dtype. For channels first:
            ``dropout_channels(x, p, key, (2, 3))``.
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, C)``, such as ``(C,)``.
        key: a key ``(2,)``; or for ``NHWC`` one for each example, ``(N, 2)``, or one for
            all of them alike, ``(1, 2)``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.

    Returns:
        Shape and dtype of `x`: ``dropout_channels(x, p, key, (-3, -2))``.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: `x` has another rank; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout2d
        >>> dropout2d(mx.ones((8, 28, 28, 16)), 0.5, mx.random.key(0)).shape
        (8, 28, 28, 16)

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2.
    """
    check_rank(x, 2)
    return dropout_channels(x, p, key, (-3, -2), groups=groups)


def dropout3d(
    x: mx.array, p: float | mx.array, key: mx.array, *, groups: int | None = None
) -> mx.array:
    """Drops whole channels of volumes, channels last.

    Args:
        x: ``NDHWC`` or ``DHWC``, of a floating-point or complex dtype.
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, 1, C)``, such as ``(C,)``.
        key: a key ``(2,)``; or for ``NDHWC`` one for each example, ``(N, 2)``, or one for
            all of them alike, ``(1, 2)``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.

    Returns:
        Shape and dtype of `x`: ``dropout_channels(x, p, key, (-4, -3, -2))``.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: `x` has another rank; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout3d
        >>> dropout3d(mx.ones((2, 8, 28, 28, 16)), 0.5, mx.random.key(0)).shape
        (2, 8, 28, 28, 16)

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2.
    """
    check_rank(x, 3)
    return dropout_channels(x, p, key, (-4, -3, -2), groups=groups)
