from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from itertools import zip_longest
from typing import Any, ParamSpec, TypeVar, overload

import mlx.core as mx
import mlx.nn as nn

from chandrop import _mlx
from chandrop._checks import check_function
from chandrop.nn._call_context import call_context, call_in, in_context
from chandrop.nn._snapshot import Snapshot, with_copied_containers
from chandrop.nn._threads import in_use, model_lock
from chandrop.nn.tools._layers_by_path import as_module

_DTYPES = frozenset(dtype for dtype in vars(mx).values() if isinstance(dtype, mx.Dtype))
_EXACT = frozenset(dtype for dtype in _DTYPES if not mx.issubdtype(dtype, mx.inexact))
_CHECKPOINT = "mx.checkpoint"

Params = ParamSpec("Params")
Output = TypeVar("Output")


@overload
def checkpoint(
    module: Callable[Params, Output], fn: None = None
) -> Callable[Params, Output]: ...
@overload
def checkpoint(module: nn.Module, fn: None = None) -> Callable[..., Any]: ...
@overload
def checkpoint(
    module: nn.Module, fn: Callable[Params, Output]
) -> Callable[Params, Output]: ...
def checkpoint(module: Any, fn: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Returns a function whose call is computed again in the backward pass, to save memory.

    Unlike with ``mlx.nn.utils.checkpoint``, the recomputation sees the modes, buffers and
    parameters of the call, running statistics are updated once, and arguments may be
    integers. Use the result at once, ``checkpoint(self.block)(x)``: as an attribute, it
    would refer to the same block in a copy of the model. Checkpoint the blocks of a model
    one by one: around the whole model, it saves nothing.

    Args:
        module: the module whose arrays the computation depends on.
        fn: the function to call. Default: `module`. Arrays that are neither in `module`
            nor among the arguments get no gradient.

    Returns:
        A function with the arguments and the output of `fn`.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: at the call, in :func:`functional_call`: a layer that draws is not in
            `module`. In the backward pass: `fn` builds a layer without a key.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, checkpoint
        >>> block = nn.Sequential(nn.Linear(4, 4), Dropout(0.5), nn.ReLU())
        >>> def loss(block, x):
        ...     return checkpoint(block)(x).sum()
        >>> loss, gradients = nn.value_and_grad(block, loss)(block, mx.ones((2, 4)))

    Source: Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost",
    2016; ``mx.checkpoint``.
    """
    as_module(module, "a module", ": checkpoint(module, fn), with the module that fn uses")
    function: Any = module if fn is None else fn
    use = "a function; pass the input to what this returns: checkpoint(module)(x)"
    check_function(function, "fn", use)

    @wraps(function, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        with model_lock:
            return call_checkpointed(function, args, kwargs, module)

    return checkpointed


def call_checkpointed(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    module: nn.Module | None = None,
) -> Any:
    """Calls a function by MLX's checkpoint, which calls it again for the gradient.

    In that recomputation each layer is what it was when the call first used it, and
    `module`, or else the models that tools are calling, are what they were at the call.
    Everything is restored after it. The gradient is also that of `module`'s arrays.
    """
    context = call_context.get()
    if module is None:
        models = context.tool_call.models if context.tool_call else ()
        # What a checkpointed function closes over has no gradient.
        constant, anchor = _DTYPES, None
    else:
        models = (module,)
        # MLX crashes where no array is among the outputs.
        constant, anchor = _EXACT, mx.array(0.0)
    snapshots = [Snapshot(model) for model in models]
    # Under vmap MLX calls the function once more, so all that may be mapped over has to be
    # an input: the arrays of the models, and the indices of the members.
    inputs: Any = [snapshot.arrays for snapshot in snapshots]
    if module is None:
        inputs = _with_constants(inputs, constant)
    is_first = True

    def function(inputs: Any, members: Any, args: Any, kwargs: Any) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            with in_context(context, snapshots=(*context.snapshots, snapshots)):
                return fun(*args, **kwargs), anchor
        with in_context(context, members=tuple(members), new=[]):
            if snapshots:
                return recompute(inputs, args, kwargs), anchor
            # No layer was called, so there is nothing to restore.
            return call_in(_CHECKPOINT, fun, *args, **kwargs), anchor

    def recompute(inputs: Any, args: Any, kwargs: Any) -> Any:
        if module is not None:
            # MLX would differentiate with respect to all arguments, such as token numbers.
            args, kwargs = _with_constants((args, kwargs), constant)
        inputs = _with_constants(inputs, constant)
        with in_use(*(snapshot.ids for snapshot in snapshots)):
            held = [snapshot.now() for snapshot in snapshots]
            if module is None:
                # mlx.nn's checkpoint and mlx-lm's put parameters into what they close over.
                held += map(Snapshot, _modules_of(fun))
            try:
                # Layers that were recorded in the call have no inputs.
                for snapshot, arrays in zip_longest(snapshots, inputs):
                    snapshot.restore(arrays)
                return with_copied_containers(call_in(_CHECKPOINT, fun, *args, **kwargs))
            finally:
                for snapshot in reversed(held):
                    snapshot.restore()

    return _mlx.checkpoint(function)(inputs, context.members, args, kwargs)[0]


def _modules_of(fun: Any) -> list[nn.Module]:
    """Returns the modules that a function is, or closes over."""
    if isinstance(fun, nn.Module):
        return [fun]
    held = []
    for cell in getattr(fun, "__closure__", None) or ():
        # A cell is empty until its variable is assigned.
        with suppress(ValueError):
            held.append(cell.cell_contents)
    return [value for value in held if isinstance(value, nn.Module)]


def _with_constants(tree: Any, dtypes: frozenset[mx.Dtype]) -> Any:
    """Stops the gradient of a tree's arrays of these dtypes."""
    if isinstance(tree, mx.array):
        return mx.stop_gradient(tree) if tree.dtype in dtypes else tree
    if type(tree) is dict:
        return {name: _with_constants(value, dtypes) for name, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)([_with_constants(value, dtypes) for value in tree])
    return tree
