"""What surrounds a layer's call: MLX's transforms, and the tools of chandrop.

The wrappers of MLX's functions, in ``_transforms``, and the tools say here that they are
around, and the layers ask.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from chandrop._global_stream import stream_state
from chandrop.nn._snapshot import Snapshot
from chandrop.random import fold_in


@dataclass
class Draws:
    """The layers that have drawn by their own key.

    Attributes:
        drawn: all of them.
        frozen: those whose key is a constant of the trace.
    """

    drawn: list[Any] = field(default_factory=list)
    frozen: list[Any] = field(default_factory=list)


class Call(NamedTuple):
    """A tool's call of a model.

    Attributes:
        models: the model, and those of the calls around, the outermost first.
        paths: the paths of the layers that may draw, by the layers' identities.
        called: the layers that have been called to draw.
    """

    models: tuple[nn.Module, ...] = ()
    paths: dict[int, str] | None = None
    called: set[int] | None = None


class CallContext(NamedTuple):
    """What surrounds a layer's call.

    Attributes:
        members: the index of the member in each vmap, the outermost first.
        notes: what each checkpointed call has noted of modules, as they were when it first
            used them.
        new: the layers that a recomputation has built, with keys from MLX's global stream.
        trace: the draws in a trace of mx.compile.
        watched: the draws in a call that a tool watches.
        global_draws: the transforms in which MLX's global stream has been drawn from.
        call: the call of a tool.
    """

    members: tuple[mx.array, ...] = ()
    notes: tuple[list[Snapshot], ...] = ()
    new: list[nn.Module] | None = None
    trace: Draws | None = None
    watched: Draws | None = None
    global_draws: set[str] | None = None
    call: Call = Call()


# Most calls have nothing around them, and ask no further.
NO_CONTEXT = CallContext()
call_context: ContextVar[CallContext] = ContextVar("call_context", default=NO_CONTEXT)


@contextmanager
def in_context(**changes: Any) -> Iterator[None]:
    """Changes what surrounds the layers' calls meanwhile."""
    outer = call_context.set(call_context.get()._replace(**changes))
    try:
        yield
    finally:
        call_context.reset(outer)


def fold_in_members(key: mx.array) -> mx.array:
    """Folds the indices of the vmapped members into a key."""
    for index in call_context.get().members:
        key = fold_in(key, index)
    return key


def record_state(module: nn.Module, path: str | None = None) -> None:
    """Notes what a module is, for the recomputation of the checkpointed calls around.

    Args:
        module: the module, before it is used.
        path: its path, if it draws by a key that a tool has put into it.

    Raises:
        ValueError: the key that the tool has put in is no input of the checkpoint.
    """
    for noted in call_context.get().notes:
        if any(snapshot.holds(module) for snapshot in noted):
            continue
        if path is not None:
            raise ValueError(
                f"A {type(module).__name__} is called in a checkpoint, but is not in the "
                "module that is checkpointed, where mlx.nn finds layers: in attributes, "
                "lists, dicts and other modules. Put it there, or give it a key: "
                "layer(x, key=key)."
            )
        noted.append(Snapshot(module))


def record_new(layer: nn.Module) -> None:
    """Notes that a layer has a new key from MLX's global stream."""
    new = call_context.get().new
    if new is not None:
        new.append(layer)


def record_draw(layer: nn.Module, key: mx.array) -> None:
    """Notes that a layer draws by its own key, where a trace or a tool wants to know.

    Raises:
        ValueError: a recomputation has built the layer.
    """
    around = call_context.get()
    if around.new and any(layer is new for new in around.new):
        raise ValueError(
            f"A {type(layer).__name__} is built or copied inside of a checkpointed "
            "function, so the recomputation draws another mask. Build it before, or give "
            "it a key: Dropout(0.5, key=key)."
        )
    for draws in (around.trace, around.watched):
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


def call_in(
    transform: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Calls a function, and notes if it draws from MLX's global stream in a transform."""
    transforms = call_context.get().global_draws
    if transforms is None:
        return function(*args, **kwargs)
    before = stream_state()
    result = function(*args, **kwargs)
    if stream_state() is not before:
        transforms.add(transform)
    return result
