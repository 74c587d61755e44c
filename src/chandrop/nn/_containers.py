from collections.abc import Iterator
from typing import Any

import mlx.nn as nn

# Where a container is: the place of the one that holds it, and its name in that.
Place = tuple[Any, Any] | None


def containers(model: Any) -> Iterator[tuple[Place, Any]]:
    """Yields every module, list and dict of a model once, with its place.

    Unlike ``mlx.nn``, it looks into tuples and sets, and past a module's ``__setattr__``.
    """
    visited = set()
    pending: list[tuple[Place, Any]] = [(None, model)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, (dict, list)):
            if id(value) in visited:
                continue
            visited.add(id(value))
            yield place, value
        named = value.items() if isinstance(value, dict) else enumerate(value)
        held: list[tuple[Any, Any]] = list(named)
        if isinstance(value, nn.Module):
            held += vars(value).items()
        for name, item in reversed(held):
            if isinstance(item, (dict, list, tuple, set, frozenset)):
                pending.append(((place, name), item))


def path_of(place: Place) -> str:
    """Returns the path of a place as ``mlx.nn`` spells it, such as ``layers.0.dropout``."""
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(str(name))
    return ".".join(reversed(names))
