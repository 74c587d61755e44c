"""What `sample` and `predict` share: a function of a key, keys in chunks, joining them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from chandrop._checks import as_integer
from chandrop._mlx import vmap
from chandrop.nn import get_keys
from chandrop.nn.tools._purity import checked
from chandrop.nn.tools._subnetworks import subnetworks
from chandrop.random import check_key

Network = nn.Module | Callable[..., Any]
Dropout = bool | Callable[[str, nn.Module], bool] | None

_KEYS = "mx.random.split(mx.random.key(0), 32)"


@contextmanager
def as_function(fn: Network, dropout: Dropout) -> Iterator[Callable[..., Any]]:
    """Gives a function of a key and inputs: `fn`, or the subnetworks of a model.

    Each of its calls is checked to be pure.
    """
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
            "Received dropout for a function, where it chooses the layers of a model. Give "
            "the model in place of the function, or choose inside: "
            "functional_call(model, {}, x, key=key, dropout=...)."
        )
    yield checked(fn)


def chunks_of(keys: Any, chunk: Any) -> list[mx.array]:
    """Cuts keys ``(S, 2)`` into parts of `chunk`, the last of which may be shorter."""
    if not isinstance(keys, mx.array):
        fix = "mx.stack(keys)" if isinstance(keys, (list, tuple)) else _KEYS
        raise TypeError(
            f"Received keys of type {type(keys).__name__}. Expected an mx.array (S, 2), "
            f"one key for each of S samples: {fix}."
        )
    check_key(keys)
    if keys.ndim != 2 or len(keys) == 0:
        raise ValueError(
            f"Received keys of shape {keys.shape}. Expected (S, 2), one key for each of S "
            f">= 1 samples: {_KEYS}."
        )
    size = as_size(chunk, "chunk", len(keys))
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def as_size(size: Any, name: str, whole: int) -> int:
    """Gives how many are taken at a time: by default the `whole`."""
    if size is None:
        return whole
    size = as_integer(size, name)
    if size < 1:
        raise ValueError(f"Received {name} = {size}. Expected at least 1, or None for all.")
    return int(size)


def is_one_by_one(fn: Network, chunk: int | None, dropout: Dropout) -> bool:
    """Whether keys are taken one after another by default: a key chooses weights."""
    if chunk is not None or dropout is False or not isinstance(fn, nn.Module):
        return False
    modules = dict(fn.named_modules())
    chosen = {
        id(modules[path])
        for path in get_keys(fn)
        if not callable(dropout) or dropout(path, modules[path])
    }
    return any(
        id(layer) in chosen and layer.p > 0
        for module in modules.values()
        for layer in getattr(module, "weight_choosers", ())
    )


def over_keys(
    function: Callable[[mx.array], Any], keys: mx.array, one_by_one: bool = False
) -> Any:
    """Evaluates a function for every key, by ``mx.vmap`` or one by one.

    One key needs no ``mx.vmap``: a chunk of one is there for what MLX cannot vmap.
    """
    if len(keys) > 1 and not one_by_one:
        return vmap(function)(keys)
    outputs = [function(key) for key in keys]
    return tree_map(lambda *arrays: mx.stack(list(arrays)), *outputs)


def joined(parts: list[Any]) -> Any:
    """Joins trees of evaluated arrays along axis 0, and empties the list of them.

    One array is joined after another, so that only one is there twice at a time.
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
