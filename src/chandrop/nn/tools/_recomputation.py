"""A checkpointed call whose recomputation sees what the call saw."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop import _mlx
from chandrop.nn._call_context import call_context, call_in
from chandrop.nn._layers_of_the_call import in_use
from chandrop.nn._snapshot import Snapshot, changing_models, with_own_containers

_DTYPES = frozenset(dtype for dtype in vars(mx).values() if isinstance(dtype, mx.Dtype))
_EXACT = frozenset(dtype for dtype in _DTYPES if not mx.issubdtype(dtype, mx.inexact))
_CHECKPOINT = "mx.checkpoint"


def call_checkpointed(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    module: nn.Module | None = None,
) -> Any:
    """Calls a function by MLX's checkpoint, which calls it again for the gradient.

    Then each layer that the function uses is what it was when it was first used, and
    `module`, or else the models that a tool is calling, are what they were at the call.
    Afterwards all are what they were before.

    Args:
        fun: the function.
        args: its arguments.
        kwargs: its arguments by keyword.
        module: what the function depends on, beside its arguments, and is differentiated
            with respect to.
    """
    around = call_context.get()
    models = around.call.models if module is None else (module,)
    noted = [Snapshot(model) for model in models]
    # The arrays of a model may be members' of a vmap, and MLX calls the function once more
    # to map over it. So they have to be inputs, and the members' indices, too.
    inputs = [snapshot.arrays for snapshot in noted]
    # MLX crashes where no array is among the outputs.
    constant, anchor = _EXACT, None if module is None else mx.array(0.0)
    if module is None:
        # What a checkpointed function closes over has no gradient.
        constant = _DTYPES
        inputs = _with_constants(inputs, constant)
    is_first = True

    def function(inputs: Any, indices: Any, args: Any, kwargs: Any) -> Any:
        nonlocal is_first
        call: Callable[..., Any]
        if is_first:
            is_first = False
            now, call = around._replace(notes=(*around.notes, noted)), fun
        else:
            now = around._replace(members=tuple(indices), new=[])
            # If no layer was called, then nothing has to be as it was.
            call = partial(again, inputs) if noted else partial(call_in, _CHECKPOINT, fun)
        outer = call_context.set(now)
        try:
            return call(*args, **kwargs), anchor
        finally:
            call_context.reset(outer)

    def again(inputs: Any, /, *args: Any, **kwargs: Any) -> Any:
        if module is not None:
            # MLX would differentiate with respect to all arguments, such as indices.
            args, kwargs = _with_constants((args, kwargs), constant)
        inputs = _with_constants(inputs, constant)
        with changing_models, in_use(*(snapshot.identities for snapshot in noted)):
            held = [snapshot.now() for snapshot in noted]
            if module is None:
                # mlx.nn's checkpoint and mlx-lm's put parameters into what they close over.
                held += map(Snapshot, _modules_of(fun))
            try:
                for snapshot, arrays in zip_longest(noted, inputs):
                    snapshot.restore(arrays)
                return with_own_containers(call_in(_CHECKPOINT, fun, *args, **kwargs))
            finally:
                for snapshot in reversed(held):
                    snapshot.restore()

    return _mlx.checkpoint(function)(inputs, around.members, args, kwargs)[0]


def _modules_of(fun: Any) -> list[nn.Module]:
    """Gives the modules that a function is, or closes over."""
    if isinstance(fun, nn.Module):
        return [fun]
    held = []
    for cell in getattr(fun, "__closure__", None) or ():
        # A cell is empty until its variable is assigned.
        with suppress(ValueError):
            held.append(cell.cell_contents)
    return [value for value in held if isinstance(value, nn.Module)]


def _with_constants(tree: Any, dtypes: frozenset[mx.Dtype]) -> Any:
    """Gives a tree whose arrays of these dtypes have no gradient."""
    if isinstance(tree, mx.array):
        return mx.stop_gradient(tree) if tree.dtype in dtypes else tree
    if type(tree) is dict:
        return {name: _with_constants(value, dtypes) for name, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)([_with_constants(value, dtypes) for value in tree])
    return tree
