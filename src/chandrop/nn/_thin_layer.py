import mlx.core as mx

from chandrop.functional import keep_channels
from chandrop.functional._keep_channels import as_fixed_rate, number_kept
from chandrop.nn._keyed_layer import KeyedLayer


class ThinLayer(KeyedLayer):
    """A layer that keeps a fixed number of channels, or examples, of a batch."""

    _p: float

    @property
    def p(self) -> float:
        """The rate."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        as_fixed_rate(p)
        self._p = p

    def _keep(self, channels: int, key: mx.array | None = None) -> mx.array:
        """Chooses what to keep, by the layer's next key if none is given."""
        return self._with_its_path(
            key,
            lambda: self._by_key(
                key,
                lambda key: keep_channels(key, channels, self.p),
                number_kept(channels, self.p) == channels,
            ),
        )
