import copy
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import RLock
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._containers import containers

# A tool changes a model for the time of a call: one thread at a time.
changing_models = RLock()


class Snapshot:
    """All that a model holds at one time: arrays, keys, modes and other attributes.

    It keeps the contents of every module, list and dict, and the classes of modules, and
    puts them back in place, so that whoever refers to one of these sees it restored.
    """

    def __init__(self, model: Any):
        self.model = model
        self._parts = [_part(container) for _, container in containers(model)]

    @cached_property
    def arrays(self) -> list[mx.array]:
        """The arrays, and those in tuples."""
        return [array for _, _, value in self._places for array in _arrays(value)]

    @cached_property
    def _places(self) -> list[tuple[Any, Any, Any]]:
        """Where there are arrays, or tuples, which may have some."""
        return [
            (container, place, value)
            for container, _, contents, _ in self._parts
            for place, value in _items(contents)
            if isinstance(value, (mx.array, tuple))
        ]

    @cached_property
    def identities(self) -> set[int]:
        """Those of the model's modules, lists and dicts."""
        return {id(container) for container, _, _, _ in self._parts}

    def holds(self, module: nn.Module) -> bool:
        """Whether a module is one of the model's."""
        return id(module) in self.identities

    def now(self) -> "Snapshot":
        """Takes a snapshot of what the same modules, lists and dicts hold now."""
        snapshot = Snapshot.__new__(Snapshot)
        snapshot.model = self.model
        snapshot._parts = [_part(container) for container, _, _, _ in self._parts]
        return snapshot

    def restore(self, arrays: Sequence[mx.array] | None = None) -> None:
        """Puts everything back, with other `arrays` in place of its own if given."""
        for container, kind, contents, attributes in self._parts:
            if isinstance(container, list):
                container[:] = contents
                continue
            container.clear()
            # Not container.update, which a module has for parameters.
            dict.update(container, contents)
            if attributes is not None:
                container.__class__ = kind
                own = vars(container)
                own.clear()
                own.update(_with_own_sets(attributes))
        if arrays is not None:
            remaining = iter(arrays)
            for container, place, value in self._places:
                container[place] = _with_arrays(remaining, value)

    def restore_copies(self) -> None:
        """Puts copies of the arrays in, which share their data.

        ``array += 1`` and ``array[0] = 1`` then change a copy, not what is to be restored.
        """
        copies = {id(array): copy.copy(array) for array in self.arrays}
        self.restore([copies[id(array)] for array in self.arrays])


def _part(container: Any) -> tuple[Any, type[Any], Any, dict[str, Any] | None]:
    """Gives a module, list or dict with its class, its contents and its attributes."""
    if isinstance(container, list):
        return container, list, list(container), None
    attributes = None
    if isinstance(container, nn.Module):
        attributes = _with_own_sets(vars(container))
    return container, type(container), dict(container), attributes


def _items(contents: Any) -> Iterable[tuple[Any, Any]]:
    return enumerate(contents) if isinstance(contents, list) else contents.items()


@contextmanager
def put_back(*models: Any) -> Iterator[list[Snapshot]]:
    """Puts back, on exit, all that models hold now, and gives that.

    Meanwhile no other thread changes a model.
    """
    with changing_models:
        before = [Snapshot(model) for model in models]
        try:
            yield before
        finally:
            for snapshot in reversed(before):
                snapshot.restore()


def with_own_containers(output: Any) -> Any:
    """Gives an output in lists, dicts and tuples of its own.

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
            "call, when all is again as it was before. Expected what is computed in the "
            "call: return a list, such as [layer(x) for layer in self.layers]."
        )
    if isinstance(output, dict):
        return {name: with_own_containers(value) for name, value in output.items()}
    if isinstance(output, (list, tuple)):
        return rebuilt(output, map(with_own_containers, output))
    return output


def _with_own_sets(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copies sets, such as that of the frozen parameters, which are changed in place."""
    copied = attributes.copy()
    for name, value in attributes.items():
        if type(value) is set:
            copied[name] = value.copy()
    return copied


def _arrays(value: Any) -> Iterator[mx.array]:
    """Gives an array, or those in a tuple."""
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _arrays(item)


def _with_arrays(arrays: Iterator[mx.array], value: Any) -> Any:
    """Gives the next of `arrays` for an array, and for those in a tuple, rebuilt."""
    if isinstance(value, mx.array):
        return next(arrays)
    if isinstance(value, tuple):
        return rebuilt(value, (_with_arrays(arrays, item) for item in value))
    return value


def rebuilt(sequence: Any, items: Iterator[Any]) -> Any:
    if hasattr(sequence, "_fields"):
        return type(sequence)(*items)
    return type(sequence)(items)
