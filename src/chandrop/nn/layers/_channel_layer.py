from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import mlx.core as mx

from chandrop._checks import as_axes, as_groups, axes_and_mask_shape
from chandrop.functional import Rate
from chandrop.nn.layers._dropout_layer import DropoutLayer
from chandrop.random import Key


class ChannelLayer(DropoutLayer):
    """A layer for a function of ``(x, p, key, spatial_axes, *, groups=None)``."""

    _draws_batches = True
    _function: ClassVar[Callable[..., mx.array]]
    # The axes that repr leaves out.
    _axes: ClassVar[tuple[int, ...]] = ()
    _spatial_axes: tuple[int, ...]

    def __init__(
        self,
        p: Rate = 0.5,
        spatial_axes: int | Sequence[int] = (),
        *,
        groups: int | None = None,
        key: Key | None = None,
    ):
        """Creates a layer in training mode.

        Args:
            p: the dropout rate: a number in ``[0, 1]``, or an array of rates that
                broadcasts to the input's shape with 1 at the spatial axes, such as ``(C,)``
                for one rate per channel. Default: 0.5.
            spatial_axes: the axes that share one draw: an int or a sequence of ints;
                negative ones count from the last. Default: every element has its own draw.
            groups: the number of groups of neighbouring channels, along the last axis that
                is not spatial, that share a draw. Default: every channel has its own draw.
            key: the initial key, ``(2,)``; see :class:`KeyedLayer`.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: `p` is outside ``[0, 1]``; `groups` is below 1; `key` is not one.
        """
        super().__init__(p, key=key)
        self._groups = as_groups(groups)
        # nn.Module would take the tuple into its state, which then cannot be saved.
        object.__setattr__(self, "_spatial_axes", as_axes(spatial_axes))

    def draw(self, x: mx.array, key: Key) -> mx.array:
        return self._function(x, self.p, key, self._spatial_axes, groups=self._groups)

    def _check(self, x: Any, key: Key | None) -> None:
        super()._check(x, key)
        axes_and_mask_shape(x.shape, self._spatial_axes, self._groups)

    def _constant_axes(self, ndim: int) -> Sequence[int]:
        return self._spatial_axes

    def _extra_repr(self) -> str:
        axes = ""
        if self._spatial_axes != self._axes:
            axes = f", spatial_axes={self._spatial_axes}"
        groups = "" if self._groups is None else f", groups={self._groups}"
        return f"{super()._extra_repr()}{axes}{groups}"
