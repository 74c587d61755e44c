from collections.abc import Iterator
from typing import Any

import mlx.nn as nn

# The place of a container: that of the one it is in, and its name there.
Place = tuple[Any, Any] | None


def containers(model: nn.Module) -> Iterator[tuple[Place, Any]]:
    """Gives every module, list and dict of a model once, and its place.

    Also those that ``mlx.nn`` does not see: in a tuple or a set, and what is in a module
    past its own ``__setattr__``.
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
        if isinstance(value, dict):
            held: list[tuple[Any, Any]] = list(value.items())
            if isinstance(value, nn.Module):
                held += vars(value).items()
        else:
            held = list(enumerate(value))
        for name, item in reversed(held):
            # Each module has an empty set, of its frozen parameters.
            if isinstance(item, _MAY_CONTAIN) and (item or isinstance(item, (dict, list))):
                pending.append(((place, name), item))


_MAY_CONTAIN = (dict, list, tuple, set, frozenset)


def path_of(place: Place) -> str:
    """Gives a place as ``mlx.nn`` spells it, such as ``layers.0.dropout``."""
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(str(name))
    return ".".join(reversed(names))
