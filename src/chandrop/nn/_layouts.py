"""Dropout layers under the names of the layouts that people use, as in ``mlx.nn``."""

from chandrop.functional import dropout_channels
from chandrop.nn._channel_layer import LayoutLayer


class Dropout(LayoutLayer):
    r"""Drops elements, each on its own: takes the place of ``mlx.nn.Dropout``.

    Args:
        p: the probability of dropping an element: a number in ``[0, 1]``, or an array that
            broadcasts to the shape of the input. Default: ``0.5``.
        groups: how many groups of neighbours along the last axis share a draw each.
            Default: every element has its own.
        key: the key to begin with, ``(2,)``. Default: drawn from the global stream, so
            that ``mx.random.seed`` makes a run repeat.

    Shape:
        Input and output: any shape, of a floating-point or complex dtype.

    Raises:
        TypeError: `p` is neither a number nor an ``mx.array``, or is a key; `groups` is not
            an int, or `key` is not a ``uint32`` array; at the call also as
            :func:`chandrop.functional.dropout`.
        ValueError: `p` is outside ``[0, 1]`` or nan, or `key` is not one key; at the call
            also as :func:`chandrop.functional.dropout`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout
        >>> layer = Dropout(p=0.2)
        >>> layer(mx.ones((8, 128))).shape
        (8, 128)

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple
    way to prevent neural networks from overfitting", JMLR 15, 2014.
    """

    _function = staticmethod(dropout_channels)
    _spatial_axes = ()


class Dropout1d(LayoutLayer):
    r"""Drops whole channels of sequences, channels last.

    Args:
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, C)``, such as ``(C,)``. Default: ``0.5``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.
        key: the key to begin with, ``(2,)``. Default: drawn from the global stream, so
            that ``mx.random.seed`` makes a run repeat.

    Shape:
        Input and output: ``NLC`` or ``LC``, of a floating-point or complex dtype.

    Raises:
        TypeError: `p` is neither a number nor an ``mx.array``, or is a key; `groups` is not
            an int, or `key` is not a ``uint32`` array; at the call also as
            :func:`chandrop.functional.dropout1d`.
        ValueError: `p` is outside ``[0, 1]`` or nan, or `key` is not one key; at the call
            for an input of another rank, also as :func:`chandrop.functional.dropout1d`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout1d
        >>> layer = Dropout1d(p=0.2)
        >>> layer(mx.ones((8, 100, 16))).shape
        (8, 100, 16)

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2.
    """

    _function = staticmethod(dropout_channels)
    _spatial_axes = (-2,)


class Dropout2d(LayoutLayer):
    r"""Drops whole channels of images: takes the place of ``mlx.nn.Dropout2d``.

    Args:
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, C)``, such as ``(C,)``. Default: ``0.5``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.
        key: the key to begin with, ``(2,)``. Default: drawn from the global stream, so
            that ``mx.random.seed`` makes a run repeat.

    Shape:
        Input and output: ``NHWC`` or ``HWC``, of a floating-point or complex dtype. For
        channels first: ``ChannelDropout(p, (2, 3))``.

    Raises:
        TypeError: `p` is neither a number nor an ``mx.array``, or is a key; `groups` is not
            an int, or `key` is not a ``uint32`` array; at the call also as
            :func:`chandrop.functional.dropout2d`.
        ValueError: `p` is outside ``[0, 1]`` or nan, or `key` is not one key; at the call
            for an input of another rank, also as :func:`chandrop.functional.dropout2d`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout2d
        >>> layer = Dropout2d(p=0.2)
        >>> layer(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2.
    """

    _function = staticmethod(dropout_channels)
    _spatial_axes = (-3, -2)


class Dropout3d(LayoutLayer):
    r"""Drops whole channels of volumes: takes the place of ``mlx.nn.Dropout3d``.

    Args:
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to ``(N, 1, 1, 1, C)``, such as ``(C,)``. Default: ``0.5``.
        groups: how many groups of channels share a draw each. Default: every channel has
            its own.
        key: the key to begin with, ``(2,)``. Default: drawn from the global stream, so
            that ``mx.random.seed`` makes a run repeat.

    Shape:
        Input and output: ``NDHWC`` or ``DHWC``, of a floating-point or complex dtype.

    Raises:
        TypeError: `p` is neither a number nor an ``mx.array``, or is a key; `groups` is not
            an int, or `key` is not a ``uint32`` array; at the call also as
            :func:`chandrop.functional.dropout3d`.
        ValueError: `p` is outside ``[0, 1]`` or nan, or `key` is not one key; at the call
            for an input of another rank, also as :func:`chandrop.functional.dropout3d`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout3d
        >>> layer = Dropout3d(p=0.2)
        >>> layer(mx.ones((2, 8, 28, 28, 16))).shape
        (2, 8, 28, 28, 16)

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2.
    """

    _function = staticmethod(dropout_channels)
    _spatial_axes = (-4, -3, -2)
