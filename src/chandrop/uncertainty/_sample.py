from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from chandrop._mlx import vmap
from chandrop.nn.tools._purity import checked
from chandrop.nn.tools._subnetworks import chooses_weights, subnetworks
from chandrop.random import Key, check_key
from chandrop.uncertainty._checks import as_count

Network = nn.Module | Callable[..., Any]
Dropout = bool | Callable[[str, nn.Module], bool] | None

_KEYS = "mx.random.split(mx.random.key(0), 32)"


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
            ``mlx.nn``, and is restored afterwards.
        keys: one key per sample, ``(S, 2)``, as ``mx.random.split(key, S)`` returns.
        *args: the other arguments of `fn`. Each call receives copies of their arrays, so
            ``x += 1`` in `fn` does not change yours.
        chunk: the number of keys to evaluate at a time, which bounds the memory. It does
            not work within ``mx.compile`` and ``mx.vmap``. A chunk of 1 does not use
            ``mx.vmap``, for models that MLX cannot vmap. Default: all keys, without
            evaluating them; one by one for a model whose
            :class:`chandrop.thin.ThinSequential` thins convolutions.
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
    is_lazy = chunk is None and not progress
    chunks = chunks_of(keys, chunk, fn, dropout)
    parts = []
    with as_function(fn, dropout) as function, progress_bar(len(keys), progress) as advance:
        for chosen in chunks:
            # With a batch of one key, a model has one mask for all examples.
            drawn = chosen[:, None] if isinstance(fn, nn.Module) else chosen
            parts.append(over_keys(lambda key: function(key, *args), drawn))
            if not is_lazy:
                mx.eval(parts[-1])
            advance(len(chosen))
    return joined(parts, is_lazy)


def chunks_of(keys: object, chunk: object, fn: Network, dropout: Dropout) -> list[Key]:
    """Splits keys ``(S, 2)`` into the chunks that are evaluated at a time."""
    if not isinstance(keys, mx.array):
        fix = "mx.stack(keys)" if isinstance(keys, (list, tuple)) else _KEYS
        raise TypeError(
            f"Received keys of type {type(keys).__name__}. Expected an mx.array: {fix}."
        )
    check_key(keys)
    if keys.ndim != 2 or len(keys) == 0:
        raise ValueError(
            f"Received keys of shape {keys.shape}. Expected (S, 2) for S >= 1 samples: "
            f"{_KEYS}."
        )
    if chunk is None:
        # MLX is slow, or fails, where it vmaps the weights of a convolution.
        is_slow = isinstance(fn, nn.Module) and chooses_weights(
            fn, True if dropout is None else dropout
        )
        chunk = 1 if is_slow else len(keys)
    size = as_count(chunk, "chunk")
    return [keys[start : start + size] for start in range(0, len(keys), size)]


@contextmanager
def as_function(fn: Network, dropout: Dropout) -> Iterator[Callable[..., Any]]:
    """Yields `fn`, or a model's subnetworks, as a function that is checked to be pure."""
    if isinstance(fn, nn.Module):
        with subnetworks(fn, True if dropout is None else dropout) as function:
            yield checked(function)
        return
    if isinstance(fn, type) or not callable(fn):
        received = f"the class {fn.__name__}" if isinstance(fn, type) else f"fn {type(fn)}"
        raise TypeError(
            f"Received {received}. Expected a model, or a function of a key and an input."
        )
    if dropout is not None:
        raise ValueError(
            "Received dropout for a function. Pass the model instead, or choose in the "
            "function: functional_call(model, {}, x, key=key, dropout=...)."
        )
    yield checked(fn)


def over_keys(function: Callable[[Key], Any], keys: Key) -> Any:
    """Evaluates a function for every key, by ``mx.vmap`` if there is more than one."""
    if len(keys) > 1:
        return vmap(function)(keys)
    return tree_map(lambda array: array[None], function(keys[0]))


def joined(parts: list[Any], is_lazy: bool = False) -> Any:
    """Concatenates trees along axis 0; unless lazy, one array at a time, to save memory."""
    if len(parts) == 1:
        return parts.pop()
    tree = tree_map(lambda _: None, parts[0])
    leaves: list[Any] = [list(dict(tree_flatten(part)).values()) for part in parts]
    parts.clear()

    def join(_: None) -> mx.array:
        array = mx.concatenate([part.pop(0) for part in leaves])
        if not is_lazy:
            mx.eval(array)
        return array

    return tree_map(join, tree)


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    if not shown:
        yield lambda samples: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm.") from error
    with tqdm(total=total, unit="sample") as bar:
        yield bar.update
