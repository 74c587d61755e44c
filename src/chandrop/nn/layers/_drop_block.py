from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from chandrop._checks import as_block_size, check_has_axes
from chandrop.functional import Rate, drop_block
from chandrop.nn.layers._channel_layer import ChannelLayer
from chandrop.random import Key


class DropBlock(ChannelLayer):
    """Drops blocks of channels: :func:`chandrop.functional.drop_block`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import DropBlock
        >>> squares = DropBlock(p=0.1, block_size=3, spatial_axes=(1, 2))
        >>> squares(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)
    """

    on_channels = "multiplies"

    def __init__(
        self,
        p: Rate,
        block_size: int,
        spatial_axes: int | Sequence[int],
        *,
        groups: int | None = None,
        key: Key | None = None,
    ):
        """Creates a layer in training mode.

        Args:
            p: the probability of dropping a position; see :class:`ChannelDropout`.
            block_size: the side of a block in elements, at most the length of each spatial
                axis. 1 is element-wise dropout.
            spatial_axes: the axes along which blocks extend.
            groups: the number of groups of channels that share their blocks; 1 for all.
                Default: every channel has its own.
            key: the initial key, ``(2,)``.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: `block_size` is below 1; there are no spatial axes.
        """
        # First, so that the error names a rate in the place of the block size.
        block_size = as_block_size(block_size)
        super().__init__(p, spatial_axes, groups=groups, key=key)
        check_has_axes(self._spatial_axes)
        self._block_size = block_size

    def draw(self, x: mx.array, key: Key) -> mx.array:
        return drop_block(
            x, self.p, key, self._block_size, self._spatial_axes, groups=self._groups
        )

    def _check(self, x: Any, key: Key | None) -> None:
        super()._check(x, key)
        as_block_size(self._block_size, x.shape, self._spatial_axes)

    def _constant_axes(self, ndim: int) -> Sequence[int]:
        return ()

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, block_size={self._block_size}"
