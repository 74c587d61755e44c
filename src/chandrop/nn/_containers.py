from collections.abc import Iterator
from typing import Any

import mlx.nn as nn


def containers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Gives every module, list and dict of a model once, and a path to each.

    Also those that ``mlx.nn`` does not see: in a tuple or a set, and what is in a module
    past its own ``__setattr__``.
    """
    visited = set()
    pending: list[tuple[str, Any]] = [("", model)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, (dict, list)):
            if id(value) in visited:
                continue
            visited.add(id(value))
            yield path, value
        prefix = f"{path}." if path else ""
        for name, item in reversed(_items(value)):
            if isinstance(item, _MAY_CONTAIN):
                pending.append((f"{prefix}{name}", item))


_MAY_CONTAIN = (dict, list, tuple, set, frozenset)


def _items(container: Any) -> list[tuple[Any, Any]]:
    if not isinstance(container, dict):
        return list(enumerate(container))
    items = list(container.items())
    if isinstance(container, nn.Module):
        items += vars(container).items()
    return items
