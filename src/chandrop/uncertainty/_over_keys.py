"""Evaluating a function of a key, or a model, for many keys."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from chandrop._mlx import vmap
from chandrop.nn._containers import containers
from chandrop.nn.tools._model_keys import keyed_layers
from chandrop.nn.tools._purity import checked
from chandrop.nn.tools._subnetworks import subnetworks
from chandrop.random import Key, check_key
from chandrop.uncertainty._checks import as_count

Network = nn.Module | Callable[..., Any]
Dropout = bool | Callable[[str, nn.Module], bool] | None

_KEYS = "mx.random.split(mx.random.key(0), 32)"


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
            "Received dropout for a function. It chooses the layers of a model: pass the "
            "model, or choose in the function: "
            "functional_call(model, {}, x, key=key, dropout=...)."
        )
    yield checked(fn)


def chunks_of(keys: object, chunk: object) -> list[Key]:
    """Splits keys ``(S, 2)`` into chunks; by default, one of all keys."""
    if not isinstance(keys, mx.array):
        fix = "mx.stack(keys)" if isinstance(keys, (list, tuple)) else _KEYS
        raise TypeError(
            f"Received keys of type {type(keys).__name__}. Expected an mx.array (S, 2), "
            f"one key per sample: {fix}."
        )
    check_key(keys)
    if keys.ndim != 2 or len(keys) == 0:
        raise ValueError(
            f"Received keys of shape {keys.shape}. Expected (S, 2), one key per sample, "
            f"with S >= 1 samples: {_KEYS}."
        )
    size = len(keys) if chunk is None else as_count(chunk, "chunk")
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def chooses_weights(fn: Network, dropout: Dropout) -> bool:
    """Whether a key chooses which weights of a convolution are used, so vmap is slow."""
    if dropout is False or not isinstance(fn, nn.Module):
        return False
    chosen = {
        id(layer)
        for path, layer in keyed_layers(fn).items()
        if not callable(dropout) or dropout(path, layer)
    }
    return any(
        id(layer) in chosen and layer.p > 0
        for _, module in containers(fn)
        for layer in getattr(module, "weight_choosers", ())
    )


def over_keys(function: Callable[[Key], Any], keys: Key, one_by_one: bool = False) -> Any:
    """Evaluates a function for every key, by ``mx.vmap`` or one by one.

    One key alone never goes through ``mx.vmap``, for models that MLX cannot vmap.
    """
    if len(keys) > 1 and not one_by_one:
        return vmap(function)(keys)
    outputs = [function(key) for key in keys]
    return tree_map(lambda *arrays: mx.stack(list(arrays)), *outputs)


def joined(parts: list[Any]) -> Any:
    """Concatenates trees of arrays along axis 0, and empties the list.

    It evaluates one array after another, so only one at a time is in memory twice.
    """
    if len(parts) == 1:
        return parts.pop()
    tree = tree_map(lambda _: None, parts[0])
    leaves: list[Any] = [list(dict(tree_flatten(part)).values()) for part in parts]
    parts.clear()

    def join(_: None) -> mx.array:
        array = mx.concatenate([part.pop(0) for part in leaves])
        mx.eval(array)
        return array

    return tree_map(join, tree)


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Yields a function that advances a progress bar by a number of samples."""
    if not shown:
        yield lambda samples: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm.") from error
    with tqdm(total=total, unit="sample") as bar:
        yield bar.update
