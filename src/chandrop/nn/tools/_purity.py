"""What a call leaves as it was: its arguments, and MLX's global stream."""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Number
from types import ModuleType
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from chandrop._global_stream import set_stream, stream_state
from chandrop.nn._call_context import Draws, in_context, is_constant
from chandrop.nn._snapshot import rebuilt, with_own_containers

_PLAIN = (Number, str, bytes, mx.Dtype, type(None))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a function of a key and arguments whose calls raise if they are not pure.

    Each call is given copies of the arrays in its arguments, which share their data, so
    that ``x += 1`` and ``x[0] = 1`` change a copy. What else it changes of the arguments is
    put back, and is an error. So is a draw from MLX's global stream, or by a layer's own
    key.

    It sees neither what the function holds itself, nor draws of a function that
    ``mx.compile`` has traced before without ``mx.random.state``.
    """

    def call(key: mx.array, *args: Any) -> Any:
        with _lent(args) as own, _no_draw_by_another_key(key), _no_global_draw():
            # What it returns may be a container of an argument, which is put back.
            return with_own_containers(function(key, *own))

    return call


@contextmanager
def _no_global_draw() -> Iterator[None]:
    """Raises if MLX's global stream has moved meanwhile, and puts it back."""
    before = stream_state()
    yield
    now = stream_state()
    if now is before:
        return
    try:
        words, words_now = before.tolist(), now.tolist()
    except ValueError:
        # A trace of mx.compile that carries the stream: its words are not known yet.
        pass
    else:
        # So does a compiled function that carries the stream without drawing.
        if words == words_now:
            return
        set_stream(words)
    raise ValueError(
        "Received a model, or function, that draws from MLX's global stream. Expected it "
        "to draw by the key: other draws do not depend on it, and under mx.vmap all "
        "samples share them. Draw in a function fn(key, x) and give the model what is "
        "drawn: in sample by key=chandrop.random.fold_in(key, 0), in predict by "
        "key=chandrop.random.fold_in(key, 0)[0], once for all examples. Build layers "
        "before the call, since that draws, too."
    )


@contextmanager
def _no_draw_by_another_key(key: mx.array) -> Iterator[None]:
    """Raises if a layer has drawn by its own key, the same for all samples."""
    seen = Draws()
    with in_context(watched=seen):
        yield
    # In a loop over the keys, where they have values, samples differ all the same.
    if seen.frozen and not is_constant(key):
        raise ValueError(
            f"Received a function that calls a {seen.frozen[0]} without a key. Expected it "
            "to draw by the key that it is given: layer(x, key=key), or "
            "functional_call(model, {}, x, key=key, dropout=True); or the model itself in "
            "place of the function."
        )


class _Container(NamedTuple):
    """A list, a dict, or the dict of an object's attributes, and what it held."""

    place: str
    item: str
    itself: Any
    contents: Any


@contextmanager
def _lent(args: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Gives arguments with copies of their arrays; raises if anything else changes."""
    containers = list(_containers(args))
    copies: dict[int, mx.array] = {}
    lent = [_with_copies(container.contents, copies) for container in containers]
    _put(containers, lent)
    try:
        yield _with_copies(args, copies)
        changes = [
            place
            for container, contents in zip(containers, lent, strict=True)
            for place in _changes(container, contents)
        ]
    finally:
        _put(containers, [container.contents for container in containers])
    if changes:
        others = f" and {len(changes) - 3} others" if len(changes) > 3 else ""
        raise ValueError(
            "Received a model, or function, that changes its arguments: "
            f"{', '.join(changes[:3])}{others}. Expected it to leave them as they are, "
            "since all keys are given the same. Give each key its own, such as a deep copy "
            "of a cache: sample(lambda key, x: functional_call(model, {}, x, "
            "copy.deepcopy(cache), key=key[None], dropout=True), keys, x)."
        )


def _containers(args: tuple[Any, ...]) -> Iterator[_Container]:
    """Gives all containers in arguments once, but for those of modules and functions."""
    visited = set()
    pending: deque[tuple[str, Any]] = deque([("args", args)])
    while pending:
        place, value = pending.popleft()
        if isinstance(value, (*_PLAIN, mx.array, nn.Module, ModuleType)) or callable(value):
            continue
        if isinstance(value, tuple):
            pending.extend((f"{place}[{i}]", item) for i, item in enumerate(value))
        parts = [("[{!r}]", value)] if isinstance(value, (list, dict)) else []
        if hasattr(value, "__dict__"):
            parts.append((".{}", vars(value)))
        for item, part in parts:
            if id(part) in visited:
                continue
            visited.add(id(part))
            contents = list(part) if isinstance(part, list) else dict(part)
            yield _Container(place, item, part, contents)
            pending.extend((place + item.format(n), held) for n, held in _items(contents))


def _items(contents: Any) -> Any:
    return contents.items() if isinstance(contents, dict) else enumerate(contents)


def _with_copies(value: Any, copies: dict[int, mx.array]) -> Any:
    """Gives a copy of an array, or of what a container or tuple holds, with such copies."""
    if isinstance(value, dict):
        return {name: _lendable(item, copies) for name, item in value.items()}
    items = (_lendable(item, copies) for item in value)
    return list(items) if isinstance(value, list) else rebuilt(value, items)


def _lendable(value: Any, copies: dict[int, mx.array]) -> Any:
    if isinstance(value, mx.array):
        return copies.setdefault(id(value), copy.copy(value))
    return _with_copies(value, copies) if isinstance(value, tuple) else value


def _put(containers: list[_Container], all_contents: list[Any]) -> None:
    for container, contents in zip(containers, all_contents, strict=True):
        if isinstance(container.itself, list):
            container.itself[:] = contents
        else:
            container.itself.clear()
            container.itself.update(contents)


def _changes(container: _Container, before: Any) -> Iterator[str]:
    """Gives the places in a container that are not as before."""
    now = container.itself
    if isinstance(now, list) and len(now) != len(before):
        yield container.place
        return
    was, is_now = dict(_items(before)), dict(_items(now))
    for name in {**was, **is_now}:
        if not (name in was and name in is_now and _same(was[name], is_now[name])):
            yield container.place + container.item.format(name)


def _same(was: Any, now: Any) -> bool:
    """Whether two values are one object, or equal where that is plain to see."""
    if was is now:
        return True
    if type(was) is not type(now):
        return False
    if isinstance(was, _PLAIN):
        # A nan is as it was, too.
        return bool(was == now or (was != was and now != now))
    if isinstance(was, tuple):
        return len(was) == len(now) and all(map(_same, was, now))
    return False
