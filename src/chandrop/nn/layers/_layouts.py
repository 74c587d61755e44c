"""Dropout layers for the layouts that people use, under the names of ``mlx.nn``."""

from typing import Any

import mlx.core as mx

from chandrop._checks import check_rank
from chandrop.functional import Rate, dropout_channels
from chandrop.nn.layers._channel_layer import ChannelLayer
from chandrop.random import Key


class LayoutLayer(ChannelLayer):
    """A dropout layer for inputs of one layout, channels last, with or without a batch."""

    def __init__(self, p: Rate = 0.5, *, groups: int | None = None, key: Key | None = None):
        """Creates a layer in training mode.

        Args:
            p: the probability of dropping a channel, or an element: a number in ``[0, 1]``,
                or an array of rates that broadcasts to the input's shape with 1 at the
                spatial axes, such as ``(C,)`` for one rate per channel. Default: 0.5.
            groups: the number of groups of neighbouring channels that share a draw.
                Default: every channel has its own draw.
            key: the initial key, ``(2,)``. Default: drawn from MLX's global stream, so
                ``mx.random.seed`` makes a run repeatable.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: `p` is outside ``[0, 1]``; `groups` is below 1; `key` is not one.
        """
        super().__init__(p, self._axes, groups=groups, key=key)

    def draw(self, x: mx.array, key: Key) -> mx.array:
        self._check_rank(x)
        return dropout_channels(x, self.p, key, self._axes, groups=self._groups)

    def _check(self, x: Any, key: Key | None) -> None:
        self._check_rank(x)
        super()._check(x, key)

    def _check_rank(self, x: Any) -> None:
        if self._axes:
            check_rank(x, len(self._axes))


class Dropout(LayoutLayer):
    """Drops elements independently, in place of ``mlx.nn.Dropout``.

    Shape:
        Input and output: any shape, of a floating-point or complex dtype.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout
        >>> Dropout(p=0.2)(mx.ones((8, 128))).shape
        (8, 128)

    Source: :func:`chandrop.functional.dropout`.
    """

    on_channels = "multiplies"


class Dropout1d(LayoutLayer):
    """Drops whole channels of sequences.

    Shape:
        Input and output: ``NLC`` or ``LC``; as :class:`Dropout2d` otherwise.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout1d
        >>> Dropout1d(p=0.2)(mx.ones((8, 100, 16))).shape
        (8, 100, 16)
    """

    on_channels = "multiplies"
    _axes = (-2,)


class Dropout2d(LayoutLayer):
    """Drops whole channels of images, in place of ``mlx.nn.Dropout2d``.

    Shape:
        Input and output: ``NHWC`` or ``HWC``, of a floating-point or complex dtype. For
        other layouts: :class:`ChannelDropout`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout2d
        >>> Dropout2d(p=0.2)(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)

    Source: :func:`chandrop.functional.dropout2d`.
    """

    on_channels = "multiplies"
    _axes = (-3, -2)


class Dropout3d(LayoutLayer):
    """Drops whole channels of volumes, in place of ``mlx.nn.Dropout3d``.

    Shape:
        Input and output: ``NDHWC`` or ``DHWC``; as :class:`Dropout2d` otherwise.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout3d
        >>> Dropout3d(p=0.2)(mx.ones((8, 6, 28, 28, 16))).shape
        (8, 6, 28, 28, 16)
    """

    on_channels = "multiplies"
    _axes = (-4, -3, -2)
