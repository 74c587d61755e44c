from collections.abc import Sequence

import mlx.core as mx

from chandrop.functional import dropout_channels
from chandrop.functional._arguments import as_axes
from chandrop.nn._channel_layer import ChannelLayer


class ChannelDropout(ChannelLayer):
    r"""Drops whole channels of any layout.

    Args:
        p: the probability of dropping a channel: a number in ``[0, 1]``, or an array that
            broadcasts to the mask's shape (the input's, with 1 at the spatial axes).
        spatial_axes: the axes that share one draw: an int or a sequence of ints, negative
            ones counted from the last.
        groups: how many groups of channels share a draw each; the channels are the last
            axis that is not spatial. Default: every channel has its own.
        key: the key to begin with, ``(2,)``. Default: drawn from the global stream, so
            that ``mx.random.seed`` makes a run repeat.

    Shape:
        Input and output: any shape that has the spatial axes, of a floating-point or
        complex dtype.

    Raises:
        TypeError: `p` is neither a number nor an ``mx.array``, or is a key; an axis or
            `groups` is not an int, or `key` is not a ``uint32`` array; at the call also as
            :func:`chandrop.functional.dropout_channels`.
        ValueError: `p` is outside ``[0, 1]`` or nan, or `key` is not one key; at the call
            also as :func:`chandrop.functional.dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ChannelDropout
        >>> channels_first = ChannelDropout(0.5, spatial_axes=(2, 3))
        >>> channels_first(mx.ones((8, 16, 28, 28))).shape
        (8, 16, 28, 28)

    Source: Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization
    using convolutional networks", CVPR 2015, section 3.2.
    """

    _function = staticmethod(dropout_channels)

    def __init__(
        self,
        p: float | mx.array,
        spatial_axes: int | Sequence[int],
        *,
        groups: int | None = None,
        key: mx.array | None = None,
    ):
        super().__init__(p, groups=groups, key=key)
        # nn.Module would take the tuple into its state, which then cannot be saved.
        object.__setattr__(self, "_spatial_axes", as_axes(spatial_axes))

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, spatial_axes={self._spatial_axes}"
