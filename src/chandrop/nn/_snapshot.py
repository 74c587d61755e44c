from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._containers import containers


class Snapshot:
    """All that a model holds at one time: arrays, keys, modes and other attributes.

    It keeps the contents of every module, list and dict, and puts them back in place, so
    that whoever refers to one of these sees it restored.
    """

    arrays: list[mx.array]

    def __init__(self, model: nn.Module):
        self._contents: list[tuple[Any, Any, dict[str, Any]]] = []
        self.arrays = []
        for _, container in containers(model):
            contents = dict(container) if isinstance(container, dict) else list(container)
            attributes = dict(vars(container)) if isinstance(container, nn.Module) else {}
            self._contents.append((container, contents, attributes))
            for value in contents.values() if isinstance(contents, dict) else contents:
                _map_arrays(self._append, value)

    def _append(self, array: mx.array) -> mx.array:
        self.arrays.append(array)
        return array

    def restore(self, arrays: Sequence[mx.array] | None = None) -> None:
        """Puts everything back, with other `arrays` in place of its own if given."""
        remaining = iter(self.arrays if arrays is None else arrays)

        def replaced(value: Any) -> Any:
            return _map_arrays(lambda _: next(remaining), value)

        for container, contents, attributes in self._contents:
            if isinstance(container, list):
                container[:] = map(replaced, contents)
                continue
            container.clear()
            for name, value in contents.items():
                container[name] = replaced(value)
            if isinstance(container, nn.Module):
                vars(container).clear()
                vars(container).update(attributes)


def _map_arrays(function: Callable[[mx.array], mx.array], value: Any) -> Any:
    """Applies `function` to an array, or to those in a tuple, which is rebuilt."""
    if isinstance(value, mx.array):
        return function(value)
    if type(value) is tuple:
        return tuple(_map_arrays(function, item) for item in value)
    return value
