"""What surrounds a layer that draws by its own key: MLX's vmap, checkpoint and compile.

The wrappers of these functions, in ``_transforms``, say here that they are around, and the
layers ask.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop._global_stream import stream_state
from chandrop.nn._layers_of_the_call import path_in_the_call
from chandrop.nn._snapshot import Snapshot
from chandrop.random import fold_in

# The index of the member in each vmap around, the outermost first.
members: ContextVar[tuple[mx.array, ...]] = ContextVar("members", default=())
# What each checkpointed call around has noted of modules, as they were when first used.
notes: ContextVar[tuple[list[Snapshot], ...]] = ContextVar("notes", default=())
# The trace of mx.compile around, if any.
trace: ContextVar["Trace | None"] = ContextVar("trace", default=None)
# The transforms in which MLX's global stream has been drawn from, if a tool asks for them.
transforms_of_global_draws: ContextVar[set[str] | None] = ContextVar(
    "transforms_of_global_draws", default=None
)


@dataclass
class Trace:
    """What a trace of ``mx.compile`` has seen.

    Attributes:
        drawn: the layers that have drawn by their own key.
        frozen: those of them whose key is a constant of the trace.
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


def note_draw(layer: nn.Module, key: mx.array) -> None:
    """Tells the trace around, if any, that a layer draws by its own key."""
    around = trace.get()
    if around is None:
        return
    around.drawn.append(layer)
    if is_constant(key):
        around.frozen.append(layer)


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
    outer_members, outer_trace = members.set(()), trace.set(None)
    try:
        yield
    finally:
        members.reset(outer_members)
        trace.reset(outer_trace)


class Surroundings:
    """What surrounds a call now, to be had again when the call is recomputed."""

    def __init__(self) -> None:
        self._context = copy_context()

    def run(
        self, indices: Sequence[mx.array], function: Callable[..., Any], *args: Any
    ) -> Any:
        """Calls a function in these surroundings, with other `indices` of the members."""
        # A copy, since a context cannot be entered twice, as nested checkpoints do.
        return self._context.copy().run(_as_members, tuple(indices), function, *args)


def _as_members(
    indices: tuple[mx.array, ...], function: Callable[..., Any], *args: Any
) -> Any:
    members.set(indices)
    return function(*args)
