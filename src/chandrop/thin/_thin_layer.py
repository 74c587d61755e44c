from typing import Any

import mlx.core as mx

from chandrop._checks import is_zero
from chandrop.nn import DropoutLayer
from chandrop.nn._call_context import record_state
from chandrop.random import Key
from chandrop.thin._keep_channels import as_fixed_rate, keep_channels, number_kept


class ThinLayer(DropoutLayer):
    """A layer that keeps a fixed number of channels, examples or tokens."""

    _p: float

    @property
    def p(self) -> float:
        """The share to drop."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        as_fixed_rate(p)
        self._p = p

    def _keep(self, channels: int, key: Key | None = None) -> mx.array:
        """Chooses what to keep, with the layer's next key if none is given."""
        kept: mx.array = self._call(self._choose, channels, key)
        return kept

    def _choose(self, channels: int, key: Key) -> mx.array:
        return keep_channels(key, channels, self.p)

    def _keeps_all(self, channels: Any = None) -> bool:
        if not isinstance(channels, int):
            return is_zero(self.p)
        return number_kept(channels, self.p) == channels

    def _record(self) -> None:
        """Lets the recomputation of a checkpoint see the layer as it is now."""
        record_state(self)
