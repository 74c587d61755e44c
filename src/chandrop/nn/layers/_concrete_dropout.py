import math
from collections.abc import Sequence

import mlx.core as mx

from chandrop._checks import as_positive, as_rate
from chandrop.functional import Rate, concrete_dropout_channels, concrete_regularizer
from chandrop.nn._call_context import is_constant
from chandrop.nn.layers._channel_layer import ChannelLayer
from chandrop.random import Key

_OUTSIDE = (
    "Received p = {}. Expected 0 < p < 1 at first: a rate of 0 or 1 has an infinite logit, "
    "and would not be learned."
)


class ConcreteDropout(ChannelLayer):
    """Drops at a rate that is learned, for any layout.

    The rate is the sigmoid of the parameter ``logit``, ``log(p / (1 - p))``, which an
    optimizer trains, ``freeze`` freezes and weights files hold. Add :meth:`regularizer` to
    the loss: without it, the rate goes to 0. See
    :func:`chandrop.functional.concrete_dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import ConcreteDropout
        >>> layer = ConcreteDropout(mx.full((16,), 0.1), spatial_axes=(1, 2))
        >>> layer(mx.ones((8, 28, 28, 16))).shape
        (8, 28, 28, 16)
        >>> layer.parameters()["logit"].shape
        (16,)
    """

    on_channels = "multiplies"

    def __init__(
        self,
        p: Rate = 0.1,
        spatial_axes: int | Sequence[int] = (),
        *,
        temperature: float = 0.1,
        key: Key | None = None,
    ):
        """Creates a layer in training mode.

        Args:
            p: the initial rate: a number in ``(0, 1)``, or an array of them for more than
                one rate; see :class:`ChannelDropout`. Default: 0.1.
            spatial_axes: see :class:`ChannelDropout`. Default: none.
            temperature: how far the relaxed draws are from 0 and 1. Default: 0.1.
            key: the initial key, ``(2,)``.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: a rate is outside ``(0, 1)``; `temperature` is not above 0.
        """
        super().__init__(p, spatial_axes, key=key)
        self._temperature = as_positive(temperature, "temperature")

    @property
    def p(self) -> mx.array:
        """The rate that has been learned so far."""
        return mx.sigmoid(self.logit)

    @p.setter
    def p(self, p: Rate) -> None:
        rate = as_rate(p)
        if isinstance(rate, mx.array):
            inside = (rate > 0) & (rate < 1)
            # Within a transform the values are not known.
            if is_constant(inside) and not inside.all():
                raise ValueError(_OUTSIDE.format(rate.tolist()))
            self.logit: mx.array = mx.log(rate) - mx.log1p(-rate)
        elif 0 < rate < 1:
            # A number sets all rates, however many there are.
            shape = self.logit.shape if "logit" in self else ()
            self.logit = mx.full(shape, math.log(rate) - math.log1p(-rate))
        else:
            raise ValueError(_OUTSIDE.format(p))

    def regularizer(self, weight: mx.array, length_scale: float) -> mx.array:
        """Returns :func:`chandrop.functional.concrete_regularizer` of this layer, in nats.

        Divide it by the number of training examples and add it to the loss. `weight` is
        that of the layer that reads this one's output, ``(..., C)``.
        """
        return concrete_regularizer(self.logit, weight, length_scale)

    def draw(self, x: mx.array, key: Key) -> mx.array:
        return concrete_dropout_channels(
            x, self.logit, key, self._spatial_axes, temperature=self._temperature
        )

    def _keeps_all(self, x: mx.array | None = None) -> bool:
        return False

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, temperature={self._temperature}"
