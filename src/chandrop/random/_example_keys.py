import mlx.core as mx

from chandrop.random._as_integer import as_integer
from chandrop.random._check_key import check_key
from chandrop.random._fold_in import as_words, fold_in


def example_keys(key: mx.array, n: int, offset: int | mx.array = 0) -> mx.array:
    """Gives each of `n` examples a key of its own, by its place in the whole batch.

    Every function and layer of chandrop takes these keys where it takes one key. An
    example's mask then depends on its place alone and not on how the batch was cut:
    the part that begins at example `offset` gets ``example_keys(key, n, offset)``.

    Args:
        key: a key ``(2,)``, ``uint32``.
        n: the number of examples.
        offset: the place of the first example: an int, or an integer array of shape ``()``,
            whose places are taken modulo ``2**32``.

    Returns:
        Keys of shape ``(n, 2)``, ``uint32``: ``fold_in(key, mx.arange(n) + offset)``.

    Raises:
        TypeError: `key` is not a ``uint32`` array; `n` or `offset` is not an integer.
        ValueError: `key` is not one key; `n` is negative; `offset` is not one offset, or
            as an int takes a place to ``2**32``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.random import example_keys
        >>> key = mx.random.key(0)
        >>> whole = example_keys(key, 8)
        >>> second_half = example_keys(key, 4, offset=4)
        >>> mx.array_equal(whole[4:], second_half).item()
        True
    """
    check_key(key)
    if key.ndim != 1:
        raise ValueError(
            f"Received keys of shape {key.shape}. Expected one key, (2,), to give "
            "each example a key of its own."
        )
    n = as_integer(n, "n")
    if n < 0:
        raise ValueError(f"Received n = {n} examples. Expected n >= 0.")
    first = as_words(offset)
    if first.ndim != 0:
        raise ValueError(
            f"Received an offset of shape {first.shape}. Expected one offset, of shape (); "
            "for keys at places of any order: fold_in(key, places)."
        )
    if not isinstance(offset, mx.array) and as_integer(offset, "offset") + n > 2**32:
        raise ValueError(
            f"Received offset {offset} for {n} examples. Expected places below 2**32; "
            "to count further, fold the step in: example_keys(fold_in(key, step), n)."
        )
    return fold_in(key, first + mx.arange(n, dtype=mx.uint32))
