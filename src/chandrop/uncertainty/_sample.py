from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.random import Key
from chandrop.uncertainty._over_keys import (
    Dropout,
    Network,
    as_function,
    chooses_weights,
    chunks_of,
    joined,
    over_keys,
    progress_bar,
)


def sample(
    fn: Network,
    keys: Key,
    *args: Any,
    chunk: int | None = None,
    progress: bool = False,
    dropout: Dropout = None,
) -> Any:
    """Evaluates a function of a key, or a model's subnetworks, for every key.

    It applies ``mx.vmap`` over the keys, so whatever does not depend on the key is computed
    only once: dropout in the last layers alone costs little more than a single call.

    Args:
        fn: a model, or a pure function ``fn(key, *args)`` of one key ``(2,)``. Each key
            chooses one subnetwork of a model, the same for every example along axis 0. The
            model runs in eval mode with its dropout layers on, including those of
            ``mlx.nn``, and is afterwards as it was before.
        keys: one key per sample, ``(S, 2)``, as ``mx.random.split(key, S)`` returns.
        *args: the other arguments of `fn`. Each call receives copies of their arrays, so
            ``x += 1`` in `fn` does not change yours.
        chunk: the number of keys to evaluate at a time, which bounds the memory. Each chunk
            is evaluated, which is not possible within ``mx.compile`` and ``mx.vmap``. A
            chunk of 1 does without ``mx.vmap``, for models that MLX cannot vmap. Default:
            all keys at once, lazily; one by one for a model that thins convolutions with a
            :class:`chandrop.thin.ThinSequential`.
        progress: whether to show a progress bar, which needs tqdm and evaluates each chunk.
        dropout: which dropout layers of a model are on, as for
            :func:`chandrop.nn.functional_call`. Default: all.

    Returns:
        The outputs of `fn`, any tree of arrays, with a leading axis for the ``S`` keys.

    Raises:
        TypeError: `fn` is not callable or returns an iterator; `keys` is not an array of
            keys; `chunk` is not an int.
        ValueError: there are no keys; `chunk` is less than 1; `dropout` is given for a
            function; `fn` draws from MLX's global stream, or changes its arguments, such as
            a key-value cache; see :func:`chandrop.nn.functional_call`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout
        >>> from chandrop.uncertainty import sample
        >>> keys = mx.random.split(mx.random.key(0), 1000)
        >>> samples = sample(lambda key, x: dropout(x, 0.5, key), keys, mx.ones(3))
        >>> samples.shape
        (1000, 3)

    Source: Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016.
    """
    chunks = chunks_of(keys, chunk)
    one_by_one = chunk is None and chooses_weights(fn, dropout)
    parts = []
    with as_function(fn, dropout) as function, progress_bar(len(keys), progress) as advance:
        for chosen in chunks:
            # With a batch of one key, a model has one mask for all examples.
            drawn = chosen[:, None] if isinstance(fn, nn.Module) else chosen
            parts.append(over_keys(lambda key: function(key, *args), drawn, one_by_one))
            if chunk is not None or progress:
                mx.eval(parts[-1])
            advance(len(chosen))
    return joined(parts)
