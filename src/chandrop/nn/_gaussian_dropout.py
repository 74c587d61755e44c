"""Multiplicative Gaussian noise, under the names of the layouts."""

from chandrop.functional import gaussian_dropout_channels
from chandrop.nn._channel_layer import LayoutLayer


class GaussianDropout(LayoutLayer):
    r"""Multiplies elements by draws from :math:`N(1, \frac{p}{1-p})`.

    Args:
        p: the rate of the dropout whose variance the noise has: a number in ``[0, 1]``, or
            an array that broadcasts to the shape of the input. Default: ``0.5``.
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
        >>> from chandrop.nn import GaussianDropout
        >>> GaussianDropout(p=0.1)(mx.ones((8, 128))).shape
        (8, 128)

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014, section 10; see
    :func:`chandrop.functional.gaussian_dropout_channels`.
    """

    _function = staticmethod(gaussian_dropout_channels)
    _spatial_axes = ()


class GaussianDropout1d(LayoutLayer):
    r"""Multiplies channels of sequences by draws from :math:`N(1, \frac{p}{1-p})`.

    Args:
        p: the rate of the dropout whose variance the noise has: a number in ``[0, 1]``, or
            an array that broadcasts to ``(N, 1, C)``, such as ``(C,)``. Default: ``0.5``.
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
        >>> from chandrop.nn import GaussianDropout1d
        >>> GaussianDropout1d(p=0.1)(mx.ones((8, 100, 16))).shape
        (8, 100, 16)

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014, section 10; see
    :func:`chandrop.functional.gaussian_dropout_channels`.
    """

    _function = staticmethod(gaussian_dropout_channels)
    _spatial_axes = (-2,)


class GaussianDropout2d(LayoutLayer):
    r"""Multiplies channels of images by draws from :math:`N(1, \frac{p}{1-p})`.

    Args:
        p: the rate of the dropout whose variance the noise has: a number in ``[0, 1]``, or
            an array that broadcasts to ``(N, 1, 1, C)``, such as ``(C,)``. Default:
            ``0.5``.
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
        >>> from chandrop.nn import GaussianDropout2d
        >>> GaussianDropout2d(p=0.1)(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014, section 10; see
    :func:`chandrop.functional.gaussian_dropout_channels`.
    """

    _function = staticmethod(gaussian_dropout_channels)
    _spatial_axes = (-3, -2)


class GaussianDropout3d(LayoutLayer):
    r"""Multiplies channels of volumes by draws from :math:`N(1, \frac{p}{1-p})`.

    Args:
        p: the rate of the dropout whose variance the noise has: a number in ``[0, 1]``, or
            an array that broadcasts to ``(N, 1, 1, 1, C)``, such as ``(C,)``. Default:
            ``0.5``.
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
        >>> from chandrop.nn import GaussianDropout3d
        >>> GaussianDropout3d(p=0.1)(mx.ones((2, 8, 14, 14, 16))).shape
        (2, 8, 14, 14, 16)

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014, section 10; see
    :func:`chandrop.functional.gaussian_dropout_channels`.
    """

    _function = staticmethod(gaussian_dropout_channels)
    _spatial_axes = (-4, -3, -2)
