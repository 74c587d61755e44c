"""A checkpointed call whose recomputation sees what the call saw."""

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop import _mlx
from chandrop.nn._layers_of_the_call import called_models
from chandrop.nn._snapshot import Snapshot, put_back, with_own_containers
from chandrop.nn._surroundings import Surroundings, members, notes, noting_global_draws

# MLX crashes where no array is among the outputs.
_ANCHOR = mx.array(0.0)


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
    models = called_models.get() if module is None else (module,)
    noted = [Snapshot(model) for model in models]
    # The arrays of a model may be members' of a vmap, and MLX calls the function once more
    # to map over it. So they have to be inputs, and the members' indices, too.
    inputs = [snapshot.arrays for snapshot in noted]
    has_gradient = _is_inexact
    if module is None:
        # What a checkpointed function closes over has no gradient.
        has_gradient = _never
        inputs = _with_constants(inputs, _never)
    surroundings, is_first = Surroundings(), True

    def function(inputs: Any, indices: Any, args: Any, kwargs: Any) -> Any:
        nonlocal is_first
        if not is_first:
            return surroundings.run(indices, again, inputs, args, kwargs), _ANCHOR
        is_first = False
        outer = notes.set((*notes.get(), noted))
        try:
            return fun(*args, **kwargs), _ANCHOR
        finally:
            notes.reset(outer)

    def again(inputs: Any, args: Any, kwargs: Any) -> Any:
        if module is not None:
            # MLX would differentiate with respect to all arguments, such as indices.
            args, kwargs = _with_constants((args, kwargs), has_gradient)
        inputs = _with_constants(inputs, has_gradient)
        models = [snapshot.model for snapshot in noted]
        # mlx.nn's checkpoint, and mlx-lm's, put the parameters into what they close over.
        with put_back(*models, *_modules_of(fun) if models else ()):
            for snapshot, arrays in zip_longest(noted, inputs):
                snapshot.restore(arrays)
            with noting_global_draws("mx.checkpoint"):
                return with_own_containers(fun(*args, **kwargs))

    return _mlx.checkpoint(function)(inputs, members.get(), args, kwargs)[0]


def _modules_of(fun: Any) -> list[nn.Module]:
    """Gives the modules that a function is, or closes over."""
    cells = getattr(fun, "__closure__", None) or ()
    candidates = [fun, *(cell.cell_contents for cell in cells)]
    return [value for value in candidates if isinstance(value, nn.Module)]


def _never(array: mx.array) -> bool:
    return False


def _is_inexact(array: mx.array) -> bool:
    return mx.issubdtype(array.dtype, mx.inexact)


def _with_constants(tree: Any, has_gradient: Callable[[mx.array], bool]) -> Any:
    """Gives a tree whose arrays are constants, but those that have a gradient."""
    if isinstance(tree, mx.array):
        return tree if has_gradient(tree) else mx.stop_gradient(tree)
    if type(tree) is dict:
        return {name: _with_constants(value, has_gradient) for name, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_with_constants(value, has_gradient) for value in tree)
    return tree
