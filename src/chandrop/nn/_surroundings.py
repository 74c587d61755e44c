"""What surrounds a layer that draws by its own key: MLX's vmap, checkpoint and compile.

The wrappers of these functions, in ``_transforms``, say here that they are around, and the
layers ask.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop._global_stream import stream_state
from chandrop.nn._layers_of_the_call import call_around, path_in_the_call
from chandrop.nn._snapshot import Snapshot
from chandrop.random import fold_in

# The index of the member in each vmap around, the outermost first.
members: ContextVar[tuple[mx.array, ...]] = ContextVar("members", default=())
# What each checkpointed call around has noted of modules, as they were when first used.
notes: ContextVar[tuple[list[Snapshot], ...]] = ContextVar("notes", default=())
# The trace of mx.compile around, if any.
trace: ContextVar["Draws | None"] = ContextVar("trace", default=None)
# The draws in a call that a tool watches.
watched: ContextVar["Draws | None"] = ContextVar("watched", default=None)
# The layers that the recomputation around has built, with keys from MLX's global stream.
strays: ContextVar[list[nn.Module] | None] = ContextVar("strays", default=None)
# The transforms in which MLX's global stream has been drawn from, if a tool asks for them.
transforms_of_global_draws: ContextVar[set[str] | None] = ContextVar(
    "transforms_of_global_draws", default=None
)


@dataclass
class Draws:
    """The layers that have drawn by their own key.

    Attributes:
        drawn: all of them.
        frozen: those whose key is a constant of the trace.
    """

    drawn: list[Any] = field(default_factory=list)
    frozen: list[Any] = field(default_factory=list)


def key_of_member(key: mx.array) -> mx.array:
    """Folds the indices of the vmapped members into a key."""
    for index in members.get():
        key = fold_in(key, index)
    return key


def note(module: nn.Module, draws: bool = False) -> None:
    """Notes what a module is, for the recomputation of the checkpointed calls around.

    Raises:
        ValueError: it draws by a key that a tool has put into it, and that is no input of
            the checkpoint.
    """
    for noted in notes.get():
        if any(snapshot.holds(module) for snapshot in noted):
            continue
        if draws and path_in_the_call(module) is not None:
            raise ValueError(
                f"A {type(module).__name__} is called in a checkpoint, but is not in the "
                "module that is checkpointed, where mlx.nn finds layers: in attributes, "
                "lists, dicts and other modules. Put it there, or give it a key: "
                "layer(x, key=key)."
            )
        noted.append(Snapshot(module))


def note_new(layer: nn.Module) -> None:
    """Notes that a layer has a new key from MLX's global stream."""
    new = strays.get()
    if new is not None:
        new.append(layer)


def note_draw(layer: nn.Module, key: mx.array) -> None:
    """Notes that a layer draws by its own key, where a trace or a tool wants to know.

    Raises:
        ValueError: a recomputation has built the layer.
    """
    new = strays.get()
    if new and any(layer is stray for stray in new):
        raise ValueError(
            f"A {type(layer).__name__} is built or copied inside of a checkpointed "
            "function, so the recomputation draws another mask. Build it before, or give "
            "it a key: Dropout(0.5, key=key)."
        )
    for draws in (trace.get(), watched.get()):
        if draws is not None:
            draws.drawn.append(layer)
            if is_constant(key):
                draws.frozen.append(layer)


def is_constant(array: mx.array) -> bool:
    """Whether an array has a value now, and does not stand for an input of a trace."""
    try:
        mx.eval(array)
    except (RuntimeError, ValueError):
        return False
    return True


def call_in(transform: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function, and notes if it draws from MLX's global stream in a transform."""
    transforms = transforms_of_global_draws.get()
    if transforms is None:
        return function(*args, **kwargs)
    before = stream_state()
    result = function(*args, **kwargs)
    if stream_state() is not before:
        transforms.add(transform)
    return result


@contextmanager
def keys_are_given() -> Iterator[None]:
    """Lets layers draw by their keys as they are: a call was given these, by its caller.

    No index of a member around is folded in, and no trace around has to carry them.
    """
    with _set({members: (), trace: None, watched: None, strays: None}):
        yield


@contextmanager
def _set(values: Mapping[ContextVar[Any], Any]) -> Iterator[None]:
    tokens = [(variable, variable.set(value)) for variable, value in values.items()]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


class Surroundings:
    """What surrounds a call now, to be had again when the call is recomputed."""

    def __init__(self) -> None:
        self._values = {variable: variable.get() for variable in _OF_A_CALL}

    def run(
        self, indices: Sequence[mx.array], function: Callable[..., Any], *args: Any
    ) -> Any:
        """Calls a function in these surroundings, with other `indices` of the members."""
        with _set(self._values | {members: tuple(indices), strays: []}):
            return function(*args)


_OF_A_CALL: tuple[ContextVar[Any], ...] = (
    notes,
    trace,
    watched,
    call_around,
    transforms_of_global_draws,
)
