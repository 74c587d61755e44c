from typing import TypeAlias

import mlx.core as mx

# A key, as mx.random.key returns it, or an array of keys.
Key: TypeAlias = mx.array


def check_key(key: object) -> None:
    """Raises unless `key` is a key, or an array of keys, as ``mx.random`` makes them.

    Args:
        key: the argument to check. One key is a ``uint32`` array of shape ``(2,)``; an
            array of keys has shape ``(..., 2)``.

    Raises:
        TypeError: `key` is not an ``mx.array``, or its dtype is not ``uint32``.
        ValueError: the last axis of `key` does not have length 2.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.random import check_key
        >>> check_key(mx.random.key(0))
        >>> check_key(0)
        Traceback (most recent call last):
        TypeError: Received a key of type int. Expected a key: mx.random.key(0).

    Source: the raw keys of JAX, ``jax.random.PRNGKey``.
    """
    if not isinstance(key, mx.array):
        is_seed = isinstance(key, int) and not isinstance(key, bool) and key >= 0
        fix = f"mx.random.key({key if is_seed else 0})"
        if hasattr(key, "__array__"):
            fix = "mx.array(key), of uint32"
        if isinstance(key, float):
            fix += ", after the rate, as in dropout(x, 0.5, key)"
        if isinstance(key, tuple):
            fix += ", before the axes, as in dropout_channels(x, 0.5, key, axes)"
        raise TypeError(
            f"Received a key of type {type(key).__name__}. Expected a key: {fix}."
        )
    if key.dtype != mx.uint32:
        raise TypeError(
            f"Received a key of dtype {key.dtype}. "
            "Expected uint32, as mx.random.key(0) and mx.random.split return."
        )
    if key.ndim == 0 or key.shape[-1] != 2:
        raise ValueError(
            f"Received a key of shape {key.shape}. Expected (2,) for one key, as "
            "mx.random.key(0) returns, or (B, 2) for B keys, as mx.random.split returns."
        )


def check_comes_first(key: object, other: object, call: str) -> None:
    """Raises unless `key` is a key, and says if `other` was given in its place."""
    if isinstance(key, int) and isinstance(other, mx.array) and other.dtype == mx.uint32:
        raise TypeError(f"Received a key after {key}. Expected it before: {call}.")
    check_key(key)
