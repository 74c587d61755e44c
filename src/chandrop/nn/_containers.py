from collections.abc import Iterator
from typing import Any

import mlx.nn as nn


def containers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yields the path of every module, list and dict of a model, and it, once.

    Unlike ``mlx.nn``, it looks into tuples and sets, and past a module's ``__setattr__``.
    """
    visited = set()
    pending = [("", model)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, (dict, list)):
            if id(value) in visited:
                continue
            visited.add(id(value))
            yield path, value
        named = value.items() if isinstance(value, dict) else enumerate(value)
        held: list[tuple[Any, Any]] = list(named)
        if isinstance(value, nn.Module):
            held += vars(value).items()
        for name, item in reversed(held):
            # Each module has a set, of its frozen parameters, which is mostly empty.
            if isinstance(item, (dict, list)) or (
                isinstance(item, (tuple, set, frozenset)) and item
            ):
                pending.append((f"{path}.{name}" if path else str(name), item))
