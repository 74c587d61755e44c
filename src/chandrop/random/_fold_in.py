import mlx.core as mx

from chandrop._checks import as_integer
from chandrop._mlx import vmap
from chandrop.random._check_key import Key, check_comes_first

# The golden ratio as a 32-bit fraction. Any constant would do, as long as the keys hashed
# for `data` are not keys that people make, such as mx.random.key(5).
_DOMAIN = 0x9E3779B9


def fold_in(key: Key, data: int | mx.array) -> Key:
    """Derives a new key from a key and an integer: a step, an example, a layer.

    The same arguments always return the same key, and different `data` return independent
    keys, in any order. Arrays derive many keys in one call.

    Args:
        key: a key ``(2,)`` or an array of keys ``(..., 2)``, ``uint32``.
        data: an int in ``[0, 2**32)``, or an array of integers of shape ``(...)``, which
            wrap around at ``2**32``. The shape of `key`, without its last axis, and the
            shape of `data` broadcast as in NumPy.

    Returns:
        Keys of shape ``(..., 2)``, ``uint32``.

    Raises:
        TypeError: `key` is not a ``uint32`` array; `data` does not hold integers.
        ValueError: `key` has the wrong shape; `data` is out of range; the shapes do not
            broadcast.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.random import fold_in
        >>> key = mx.random.key(0)
        >>> fold_in(key, 7).shape
        (2,)
        >>> fold_in(key, mx.arange(5)).shape
        (5, 2)

    Source: threefry as a hash, twice: ``draw(key + draw([0x9E3779B9, data]))`` with
    ``draw(k) = split(k, 1)[0]`` (Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
    as easy as 1, 2, 3", SC 2011). It differs from ``jax.random.fold_in``, but JAX's
    ``split`` with ``jax_threefry_partitionable=False`` computes the same.
    """
    check_comes_first(key, data, "fold_in(key, data)")
    words = as_words(data)
    # RandomBits has no derivative, so it must not see a key that is differentiated.
    key = mx.stop_gradient(key)
    domain = mx.full(words.shape, _DOMAIN, dtype=mx.uint32)
    hashed = _draw(mx.stack([domain, words], axis=-1))
    try:
        # Not xor: under mx.vmap, MLX's bitwise operations read out of bounds.
        salted = key + hashed
    except ValueError as error:
        raise ValueError(
            f"Received {key.shape[:-1]} keys and data of shape {words.shape}, which do not "
            "broadcast. For a table of all pairs: fold_in(keys[:, None], data)."
        ) from error
    return _draw(salted)


def as_words(data: int | mx.array, name: str = "data") -> mx.array:
    """Converts an int or an array of integers to uint32, without a gradient."""
    if isinstance(data, mx.array):
        if not mx.issubdtype(data.dtype, mx.integer):
            raise TypeError(f"Received {name} of dtype {data.dtype}. Expected integers.")
        return mx.stop_gradient(data.astype(mx.uint32))
    expected = "an int or an mx.array of integers"
    if isinstance(data, (list, tuple)) or hasattr(data, "__array__"):
        expected += f": mx.array({name})"
    integer = as_integer(data, name, expected)
    if not 0 <= integer < 2**32:
        raise ValueError(
            f"Received {name} {integer}. Expected 0 <= {name} < 2**32: {name} % 2**32, or "
            "fold in twice for more bits."
        )
    return mx.array(integer, dtype=mx.uint32)


def _draw(keys: mx.array) -> mx.array:
    if keys.ndim == 1:
        return mx.random.split(keys, 1)[0]
    # MLX divides by the number of keys.
    if keys.size == 0:
        return keys
    flat = vmap(lambda key: mx.random.split(key, 1)[0])(keys.reshape(-1, 2))
    return flat.reshape(keys.shape)
