import mlx.core as mx

from chandrop.random._as_integer import as_integer
from chandrop.random._check_key import check_key
from chandrop.random._place import KEY_WORDS, PLACE_WORDS

# Far below the 2**30 from which on orders and multiples would share bits.
_MOST = 2**20


def balanced_keys(key: mx.array, n: int) -> mx.array:
    """Gives the `n` members of an ensemble keys whose masks complement one another.

    Each member's mask has exactly the distribution that it has with a key of its own. But
    each channel is dropped by as near to ``p * n`` of the members as can be. So the mean of
    what is nearly a sum over channels varies less than with independent keys; that of what
    depends on pairs of channels may vary more.

    Args:
        key: a key ``(2,)``, ``uint32``.
        n: the number of members, a power of two up to ``2**20``. A part of them is no
            longer balanced.

    Returns:
        Balanced keys ``(n, 6)``, ``uint32``, each to be used where one key is. The first
        two words are a key that the members share; the others are the member's place in
        four random orders, as a fraction of ``2**32``. :func:`fold_in` and the tools for
        whole models hand the place on; ``mx.random`` does not take it.

    Raises:
        TypeError: `key` is not a ``uint32`` array; `n` is not an int.
        ValueError: `key` is not one key; `n` is not such a power of two.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import channel_mask
        >>> from chandrop.random import balanced_keys
        >>> keys = balanced_keys(mx.random.key(0), 8)
        >>> masks = mx.vmap(lambda key: channel_mask((5, 4), 0.25, key, 0))(keys)
        >>> (masks == 0).sum(0).tolist()
        [[2, 2, 2, 2]]

    Source: Latin hypercube sampling (McKay, Beckman and Conover, Technometrics 21, 1979)
    with one random shift for all members (Cranley and Patterson, SIAM Journal on Numerical
    Analysis 13, 1976): in place of its own uniform number, a channel of the member at
    `place` uses ``(u + odd * place) mod 1``, with one ``u``, one of the orders and one
    random odd number for all members, which permutes them further.
    """
    check_key(key)
    if key.shape != (KEY_WORDS,):
        raise ValueError(
            f"Received a key of shape {key.shape}. Expected one key, (2,), as "
            "mx.random.key(0) gives, to derive all members' keys from."
        )
    n = as_integer(n, "n")
    if not 0 < n <= _MOST or n & (n - 1):
        near = max(0, min(n, _MOST) - 1).bit_length()
        raise ValueError(
            f"Received n = {n} members. Expected a power of two up to 2**20, such as "
            f"{2**near}; mx.random.split(key, n) gives any number of independent keys."
        )
    shared, orders = mx.random.split(mx.stop_gradient(key))
    ranks = mx.argsort(mx.random.uniform(shape=(n, PLACE_WORDS), key=orders), axis=0)
    places = ranks.astype(mx.uint32) * mx.array(2**32 // n % 2**32, dtype=mx.uint32)
    return mx.concatenate([mx.broadcast_to(shared, (n, KEY_WORDS)), places], axis=-1)
