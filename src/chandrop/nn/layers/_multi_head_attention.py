import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.functional import Rate
from chandrop.nn.layers._attention_dropout import AttentionDropout
from chandrop.nn.layers._foreign_keywords import NAMES_OF_RATE, check_arguments, declares
from chandrop.random import Key

if TYPE_CHECKING:
    from typing_extensions import Self


class MultiHeadAttention(nn.MultiHeadAttention):
    """Multi-head attention that drops weights, in place of ``mlx.nn.MultiHeadAttention``.

    The parameters and their names are the same, and so is the output in eval mode. Its
    layer ``dropout``, an :class:`AttentionDropout`, draws and holds the key and the rate:
    ``attention.dropout.p = 0.2``.

    Shape:
        Queries ``(B, L, dims)``, keys and values ``(B, S, dims)``; output ``(B, L, dims)``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import MultiHeadAttention
        >>> attention, x = MultiHeadAttention(16, 4, dropout=0.1), mx.ones((2, 8, 16))
        >>> attention(x, x, x).shape
        (2, 8, 16)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "Self":
        """Creates a module; an error about its arguments tells the right ones."""
        if args or kwargs:
            check_arguments(cls, args, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(
        self,
        dims: int,
        num_heads: int,
        query_input_dims: int | None = None,
        key_input_dims: int | None = None,
        value_input_dims: int | None = None,
        value_dims: int | None = None,
        value_output_dims: int | None = None,
        bias: bool = False,
        *,
        dropout: Rate = 0.0,
        spatial_axes: int | Sequence[int] = (),
        key: Key | None = None,
    ):
        """Creates a module in training mode.

        Args:
            dims: as in ``mlx.nn.MultiHeadAttention``, and so are the others up to `bias`.
            dropout: the probability of dropping a weight; see :class:`AttentionDropout`,
                also for `spatial_axes` and `key`. Default: 0.
        """
        widths = (
            query_input_dims,
            key_input_dims,
            value_input_dims,
            value_dims,
            value_output_dims,
        )
        if any(isinstance(width, float) for width in widths):
            raise TypeError(
                "Received a float in the place of a width. Expected the rate by its name: "
                f"MultiHeadAttention({dims}, {num_heads}, dropout=0.1)."
            )
        super().__init__(dims, num_heads, *widths, bias)
        self.dropout = AttentionDropout(dropout, spatial_axes, key=key)

    def __setattr__(self, name: str, value: Any) -> None:
        is_rate = name == "p" or name in NAMES_OF_RATE
        is_part = isinstance(value, nn.Module)
        if is_rate and not is_part and not declares(type(self), name):
            raise AttributeError(
                f"Received {name} for a {type(self).__name__}. Expected the rate of its "
                "layer: attention.dropout.p = 0.2."
            )
        super().__setattr__(name, value)

    def __call__(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        mask: mx.array | str | None = None,
        *,
        key: Key | None = None,
    ) -> mx.array:
        """Attends; in training mode, with dropped weights.

        Args:
            queries: what attends; `keys`, `values` and `mask` as in ``mlx.nn``.
            key: the key to draw with; see :class:`KeyedLayer`.
        """
        q, k, v = (
            mx.unflatten(project(x), -1, (self.num_heads, -1)).transpose(0, 2, 1, 3)
            for project, x in (
                (self.query_proj, queries),
                (self.key_proj, keys),
                (self.value_proj, values),
            )
        )
        scale = math.sqrt(1 / q.shape[-1])
        y = self.dropout(q, k, v, scale=scale, mask=mask, key=key)
        return self.out_proj(y.transpose(0, 2, 1, 3).flatten(-2, -1))
