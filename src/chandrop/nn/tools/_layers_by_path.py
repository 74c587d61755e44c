from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from chandrop._checks import of_type
from chandrop.nn._containers import containers

Layer = TypeVar("Layer", bound=nn.Module)


def layers_by_path(
    model: object, kind: type[Layer] | tuple[type[Layer], ...]
) -> dict[str, Layer]:
    """Returns the layers of one kind in a model by path, sorted by path.

    Paths are those of ``model.named_modules()``, the smallest of a layer at several places.
    Raises for a layer that ``mlx.nn`` does not find, such as one in a tuple.
    """
    model = as_module(model, "a model")
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


def as_module(module: object, name: str, use: str = "") -> nn.Module:
    """Returns a module; raises for anything else, and says what it is for."""
    if isinstance(module, nn.Module):
        return module
    if isinstance(module, type):
        use = f"; build it: {module.__name__}(...)"
    elif isinstance(module, mx.array) or callable(module):
        use += ", as the first argument"
    raise TypeError(f"Received {name} {of_type(module)}. Expected an mlx.nn.Module{use}.")


def choose(
    layers: Mapping[str, Layer], function: Callable[[str, nn.Module], bool], name: str
) -> dict[str, Layer]:
    """Returns the layers for which a function, given as the argument `name`, is true."""
    check_choice(function, name, layers)
    chosen = {path: layer for path, layer in layers.items() if function(path, layer)}
    if not chosen:
        raise ValueError(
            f"The function given as {name} chose no layer. The layers to choose from are: "
            f"{quoted(layers) or 'none'}."
        )
    return chosen


def check_choice(function: object, name: str, layers: Iterable[str]) -> None:
    """Raises unless `function` takes a path and a layer."""
    if isinstance(function, type) or not _takes_path_and_layer(function):
        # By its name, since a layer of mlx.nn may be converted by then.
        kind = function if isinstance(function, type) else nn.Dropout
        raise TypeError(
            f"Received {name} = {function!r}. Expected "
            f"{'True, False, None or ' if name == 'dropout' else ''}a function of a path, "
            f"one of {quoted(layers) or 'none'}, and a layer: {name}=lambda path, layer: "
            f'type(layer).__name__ == "{kind.__name__}".'
        )


def _takes_path_and_layer(function: Any) -> bool:
    import inspect  # Late, since it takes as long as all of chandrop.

    try:
        inspect.signature(function).bind("", None)
    except TypeError:
        return False
    except ValueError:
        pass  # It has no signature.
    return True


def quoted(paths: Iterable[str]) -> str:
    """Lists paths for an error message."""
    return ", ".join(f'"{path}"' if path else "the model itself" for path in paths)
