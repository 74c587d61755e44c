from typing import Any

import mlx.core as mx

from chandrop.random._place import KEY_WORDS, PLACE_WORDS


def check_key(key: Any) -> None:
    """Raises unless `key` is a key or an array of keys, as ``mx.random.key`` gives.

    Args:
        key: what was received as a key. One key is a ``uint32`` array of shape
            ``(2,)``; an array of keys has shape ``(..., 2)``.

    Raises:
        TypeError: `key` is not an ``mx.array``, or its dtype is not ``uint32``.
        ValueError: the last axis of `key` does not have length 2, or 6 as those of
            :func:`balanced_keys`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.random import check_key
        >>> check_key(mx.random.key(0))
        >>> check_key(0)
        Traceback (most recent call last):
        TypeError: Received a key of type int. Expected a key: mx.random.key(0).
    """
    if not isinstance(key, mx.array):
        is_seed = isinstance(key, int) and not isinstance(key, bool) and key >= 0
        fix = f"mx.random.key({key if is_seed else 0})"
        if hasattr(key, "__array__"):
            fix = "mx.array(key), of uint32"
        raise TypeError(
            f"Received a key of type {type(key).__name__}. Expected a key: {fix}."
        )
    if key.dtype != mx.uint32:
        raise TypeError(
            f"Received a key of dtype {key.dtype}. "
            "Expected uint32, as mx.random.key(0) and mx.random.split give."
        )
    if key.ndim == 0 or key.shape[-1] not in (KEY_WORDS, KEY_WORDS + PLACE_WORDS):
        raise ValueError(
            f"Received a key of shape {key.shape}. Expected (2,) for one key, as "
            "mx.random.key(0) gives, or (B, 2) for B of them, as mx.random.split gives."
        )
