from collections.abc import Callable, Sequence
from typing import ClassVar

import mlx.core as mx

from chandrop.functional._arguments import axes_and_mask_shape, check_rank
from chandrop.functional._groups import as_groups
from chandrop.nn._keyed_layer import KeyedLayer


class ChannelLayer(KeyedLayer):
    """A layer that stands for a function of ``(x, p, key, spatial_axes, groups=None)``."""

    _function: ClassVar[Callable[..., mx.array]]
    _spatial_axes: Sequence[int]

    def __init__(
        self,
        p: float | mx.array = 0.5,
        *,
        groups: int | None = None,
        key: mx.array | None = None,
    ):
        super().__init__(p, key)
        self._groups = as_groups(groups)

    def _check_axes(self, x: mx.array) -> None:
        axes_and_mask_shape(x.shape, self._spatial_axes, self._groups)

    def _drop(self, x: mx.array, key: mx.array) -> mx.array:
        return self._function(x, self.p, key, self._spatial_axes, groups=self._groups)

    def _extra_repr(self) -> str:
        groups = "" if self._groups is None else f", groups={self._groups}"
        return f"{super()._extra_repr()}{groups}"


class LayoutLayer(ChannelLayer):
    """A layer for inputs of one layout, channels last, with a batch or without."""

    def _check_axes(self, x: mx.array) -> None:
        if self._spatial_axes:
            check_rank(x, len(self._spatial_axes))
        if self._groups is not None:
            super()._check_axes(x)
