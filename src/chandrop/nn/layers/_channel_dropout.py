from collections.abc import Sequence

from chandrop.functional import Rate, dropout_channels
from chandrop.nn.layers._channel_layer import ChannelLayer
from chandrop.random import Key


class ChannelDropout(ChannelLayer):
    r"""Drops whole channels of any layout: :func:`chandrop.functional.dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ChannelDropout
        >>> channels_first = ChannelDropout(0.5, spatial_axes=(2, 3))
        >>> channels_first(mx.ones((8, 16, 28, 28))).shape
        (8, 16, 28, 28)
    """

    on_channels = "multiplies"
    _function = staticmethod(dropout_channels)

    def __init__(
        self,
        p: Rate,
        spatial_axes: int | Sequence[int],
        *,
        groups: int | None = None,
        key: Key | None = None,
    ):
        """Creates a layer in training mode, as :class:`GaussianDropout` does.

        Args:
            p: the probability of dropping a channel: a number, or an array of rates.
            spatial_axes: the axes that share one draw.
            groups: the number of groups of neighbouring channels that share a draw.
            key: the initial key, ``(2,)``.
        """
        super().__init__(p, spatial_axes, groups=groups, key=key)
