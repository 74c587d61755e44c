from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop._checks import as_rate, check_dtype, check_input, is_zero
from chandrop.functional import Rate
from chandrop.nn.layers._foreign_keywords import NAMES_OF_RATE, declares
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.random import Key


class DropoutLayer(KeyedLayer):
    """A random layer with a dropout rate; see :class:`KeyedLayer` to write one.

    The rate can be set: ``layer.p = 0.2``. An array, ``layer.p = mx.array(0.2)``, can
    change at every step of a compiled function, without a retrace. At ``p = 0`` a layer
    returns its input, and its key does not advance.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import DropoutLayer
        >>> class RandomSign(DropoutLayer):
        ...     def draw(self, x, key):
        ...         kept = mx.random.bernoulli(1 - self.p, x.shape, key=key)
        ...         return mx.where(kept, x, -x)
        >>> layer = RandomSign(0.2)
        >>> layer.p = 0.1
        >>> layer(mx.ones((8, 128))).shape
        (8, 128)
    """

    def __init__(self, p: Rate, *, key: Key | None = None):
        """Creates a layer in training mode.

        Args:
            p: the dropout rate: a number in ``[0, 1]``, or an array of rates that
                broadcasts to the mask's shape.
            key: the initial key, ``(2,)``; see :class:`KeyedLayer`.
        """
        super().__init__(key=key)
        self.p = p

    @property
    def p(self) -> Rate:
        """The dropout rate."""
        rate: Rate = self._p
        return rate

    @p.setter
    def p(self, p: Rate) -> None:
        as_rate(p)
        self._p = p

    def _check(self, x: Any, key: Key | None) -> None:
        check_input(x)
        check_dtype(x.dtype)
        super()._check(x, key)

    def _keeps_all(self, x: mx.array | None = None) -> bool:
        return is_zero(self.p)

    def _extra_repr(self) -> str:
        return f"p={self.p}"

    def __setattr__(self, name: str, value: Any) -> None:
        # A layer may have taken it over from a module.
        is_known = declares(type(self), name) or name in vars(self)
        if name in NAMES_OF_RATE and not is_known and not isinstance(value, nn.Module):
            raise AttributeError(
                f"Received {name} for a {type(self).__name__}, which would change nothing. "
                "Expected p: layer.p = 0.2."
            )
        if name not in ("p", "key") and (f"_{name}" in self or f"_{name}" in vars(self)):
            raise AttributeError(
                f"A layer's {name} cannot be set. train() and eval() set the mode; for "
                "anything else but p build a new layer."
            )
        super().__setattr__(name, value)
