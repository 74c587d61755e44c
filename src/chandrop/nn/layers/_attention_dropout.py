from collections.abc import Sequence

import mlx.core as mx

from chandrop.functional import Rate, dropout_attention, dropout_channels
from chandrop.nn.layers._channel_layer import ChannelLayer
from chandrop.random import Key


class AttentionDropout(ChannelLayer):
    """Attention that drops weights: :func:`chandrop.functional.dropout_attention`.

    In an attention module of your own it takes the place of
    ``mx.fast.scaled_dot_product_attention``, which it calls in eval mode.
    :class:`MultiHeadAttention` holds one.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import AttentionDropout
        >>> q = k = v = mx.random.normal((2, 4, 8, 16))
        >>> AttentionDropout(0.1)(q, k, v, scale=16**-0.5, mask="causal").shape
        (2, 4, 8, 16)
    """

    # What happens to the weights.
    _function = staticmethod(dropout_channels)

    def __init__(
        self,
        p: Rate,
        spatial_axes: int | Sequence[int] = (),
        *,
        key: Key | None = None,
    ):
        """Creates a layer in training mode, as :class:`ChannelDropout` does.

        Args:
            p: the probability of dropping a weight: a number, or an array of rates.
            spatial_axes: the axes of the weights, ``(B, H, L, S)``, that share one draw:
                ``()`` drops single weights, ``(2,)`` drops a key for all queries, and
                ``(2, 3)`` drops whole heads. Default: none.
            key: the initial key, ``(2,)``.
        """
        super().__init__(p, spatial_axes, key=key)

    def __call__(  # type: ignore[override]
        self,
        q: mx.array,
        k: mx.array,
        v: mx.array,
        *,
        scale: float,
        mask: mx.array | str | None = None,
        key: Key | None = None,
    ) -> mx.array:
        """Attends; in training mode, with dropped weights.

        Args:
            q: the queries; `k`, `v`, `scale` and `mask` as in
                :func:`chandrop.functional.dropout_attention`.
            key: the key to draw with; see :class:`KeyedLayer`. With a key for each example,
                axis 0 of `q` is the batch.
        """
        p = self.p if self.training else 0.0

        def attend(q: mx.array, key: Key) -> mx.array:
            axes = self._spatial_axes
            return dropout_attention(
                q, k, v, p, key, scale=scale, mask=mask, spatial_axes=axes
            )

        if self.training:
            y: mx.array = self._call(attend, q, key)
            return y
        # Its own keys may be for another batch, which does not matter in eval mode.
        y = attend(q, mx.random.key(0))
        self._call(attend, q, key, drawing=False)
        return y
