from collections.abc import Callable
from functools import wraps
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from chandrop.nn._layers_of_the_call import layers_of_the_call
from chandrop.nn._model_keys import keyed_layers
from chandrop.nn._snapshot import Snapshot, with_own_containers


def checkpoint(
    module: nn.Module, fn: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Makes a call of a module that is computed again in the backward pass, to save memory.

    It takes the place of ``mlx.nn.utils.checkpoint``. Its recomputation sees the keys,
    modes, buffers and parameters that the call saw, whatever has become of the module since
    then, so the gradient is that of the loss. Keys and buffers advance once.

    Make it where it is called, ``checkpoint(self.block)(x)``: kept as an attribute, it
    would refer to the same block in a copy of the model. Checkpoint the blocks of a deep
    model one by one: around all of it, nothing is saved.

    Args:
        module: the module whose arrays the computation depends on.
        fn: what to call. Default: `module` itself. As with ``mlx.nn.utils.checkpoint``,
            arrays that are neither in `module` nor among the arguments get no gradient.
            Nor may it change a trainable parameter in place (``weight += 1``).

    Returns:
        A function of the arguments of `fn`, of the same output.

    Raises:
        TypeError: `module` is not a module, or `fn` cannot be called.
        ValueError: at the call, for a dropout layer in a tuple, or one that draws with a
            key of its own and is not in `module`.

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
        before = Snapshot(module)
        layers = keyed_layers(module)
        first: list[tuple[Snapshot, list[int | None]]] = []

        def pure(arrays: list[mx.array], args: Any, kwargs: Any) -> Any:
            around = Snapshot(module)
            try:
                before.restore(arrays)
                trainable = dict(tree_flatten(module.trainable_parameters())).values()
                unchanged = {id(array) for array in trainable}
                with layers_of_the_call(layers):
                    output = with_own_containers(function(*args, **kwargs))
                after = Snapshot(module)
            finally:
                around.restore()
            # A trainable parameter that is still there has not changed. Any other array
            # may have been changed in place.
            kept = {id(a): i for i, a in enumerate(arrays) if id(a) in unchanged}
            # Not in the recomputation: its arrays would be held until the graph is gone.
            if not first:
                first.append((after, [kept.get(id(array)) for array in after.arrays]))
            return output, [array for array in after.arrays if id(array) not in kept]

        output, updated = mx.checkpoint(pure)(before.arrays, args, kwargs)
        [(after, places)] = first
        updates = iter(updated)
        after.restore([next(updates) if i is None else before.arrays[i] for i in places])
        return output

    return checkpointed
