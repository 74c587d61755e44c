from collections.abc import Iterable
from typing import TypeVar

import mlx.nn as nn

from chandrop.nn._containers import containers

Layer = TypeVar("Layer", bound=nn.Module)


def layers_by_path(
    model: object, kind: type[Layer] | tuple[type[Layer], ...]
) -> dict[str, Layer]:
    """Returns the layers of one kind in a model by path, sorted by path.

    Paths are those of ``model.named_modules()``, the smallest of a layer at several places.
    Raises for a layer that ``mlx.nn`` does not find, such as one in a tuple.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"Received a model of type {type(model).__name__}. Expected an mlx.nn.Module."
        )
    layers: dict[str, Layer] = {}
    found = set()
    for path, layer in sorted(model.named_modules(), key=lambda item: item[0]):
        if not isinstance(layer, kind) or id(layer) in found:
            continue
        if path in layers:
            raise ValueError(f'Received a model with two layers at "{path}". Rename one.')
        layers[path] = layer
        found.add(id(layer))
    for path, hidden in containers(model):
        if isinstance(hidden, kind) and id(hidden) not in found:
            raise ValueError(
                f'Received a model with a {type(hidden).__name__} at "{path}" '
                "where mlx.nn does not look: it finds layers in attributes, lists and "
                "dicts, not in tuples or sets. Put it into a list."
            )
    return layers


def quoted(paths: Iterable[str]) -> str:
    """Lists paths for an error message."""
    return ", ".join(f'"{path}"' if path else "the model itself" for path in paths)
