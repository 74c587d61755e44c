"""Checks that a call leaves its arguments and MLX's global stream as they were."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Number
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop._global_stream import set_stream, stream_state
from chandrop.nn._call_context import Draws, in_context, is_constant
from chandrop.nn._snapshot import Snapshot, items, with_copied_containers
from chandrop.random import Key

_PLAIN = (Number, str, bytes, mx.Dtype, type(None))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of a key and arguments whose calls raise if they are not pure.

    Each call is given copies of the arrays in its arguments, which share their data, so
    that ``x += 1`` and ``x[0] = 1`` change a copy. What else it changes in the arguments is
    restored and is an error, as is a draw from MLX's global stream or by a layer's own key.

    It sees neither what the function itself holds nor the draws of a function that
    ``mx.compile`` has traced before without ``mx.random.state``.
    """

    def call(key: Key, *args: Any) -> Any:
        with _lent(args) as own, _no_draw_by_own_key(key), _no_global_draw():
            # The output may be a container of an argument, which is restored.
            return with_copied_containers(function(key, *own))

    return call


@contextmanager
def _no_global_draw() -> Iterator[None]:
    """Raises if MLX's global stream moves, and restores it."""
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
        # A compiled function that carries the stream replaces it without drawing.
        if words == words_now:
            return
        set_stream(words)
    raise ValueError(
        "Received a model, or function, that draws from MLX's global stream. Expected it "
        "to draw by the key, since under mx.vmap all samples share other draws. Draw in a "
        "function fn(key, x) and pass the result to the model: in sample by "
        "key=chandrop.random.fold_in(key, 0), in predict by fold_in(key, 0)[0], once for "
        "all examples. Build layers before the call, since that draws, too."
    )


@contextmanager
def _no_draw_by_own_key(key: Key) -> Iterator[None]:
    """Raises if a layer draws by its own key, which is the same for all samples."""
    draws = Draws()
    with in_context(watched=draws):
        yield
    # In a loop over the keys, where they have values, samples differ all the same.
    if draws.frozen and not is_constant(key):
        raise ValueError(
            f"Received a function that calls a {draws.frozen[0]} without a key. Expected "
            "it to draw by the key that it is given: layer(x, key=key), or "
            "functional_call(model, {}, x, key=key, dropout=True); or the model itself in "
            "place of the function."
        )


@contextmanager
def _lent(args: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yields arguments with copies of their arrays; raises if anything else changes."""
    holder = [args]
    places, containers = zip(*_containers(holder), strict=True)
    before = Snapshot.of(containers)
    before.restore_copies()
    lent = before.now()
    try:
        yield holder[0]
        pairs = zip(places, lent.contents, lent.now().contents, strict=True)
        changes = [path for pair in pairs for path in _changes(*pair)]
    finally:
        before.restore()
    if changes:
        others = f" and {len(changes) - 3} others" if len(changes) > 3 else ""
        raise ValueError(
            "Received a model, or function, that changes its arguments: "
            f"{', '.join(changes[:3])}{others}. Expected it to leave them as they are, "
            "since they are the same for all keys. Give each key its own, such as a deep "
            "copy of a cache: sample(lambda key, x: functional_call(model, {}, x, "
            "copy.deepcopy(cache), key=key[None], dropout=True), keys, x)."
        )


def _containers(holder: list[Any]) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yields each list, dict and object's attributes in arguments, with its place.

    The place is a path, and how the path of an item continues it. Modules and functions are
    left out.
    """
    yield ("args", ""), holder
    visited = set()
    pending: deque[tuple[str, Any]] = deque([("args", holder[0])])
    while pending:
        path, value = pending.popleft()
        if isinstance(value, (*_PLAIN, mx.array, nn.Module, ModuleType)) or callable(value):
            continue
        parts: list[tuple[str, Any]] = []
        if isinstance(value, (list, tuple, dict)):
            parts.append(("[{!r}]", value))
        if hasattr(value, "__dict__"):
            parts.append((".{}", vars(value)))
        for item, part in parts:
            if id(part) in visited:
                continue
            pending += [(path + item.format(name), held) for name, held in items(part)]
            if not isinstance(part, tuple):
                visited.add(id(part))
                yield (path, item), part


def _changes(place: tuple[str, str], was: Any, now: Any) -> Iterator[str]:
    """Yields the paths of the items of a container that have changed."""
    path, item = place
    if isinstance(now, list) and len(now) != len(was):
        yield path
        return
    missing = object()
    before, after = dict(items(was)), dict(items(now))
    for name in {**before, **after}:
        if not _same(before.get(name, missing), after.get(name, missing)):
            yield path + item.format(name)


def _same(was: Any, now: Any) -> bool:
    """Whether two values are one object, or equal where that is plain to see."""
    if was is now:
        return True
    if type(was) is not type(now):
        return False
    if isinstance(was, tuple):
        return len(was) == len(now) and all(map(_same, was, now))
    # A nan is the same as a nan.
    return isinstance(was, _PLAIN) and bool(was == now or (was != was and now != now))
