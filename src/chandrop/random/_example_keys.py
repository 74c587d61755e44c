import mlx.core as mx

from chandrop._checks import as_integer
from chandrop.random._check_key import Key, check_comes_first
from chandrop.random._fold_in import as_words, fold_in


def example_keys(key: Key, n: int, offset: int | mx.array = 0) -> Key:
    """Derives a key for each of `n` examples from their positions in the whole batch.

    Every function and layer of chandrop takes these keys in place of one key. The mask of
    an example then depends on its position alone, not on how the batch was cut: the part
    that starts at example `offset` uses ``example_keys(key, n, offset)``.

    Args:
        key: a key ``(2,)``, ``uint32``.
        n: the number of examples.
        offset: the position of the first example: an int, or an integer array of shape
            ``()``, whose positions wrap around at ``2**32``.

    Returns:
        Keys of shape ``(n, 2)``, ``uint32``: ``fold_in(key, mx.arange(n) + offset)``.

    Raises:
        TypeError: `key` is not a ``uint32`` array; `n` or `offset` is not an integer.
        ValueError: `key` is not one key; `n` is negative; `offset` is not one offset, or
            is an int that moves a position to ``2**32`` or beyond.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.random import example_keys
        >>> key = mx.random.key(0)
        >>> whole = example_keys(key, 8)
        >>> second_half = example_keys(key, 4, offset=4)
        >>> mx.array_equal(whole[4:], second_half).item()
        True

    Source: in JAX, ``jax.vmap(jax.random.fold_in, (None, 0))(key, positions)``.
    """
    check_comes_first(key, n, "example_keys(key, n)")
    if key.ndim != 1:
        raise ValueError(
            f"Received keys of shape {key.shape}. Expected one key, (2,), from which to "
            "derive a key for each example."
        )
    n = as_integer(n, "n")
    if n < 0:
        raise ValueError(f"Received n = {n} examples. Expected n >= 0.")
    first = as_words(offset, "offset")
    if first.ndim != 0:
        raise ValueError(
            f"Received an offset of shape {first.shape}. Expected one offset, of shape (); "
            "for keys at arbitrary positions: fold_in(key, positions)."
        )
    if not isinstance(offset, mx.array) and as_integer(offset, "offset") + n > 2**32:
        raise ValueError(
            f"Received offset {offset} for {n} examples. Expected positions below 2**32; "
            "to count further, fold in the step: example_keys(fold_in(key, step), n)."
        )
    return fold_in(key, first + mx.arange(n, dtype=mx.uint32))
