"""Dropout for networks of ``mlx.nn.selu``, under the names of the layouts."""

from chandrop.functional import alpha_dropout_channels
from chandrop.nn._channel_layer import LayoutLayer


class AlphaDropout(LayoutLayer):
    r"""Sets elements to what SELU saturates to, and keeps mean and variance.

    Args:
        p: the probability of dropping each element: a number in ``[0, 1]``, or an array
            that broadcasts to the shape of the input. Default: ``0.5``.
        groups: how many groups of channels share a draw each. Default: every element has
            its own.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: any shape, of a floating-point or complex dtype.

    Raises:
        TypeError: see :class:`Dropout`.
        ValueError: see :class:`Dropout`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import AlphaDropout
        >>> AlphaDropout(p=0.1)(mx.ones((8, 128))).shape
        (8, 128)

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural
    networks", NeurIPS 2017; see :func:`chandrop.functional.alpha_dropout_channels`.
    """

    _function = staticmethod(alpha_dropout_channels)
    _spatial_axes = ()


class AlphaDropout1d(LayoutLayer):
    r"""Sets channels of sequences to what SELU saturates to, and keeps mean and variance.

    Args:
        p: the probability of dropping each channel: a number in ``[0, 1]``, or an array
            that broadcasts to ``(N, 1, C)``, such as ``(C,)``. Default: ``0.5``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NLC`` or ``LC``, of a floating-point or complex dtype.

    Raises:
        TypeError: see :class:`Dropout`.
        ValueError: see :class:`Dropout`; the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import AlphaDropout1d
        >>> AlphaDropout1d(p=0.1)(mx.ones((8, 100, 16))).shape
        (8, 100, 16)

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural
    networks", NeurIPS 2017; see :func:`chandrop.functional.alpha_dropout_channels`.
    """

    _function = staticmethod(alpha_dropout_channels)
    _spatial_axes = (-2,)


class AlphaDropout2d(LayoutLayer):
    r"""Sets channels of images to what SELU saturates to, and keeps mean and variance.

    Args:
        p: the probability of dropping each channel: a number in ``[0, 1]``, or an array
            that broadcasts to ``(N, 1, 1, C)``, such as ``(C,)``. Default: ``0.5``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NHWC`` or ``HWC``, of a floating-point or complex dtype.

    Raises:
        TypeError: see :class:`Dropout`.
        ValueError: see :class:`Dropout`; the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import AlphaDropout2d
        >>> AlphaDropout2d(p=0.1)(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural
    networks", NeurIPS 2017; see :func:`chandrop.functional.alpha_dropout_channels`.
    """

    _function = staticmethod(alpha_dropout_channels)
    _spatial_axes = (-3, -2)


class AlphaDropout3d(LayoutLayer):
    r"""Sets channels of volumes to what SELU saturates to, and keeps mean and variance.

    Args:
        p: the probability of dropping each channel: a number in ``[0, 1]``, or an array
            that broadcasts to ``(N, 1, 1, 1, C)``, such as ``(C,)``. Default: ``0.5``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`.

    Shape:
        Input and output: ``NDHWC`` or ``DHWC``, of a floating-point or complex dtype.

    Raises:
        TypeError: see :class:`Dropout`.
        ValueError: see :class:`Dropout`; the input has another rank.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import AlphaDropout3d
        >>> AlphaDropout3d(p=0.1)(mx.ones((2, 8, 14, 14, 16))).shape
        (2, 8, 14, 14, 16)

    Source: Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural
    networks", NeurIPS 2017; see :func:`chandrop.functional.alpha_dropout_channels`.
    """

    _function = staticmethod(alpha_dropout_channels)
    _spatial_axes = (-4, -3, -2)
