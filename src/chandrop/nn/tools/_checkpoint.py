from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, overload

import mlx.nn as nn

from chandrop.nn._threads import model_lock
from chandrop.nn.tools._recomputation import call_checkpointed

Params = ParamSpec("Params")
Output = TypeVar("Output")


@overload
def checkpoint(module: Callable[Params, Output]) -> Callable[Params, Output]: ...
@overload
def checkpoint(module: nn.Module) -> Callable[..., Any]: ...
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
        TypeError: `module` is not a module, or `fn` is not a function.
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
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"Received a module of type {type(module).__name__}. Expected an "
            "mlx.nn.Module: checkpoint(module, fn), with the module whose arrays fn uses."
        )
    if fn is not None and not callable(fn):
        raise TypeError(
            f"Received fn of type {type(fn).__name__}. Expected a function; pass the input "
            "to what this returns: checkpoint(module)(x)."
        )
    function: Any = module if fn is None else fn

    @wraps(function, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        with model_lock:
            return call_checkpointed(function, args, kwargs, module)

    return checkpointed
