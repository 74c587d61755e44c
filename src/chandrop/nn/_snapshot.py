import copy
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._containers import containers
from chandrop.nn._threads import model_lock


class _Part(NamedTuple):
    """A module, list or dict, with copies of what it held."""

    container: Any
    kind: type[Any]
    contents: Any
    attributes: dict[str, Any] | None


class Snapshot:
    """All that a model holds at one time: arrays, keys, modes and other attributes.

    It is restored in place, so that references to its modules, lists and dicts stay valid.
    """

    def __init__(self, model: Any):
        self._parts = [_part(container) for _, container in containers(model)]

    @cached_property
    def ids(self) -> set[int]:
        """The ids of the model's modules, lists and dicts."""
        return {id(part.container) for part in self._parts}

    @cached_property
    def arrays(self) -> list[mx.array]:
        """All arrays, including those in tuples."""
        return [array for _, _, value in self._places for array in _arrays(value)]

    @cached_property
    def _places(self) -> list[tuple[Any, Any, Any]]:
        """Each array, and each tuple, which may hold some, with its container and name."""
        return [
            (part.container, name, value)
            for part in self._parts
            for name, value in items(part.contents)
            if isinstance(value, (mx.array, tuple))
        ]

    def holds(self, module: nn.Module) -> bool:
        """Whether a module is one of the model's."""
        return id(module) in self.ids

    def now(self) -> "Snapshot":
        """Returns a snapshot of what the same modules, lists and dicts hold now."""
        snapshot = Snapshot.__new__(Snapshot)
        snapshot._parts = [_part(part.container) for part in self._parts]
        return snapshot

    def restore(self, arrays: Sequence[mx.array] | None = None) -> None:
        """Restores everything, with `arrays` in place of its own if they are given."""
        for container, kind, contents, attributes in self._parts:
            if isinstance(container, list):
                container[:] = contents
                continue
            container.clear()
            # Not container.update, which a module has for parameters.
            dict.update(container, contents)
            if attributes is not None:
                container.__class__ = kind
                vars(container).clear()
                vars(container).update(_with_copied_sets(attributes))
        if arrays is not None:
            remaining = iter(arrays)
            for container, name, value in self._places:
                container[name] = _with_arrays(remaining, value)

    def restore_copies(self) -> None:
        """Restores copies of the arrays, which share their data.

        ``array += 1`` and ``array[0] = 1`` then change a copy, not what is to be restored.
        """
        copies = {id(array): copy.copy(array) for array in self.arrays}
        self.restore([copies[id(array)] for array in self.arrays])


@contextmanager
def restored_on_exit(model: Any) -> Iterator[Snapshot]:
    """Restores a model on exit; no other thread changes a model until then."""
    with model_lock:
        snapshot = Snapshot(model)
        try:
            yield snapshot
        finally:
            snapshot.restore()


def with_copied_containers(output: Any) -> Any:
    """Returns an output in new lists, dicts and tuples.

    A model may return one that it holds, which would be restored with the model.

    Raises:
        TypeError: the output has an iterator or a coroutine, such as a generator.
    """
    if isinstance(output, (mx.array, nn.Module)):
        return output
    if isinstance(output, (Iterator, AsyncIterator, Coroutine)):
        if isinstance(output, Coroutine):
            output.close()
        raise TypeError(
            f"Received an output of type {type(output).__name__}, which computes after the "
            "call, when the model has been restored. Expected what is computed in the "
            "call: return a list, such as [layer(x) for layer in self.layers]."
        )
    if isinstance(output, dict):
        return {name: with_copied_containers(value) for name, value in output.items()}
    if isinstance(output, (list, tuple)):
        return rebuilt(output, map(with_copied_containers, output))
    return output


def rebuilt(sequence: Any, values: Iterable[Any]) -> Any:
    """Returns a list, tuple or named tuple of the same type with other values."""
    if hasattr(sequence, "_fields"):
        return type(sequence)(*values)
    return type(sequence)(values)


def items(contents: Any) -> Iterable[tuple[Any, Any]]:
    """Returns the items of a dict, or the enumerated ones of a list."""
    return contents.items() if isinstance(contents, dict) else enumerate(contents)


def _part(container: Any) -> _Part:
    attributes = None
    if isinstance(container, nn.Module):
        attributes = _with_copied_sets(vars(container))
    contents = list(container) if isinstance(container, list) else dict(container)
    return _Part(container, type(container), contents, attributes)


def _with_copied_sets(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copies sets, such as that of the frozen parameters, which are changed in place."""
    return {
        name: value.copy() if type(value) is set else value
        for name, value in attributes.items()
    }


def _arrays(value: Any) -> list[mx.array]:
    """Returns an array, or those in a tuple, as a list."""
    if isinstance(value, tuple):
        return [array for item in value for array in _arrays(item)]
    return [value] if isinstance(value, mx.array) else []


def _with_arrays(arrays: Iterator[mx.array], value: Any) -> Any:
    """Replaces an array, or those in a tuple, by the next of `arrays`."""
    if isinstance(value, tuple):
        return rebuilt(value, [_with_arrays(arrays, item) for item in value])
    return next(arrays) if isinstance(value, mx.array) else value
