from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from chandrop._checks import as_positive, check_input, is_zero
from chandrop.functional._channels import channels_of_shape
from chandrop.functional._dropout_channels import Rate, dropout_channels
from chandrop.random import Key


def dropout_attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    p: Rate,
    key: Key,
    *,
    scale: float,
    mask: mx.array | str | None = None,
    spatial_axes: int | Sequence[int] = (),
) -> mx.array:
    """Attends with weights of which some are dropped.

    It is ``mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)``, whose
    weights, after the softmax, go through :func:`dropout_channels`. At ``p = 0`` it is
    MLX's function itself. The mean over keys is the attention without dropout; the weights
    of one draw need not add up to 1.

    Args:
        q: the queries, ``(B, H, L, D)``.
        k: the keys, ``(B, G, S, D)``, where `G` divides `H`: ``H / G`` neighbouring heads
            of `q` share one of `k` and `v`.
        v: the values, ``(B, G, S, E)``.
        p: the probability of dropping a weight: a number, or an array that broadcasts to
            the mask's shape; see :func:`dropout_channels`.
        key: the key to draw with, or a batch of them; see :func:`dropout_channels`.
        scale: what the scores are multiplied by, mostly ``D**-0.5``.
        mask: a bool array, true where a query attends; an array that is added to the
            scores; or ``"causal"``. An array broadcasts to ``(B, H, L, S)``. Default: none.
        spatial_axes: the axes of the weights, ``(B, H, L, S)``, that share one draw. ``()``
            drops single weights, ``(2,)`` drops a key for all queries, and ``(2, 3)``
            drops whole heads. Default: none.

    Returns:
        An array of shape ``(B, H, L, E)``, of the dtype to which MLX promotes those of `q`,
        `k` and `v`. The softmax is in float32. Where all weights of a query are dropped,
        the output is 0.

    Raises:
        TypeError: `q`, `k` or `v` is not an array of floating-point numbers; `mask` is
            neither ``"causal"`` nor an array of them or of bools; `scale` is not a number;
            see :func:`dropout_channels`.
        ValueError: the shapes of `q`, `k`, `v` and `mask` do not fit; `scale` is not above
            0; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout_attention
        >>> q = k = v = mx.random.normal((2, 4, 8, 16))
        >>> y = dropout_attention(q, k, v, 0.1, mx.random.key(0), scale=16**-0.5)
        >>> y.shape
        (2, 4, 8, 16)

    Source: Vaswani et al., "Attention is all you need", NIPS 2017, equation 1, with
    dropout on the weights as in its authors' code; whole heads: Zhou, Ge, Wei, Zhou and Xu,
    "Scheduled DropHead", Findings of EMNLP 2020.
    """
    scale = as_positive(scale, "scale")
    _check(q, k, v, mask)
    try:
        # MLX checks the shapes when it builds this graph, which is not evaluated if p > 0.
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    except ValueError as error:
        masked = f" and a mask of shape {mask.shape}" if isinstance(mask, mx.array) else ""
        raise ValueError(
            f"Received q, k and v of shapes {q.shape}, {k.shape} and {v.shape}{masked}. "
            "Expected (B, H, L, D), (B, G, S, D) and (B, G, S, E), where G divides H, and "
            f"a mask that broadcasts to (B, H, L, S). {error}"
        ) from error
    shape = (*q.shape[:3], k.shape[2])
    try:
        rate = channels_of_shape(shape, y.dtype, key, spatial_axes).rate(p)
    except (TypeError, ValueError) as error:
        raise type(error)(f"For the weights of attention: {error}") from error
    if is_zero(rate):
        return y
    # The operations of MLX where it does not fuse them, so that the roundings are the same.
    q, k, v = (array.astype(y.dtype) for array in (q, k, v))
    groups = k.shape[1], q.shape[1] // k.shape[1]
    queries = mx.unflatten(scale * q, 1, groups)
    scores = mx.flatten(queries @ mx.expand_dims(k, 2).swapaxes(-1, -2), 1, 2)
    weights = mx.softmax(_masked(scores, mask), axis=-1, precise=True)
    weights = dropout_channels(weights, p, key, spatial_axes)
    return mx.flatten(mx.unflatten(weights, 1, groups) @ mx.expand_dims(v, 2), 1, 2)


def _masked(scores: mx.array, mask: mx.array | str | None) -> mx.array:
    if mask is None:
        return scores
    if isinstance(mask, str):
        queries, keys = scores.shape[2:]
        # The last query attends to all keys.
        positions = mx.arange(keys - queries, keys)
        mask = mx.expand_dims(positions, 1) >= mx.arange(keys)
    if mask.dtype == mx.bool_:
        least = mx.array(mx.finfo(scores.dtype).min, scores.dtype)
        return mx.where(mask, scores, least)
    return scores + mask.astype(scores.dtype)


def _check(q: Any, k: Any, v: Any, mask: Any) -> None:
    """Raises for what MLX does not check, or where it would end the process."""
    for name, array in {"q": q, "k": k, "v": v}.items():
        check_input(array)
        if not mx.issubdtype(array.dtype, mx.floating):
            raise TypeError(
                f"Received {name} of dtype {array.dtype}. Expected a floating-point dtype: "
                f"{name}.astype(mx.float32)."
            )
    if isinstance(mask, mx.array):
        # Integers of 0 and 1 would be added to the scores.
        if mask.dtype != mx.bool_ and not mx.issubdtype(mask.dtype, mx.floating):
            raise TypeError(
                f"Received a mask of dtype {mask.dtype}. Expected bools, "
                "mask.astype(mx.bool_), or floating-point numbers to add to the scores."
            )
    elif mask is not None and not isinstance(mask, str):
        raise TypeError(
            f"Received a mask of type {type(mask).__name__}. Expected an mx.array, "
            'mx.array(mask), "causal" or None.'
        )
    if k.ndim == v.ndim == 4 and (k.shape[2] != v.shape[2] or k.shape[1] == 0):
        raise ValueError(
            f"Received keys of shape {k.shape} and values of shape {v.shape}. Expected "
            "(B, G, S, D) and (B, G, S, E) with one G above 0 and one S."
        )
