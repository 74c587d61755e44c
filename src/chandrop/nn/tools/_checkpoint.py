from collections.abc import Callable
from functools import wraps
from typing import Any

import mlx.nn as nn

from chandrop.nn._snapshot import changing_models
from chandrop.nn.tools._recomputation import call_checkpointed


def checkpoint(
    module: nn.Module, fn: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Makes a call of a module that is computed again in the backward pass, to save memory.

    Use it in place of ``mlx.nn.utils.checkpoint`` for what MLX's does not do: the
    recomputation sees all modes, buffers and parameters of the module as they were at the
    call, buffers such as running statistics are updated once, and arguments may be
    integers. The keys of dropout layers are right with both.

    Make it where it is called, ``checkpoint(self.block)(x)``: kept as an attribute, it
    would refer to the same block in a copy of the model. Checkpoint the blocks of a deep
    model one by one: around all of it, nothing is saved.

    Args:
        module: the module whose arrays the computation depends on.
        fn: what to call. Default: `module` itself. As with ``mlx.nn.utils.checkpoint``,
            arrays that are neither in `module` nor among the arguments get no gradient.

    Returns:
        A function of the arguments of `fn`, of the same output.

    Raises:
        TypeError: `module` is not a module, or `fn` cannot be called.
        ValueError: at the call, within :func:`functional_call`: a dropout layer draws that
            is not in `module`. At the gradient: `fn` builds a layer without a key.

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
            f"Received fn of type {type(fn).__name__}. Expected a function; the input is "
            "given to what this returns: checkpoint(module)(x)."
        )
    function = module if fn is None else fn

    @wraps(function, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        with changing_models:
            return call_checkpointed(function, args, kwargs, module)

    return checkpointed
