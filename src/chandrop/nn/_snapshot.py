import copy
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from chandrop.nn._containers import containers
from chandrop.nn._threads import in_use, model_lock


class Snapshot:
    """All that a model holds at one time: arrays, keys, modes and other attributes.

    It is restored in place, so that references to its modules, lists and dicts stay valid.
    """

    def __init__(self, model: Any):
        self._parts = [_part(container) for _, container in containers(model)]

    @classmethod
    def of(cls, containers: Iterable[Any]) -> "Snapshot":
        """Takes a snapshot of modules, lists and dicts alone, not of those in them."""
        snapshot = cls.__new__(cls)
        snapshot._parts = [_part(container) for container in containers]
        return snapshot

    @cached_property
    def ids(self) -> set[int]:
        """The ids of the model's modules, lists and dicts."""
        return {id(container) for container, *_ in self._parts}

    @cached_property
    def arrays(self) -> list[mx.array]:
        """All arrays, including those in tuples."""
        arrays = []
        for _, _, value in self._places:
            if isinstance(value, mx.array):
                arrays.append(value)
            else:
                leaves = dict(tree_flatten(value, is_leaf=_is_not_tuple)).values()
                arrays += [leaf for leaf in leaves if isinstance(leaf, mx.array)]
        return arrays

    @cached_property
    def _places(self) -> list[tuple[Any, Any, Any]]:
        """The container, name and value of each array, or tuple, which may hold some."""
        return [
            (container, name, value)
            for container, _, contents, _ in self._parts
            for name, value in items(contents)
            if isinstance(value, (mx.array, tuple))
        ]

    def now(self) -> "Snapshot":
        """Returns a snapshot of what the same modules, lists and dicts hold now."""
        return Snapshot.of(container for container, *_ in self._parts)

    @property
    def contents(self) -> list[Any]:
        """What each list or dict, or module as a dict, holds."""
        return [contents for _, _, contents, _ in self._parts]

    def restore(self, arrays: Sequence[mx.array] | None = None) -> None:
        """Restores everything, with `arrays` in place of its own if they are given."""
        for container, kind, contents, attributes in self._parts:
            _refill(container, contents)
            if attributes is not None:
                container.__class__ = kind
                _refill(vars(container), _with_copied_sets(attributes))
        if arrays is not None:
            remaining = iter(arrays)
            for container, name, value in self._places:
                container[name] = tree_map(
                    lambda leaf: next(remaining) if isinstance(leaf, mx.array) else leaf,
                    value,
                    is_leaf=_is_not_tuple,
                )

    def restore_copies(self) -> None:
        """Restores copies of the arrays, which share their data.

        ``array += 1`` and ``array[0] = 1`` then change a copy, not what is to be restored.
        """
        copies = {id(array): copy.copy(array) for array in self.arrays}
        self.restore([copies[id(array)] for array in self.arrays])


@contextmanager
def restored_on_exit(model: Any) -> Iterator[Snapshot]:
    """Restores a model on exit; until then no other thread changes or calls it."""
    with model_lock:
        snapshot = Snapshot(model)
        with in_use(snapshot.ids):
            try:
                yield snapshot
            finally:
                snapshot.restore()


def with_copied_containers(output: Any) -> Any:
    """Returns an output in new lists, dicts and tuples.

    A model may return one that it holds, which would be restored with the model.
    """

    def check(value: Any) -> Any:
        if not isinstance(value, (Iterator, AsyncIterator, Coroutine)):
            return value
        if isinstance(value, Coroutine):
            value.close()
        raise TypeError(
            f"Received an output of type {type(value).__name__}, which computes after the "
            "call, when the model has been restored. Expected what is computed in the "
            "call: return a list, such as [layer(x) for layer in self.layers]."
        )

    return tree_map(check, output, is_leaf=lambda value: isinstance(value, nn.Module))


def items(contents: Any) -> Iterable[tuple[Any, Any]]:
    """Returns the items of a dict, or the enumerated ones of a list."""
    return contents.items() if isinstance(contents, dict) else enumerate(contents)


def _refill(container: Any, contents: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container += contents
    else:  # Not container.update, which a module has for parameters.
        dict.update(container, contents)


def _is_not_tuple(value: Any) -> bool:
    return not isinstance(value, tuple)


def _part(container: Any) -> tuple[Any, type[Any], Any, dict[str, Any] | None]:
    """Returns a module, list or dict with copies of what it holds."""
    contents = list(container) if isinstance(container, list) else dict(container)
    is_module = isinstance(container, nn.Module)
    attributes = _with_copied_sets(vars(container)) if is_module else None
    return container, type(container), contents, attributes


def _with_copied_sets(attributes: dict[str, Any]) -> dict[str, Any]:
    """Copies sets, such as that of the frozen parameters, which are changed in place."""
    return {
        name: value.copy() if type(value) is set else value
        for name, value in attributes.items()
    }
