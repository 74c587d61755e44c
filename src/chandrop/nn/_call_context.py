"""The context of a layer's call: transforms of MLX and tools of chandrop around it.

The wrappers in ``tools/_transforms`` and the tools set it; layers read it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from chandrop._global_stream import stream_state
from chandrop.nn._snapshot import Snapshot
from chandrop.random import Key, fold_in


class Draws:
    """The layers that drew by their own key, and those whose key is a constant there."""

    def __init__(self) -> None:
        self.drawn: list[Any] = []
        self.frozen: list[Any] = []


class ToolCall(NamedTuple):
    """A call of a model whose layers hold keys that a tool has put into them."""

    # The model, after those of the calls around it.
    models: tuple[nn.Module, ...]
    # The paths of the layers that may draw by their own key, by id.
    paths: dict[int, str]
    # The ids of the layers that have done so.
    called: set[int]


class CallContext(NamedTuple):
    """What is around a layer's call."""

    # The index of the member in each vmap, the outermost first.
    members: tuple[mx.array, ...] = ()
    # For each checkpointed call, the state of the modules when it first used them.
    snapshots: tuple[list[Snapshot], ...] = ()
    # In a recomputation: the layers that got a key from MLX's global stream.
    new: list[nn.Module] | None = None
    # The draws in a trace of mx.compile, and in a call that a tool watches.
    trace: Draws | None = None
    watched: Draws | None = None
    # The transforms in which MLX's global stream was drawn from.
    global_draws: set[str] | None = None
    tool_call: ToolCall | None = None
    # What a tool calls with the path, the input and the key of a layer that draws.
    observe: Callable[[str | None, object, Key], None] | None = None


# Most calls have nothing around them: layers then skip the rest.
NO_CONTEXT = CallContext()
call_context: ContextVar[CallContext] = ContextVar("call_context", default=NO_CONTEXT)


@contextmanager
def in_context(context: CallContext | None = None, /, **changes: Any) -> Iterator[None]:
    """Changes the context of layers' calls until exit: the current one, or `context`."""
    context = call_context.get() if context is None else context
    outer = call_context.set(context._replace(**changes))
    try:
        yield
    finally:
        call_context.reset(outer)


@contextmanager
def tool_call(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[set[int]]:
    """Lets only these layers draw by their own keys; yields the ids of those that did.

    The draws of a layer that the tool did not find would be lost or repeated.
    """
    outer = call_context.get().tool_call
    models, known = (outer.models, outer.paths) if outer else ((), {})
    paths = {id(layer): known.get(id(layer), path) for path, layer in layers.items()}
    call = ToolCall((*models, model), paths, set())
    # Keys that are given are not folded with a member's index, nor carried by a trace.
    with in_context(tool_call=call, members=(), trace=None, watched=None, new=None):
        yield call.called


def path_in_tool_call(layer: nn.Module) -> str | None:
    """Returns the path of a layer that draws by its own key; None outside a tool's call."""
    call = call_context.get().tool_call
    if call is None:
        return None
    if id(layer) not in call.paths:
        raise _not_found(layer, "called")
    call.called.add(id(layer))
    return call.paths[id(layer)]


def record_state(module: nn.Module, path: str | None = None) -> None:
    """Records a module before its use, for the recomputation of checkpoints around it.

    A layer with a `path` draws by a key that a tool has put into it: an input of the
    checkpoint, unless the checkpointed module does not hold the layer.
    """
    for snapshots in call_context.get().snapshots:
        if any(id(module) in snapshot.ids for snapshot in snapshots):
            continue
        if path is not None:
            raise _not_found(module, "checkpointed")
        snapshots.append(Snapshot(module))


def _not_found(layer: nn.Module, done: str) -> ValueError:
    return ValueError(
        f"A {type(layer).__name__} draws by its own key, but is not in the module that is "
        f"{done}, where mlx.nn finds layers: in attributes, lists, dicts and other "
        "modules. Put it there, or give it a key: layer(x, key=key)."
    )


def record_new(layer: nn.Module) -> None:
    """Records that a layer got a key from MLX's global stream."""
    new = call_context.get().new
    if new is not None:
        new.append(layer)


def record_draw(layer: nn.Module, key: Key, subkey: Key) -> Key:
    """Records that a layer draws by its own key; returns the key to draw with.

    That is the `subkey` of its key, folded with the index in each vmap around. Raises if a
    recomputation has built the layer.
    """
    context = call_context.get()
    if context.new and any(layer is new for new in context.new):
        raise ValueError(
            f"A {type(layer).__name__} is built or copied inside of a checkpointed "
            "function, so the recomputation draws another mask. Build it before, or give "
            "it a key: Dropout(0.5, key=key)."
        )
    for draws in (context.trace, context.watched):
        if draws is not None:
            draws.drawn.append(layer)
            if is_constant(key):
                draws.frozen.append(layer)
    for index in context.members:
        subkey = fold_in(subkey, index)
    return subkey


def is_constant(array: mx.array) -> bool:
    """Whether an array has a value, so that it is not an input of a trace."""
    try:
        mx.eval(array)
    except (RuntimeError, ValueError):
        return False
    return True


def call_in(
    transform: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """Calls a function, and records the transform if MLX's global stream is drawn from."""
    transforms = call_context.get().global_draws
    before = stream_state()
    result = function(*args, **kwargs)
    if transforms is not None and stream_state() is not before:
        transforms.add(transform)
    return result
