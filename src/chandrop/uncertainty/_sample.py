from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.uncertainty._over_keys import (
    Dropout,
    Network,
    as_function,
    chunks_of,
    is_one_by_one,
    joined,
    over_keys,
)
from chandrop.uncertainty._progress import progress_bar


def sample(
    fn: Network,
    keys: mx.array,
    *args: Any,
    chunk: int | None = None,
    progress: bool = False,
    dropout: Dropout = None,
) -> Any:
    """Evaluates a function of a key, or a model's subnetworks, for every key.

    It is ``mx.vmap`` over the keys: what does not depend on the key is computed once for
    all of them, so that dropout in the last layers alone costs little more than one call.

    Args:
        fn: a pure function ``fn(key, *args)`` of one key ``(2,)``; or a model, of which
            each key chooses one subnetwork, the same for every example (its batch is axis
            0). The model is called in eval mode, but with its dropout layers on, those of
            ``mlx.nn`` too, and is left as it was.
        keys: keys ``(S, 2)``, as ``mx.random.split(key, S)`` gives, or
            :func:`chandrop.random.balanced_keys`.
        *args: what `fn` is called with after the key. Each call is given copies of the
            arrays in it, so that ``x += 1`` inside changes none.
        chunk: how many keys at a time, which bounds the memory. Each chunk is evaluated,
            so that with it `sample` can't be used within ``mx.compile`` and ``mx.vmap``. A
            chunk of 1 does without ``mx.vmap``, for models that MLX cannot vmap. Default:
            all at once, without evaluating them; of a model that thins
            convolutions, by a :class:`chandrop.nn.ThinSequential`, one after another.
        progress: whether to show a progress bar, for which tqdm has to be installed. Each
            chunk is then evaluated, too.
        dropout: for a model: which dropout layers are on, as for
            :func:`chandrop.nn.functional_call`. Default: all.

    Returns:
        What `fn` returns, any tree of arrays, with a leading axis for the ``S`` keys.

    Raises:
        TypeError: `fn` is not callable or returns an iterator, `keys` are no keys, or
            `chunk` is not an int.
        ValueError: there are no keys; `chunk` is less than 1; `dropout` is given for a
            function; `fn` draws from MLX's global stream, or changes what its arguments
            hold in lists, dicts and attributes of objects, such as a key-value cache; else
            see :func:`chandrop.nn.functional_call`.

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
    chunks, one_by_one = chunks_of(keys, chunk), is_one_by_one(fn, chunk, dropout)
    parts = []
    with as_function(fn, dropout) as function, progress_bar(len(keys), progress) as advance:
        for chosen in chunks:
            # A model takes a key for all examples in a batch of one.
            drawn = chosen[:, None] if isinstance(fn, nn.Module) else chosen
            parts.append(over_keys(lambda key: function(key, *args), drawn, one_by_one))
            if chunk is not None or progress:
                mx.eval(parts[-1])
            advance(len(chosen))
    return joined(parts)
