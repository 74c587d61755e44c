import copy
import difflib
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from chandrop.nn._call_context import record_state
from chandrop.nn._layers_of_the_call import layers_of_the_call
from chandrop.nn._snapshot import changing_models, put_back, with_own_containers
from chandrop.nn.layers import KeyedLayer
from chandrop.nn.tools._convert import MLX_DROPOUTS
from chandrop.nn.tools._layers_by_path import layers_by_path
from chandrop.nn.tools._model_keys import assign_keys, check_has_layers, quoted


def functional_call(
    model: nn.Module,
    parameters: Any,
    /,
    *args: Any,
    key: mx.array | None = None,
    dropout: bool | Callable[[str, nn.Module], bool] | None = None,
    return_state: bool = False,
    **kwargs: Any,
) -> Any:
    """Calls a model as a pure function of its parameters, a key and its input.

    Parameters and keys are put in, the model is called, and then all that the model held
    is put back: parameters, buffers, keys, modes. So it may be differentiated, vmapped,
    compiled and checkpointed, and the model can be used as before.

    It cannot make pure a model that draws from MLX's global stream, such as by
    ``mx.random.normal`` without a key, changes its arguments, such as a key-value cache, or
    changes what it holds in objects other than modules, lists, dicts, tuples and sets: that
    is not put back. :func:`chandrop.uncertainty.sample` and ``predict`` notice the first
    two. A model that returns a generator or a coroutine is refused, since its body would
    run after the call.

    Args:
        model: any model, with its dropout layers from :mod:`chandrop.nn`; see
            :func:`convert` for those of ``mlx.nn``.
        parameters: a tree as ``model.parameters()`` or ``model.trainable_parameters()``
            gives it, or a part of one; the rest is the model's own.
        *args: what the model is called with.
        key: what the masks depend on: one key ``(2,)``, or one for each example ``(B, 2)``,
            as :func:`chandrop.random.example_keys` gives, or one for all examples alike
            ``(1, 2)``, which is one network for the whole batch: ``key[None]``. Each layer
            derives its own from it by its path, as :func:`rekey` does.
        dropout: which of chandrop's layers drop: all (``True``), none (``False``), those
            for which ``dropout(path, layer)`` is true, or each by its own mode (``None``).
            No other layer's mode changes: ``BatchNorm`` stays in eval mode.
        return_state: whether to return the parameters as the call left them, with the
            running statistics that ``BatchNorm`` has updated, but without new arrays.
        **kwargs: what the model is called with. An argument of the model's own that is
            named ``key``, ``dropout`` or ``return_state`` has to be given by position.

    Returns:
        What the model returns; with `return_state` the pair of this and the parameters.

    Raises:
        TypeError: `model` is not a module, a parameter is not an ``mx.array``, `key` is
            not a ``uint32`` array, `dropout` is neither a bool nor a function, or the model
            returns an iterator or a coroutine.
        ValueError: `parameters` has names that the model has not, or is stacked; a layer
            would drop and there is no key, since each call would repeat one mask; a key is
            given and the model has no dropout layer; `dropout` chooses none, or those that
            it turns on are not called; one of ``mlx.nn``'s would drop, as no key reaches
            it; `model` has a dropout layer in a tuple, or calls one that it does not hold,
            without a key; `key` has the wrong shape or batch.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, functional_call
        >>> model = nn.Sequential(nn.Linear(4, 8), Dropout(0.5))
        >>> keys = mx.random.split(mx.random.key(0), 32)
        >>> def member(key):
        ...     return functional_call(model, model.parameters(), mx.ones((2, 4)), key=key)
        >>> mx.vmap(member)(keys).shape
        (32, 2, 8)

    Source: the pure ``apply`` of Haiku and Flax, ``torch.func.functional_call``.
    """
    with changing_models:
        dropouts = layers_by_path(model, (KeyedLayer, *MLX_DROPOUTS))
        layers = {path: m for path, m in dropouts.items() if isinstance(m, KeyedLayer)}
        if key is not None or dropout not in (None, False):
            check_has_layers(model, layers)
        with put_back(model) as [before]:
            record_state(model)
            before.restore_copies()
            _put_in(model, parameters)
            _set_modes(layers, dropout)
            _check_no_layer_drops_without_key(dropouts, key)
            if key is not None:
                assign_keys(layers, key)
            own_parameters = model.parameters() if return_state else None
            with layers_of_the_call(model, layers) as called:
                output = with_own_containers(model(*args, **kwargs))
            if dropout not in (None, False) and key is not None:
                _check_some_layer_was_called(layers, called)
            return (output, _state(model, own_parameters)) if return_state else output


def _put_in(model: nn.Module, parameters: Any) -> None:
    if not isinstance(parameters, dict) or isinstance(parameters, nn.Module):
        raise TypeError(
            f"Received parameters of type {type(parameters).__name__}. Expected a tree, as "
            "model.parameters() gives, or {} for the model's own: "
            "functional_call(model, model.parameters(), x, key=key)."
        )
    given, own = dict(tree_flatten(parameters)), dict(tree_flatten(model.parameters()))
    unknown = sorted(given.keys() - own.keys())
    if unknown:
        similar = difflib.get_close_matches(unknown[0], own, n=1)
        hint = f" Did you mean {quoted(similar)}?" if similar else ""
        raise ValueError(
            f"Received parameters that are none of {type(model).__name__}'s: "
            f"{quoted(unknown)}.{hint}"
        )
    for name, parameter in given.items():
        if not isinstance(parameter, mx.array):
            raise TypeError(
                f'Received a parameter "{name}" of type {type(parameter).__name__}. '
                "Expected an mx.array."
            )
        if parameter.ndim == own[name].ndim + 1 and parameter.shape[1:] == own[name].shape:
            raise ValueError(
                f'Received a parameter "{name}" of shape {parameter.shape}, where the '
                f"model's has {own[name].shape}. What stack_parameters gives goes through "
                "mx.vmap: mx.vmap(lambda p, k: functional_call(model, p, x, key=k))"
                "(stacked, keys)."
            )
    try:
        # Copies, since a model may change them in place.
        model.update(tree_map(copy.copy, parameters))
    except ValueError as error:
        raise ValueError(
            "Received parameters in another tree than model.parameters() gives. A flat "
            "dict becomes one by mlx.utils.tree_unflatten(list(parameters.items()))."
        ) from error


def _state(model: nn.Module, own_parameters: Any) -> Any:
    """Gives the parameters as they are now, without arrays that the call has added."""
    left = dict(tree_flatten(model.parameters()))
    return tree_map_with_path(lambda path, array: left.get(path, array), own_parameters)


def _check_some_layer_was_called(layers: dict[str, KeyedLayer], called: set[int]) -> None:
    if not called and any(layer._would_drop() for layer in layers.values()):
        raise ValueError(
            "Received a key, and dropout that is on, but no dropout layer drew with it: "
            f"{quoted(layers)}. Are they called only `if self.training`, or with keys of "
            "their own, or in a function that mx.compile has traced before?"
        )


def _set_modes(
    layers: dict[str, KeyedLayer], dropout: bool | Callable[[str, nn.Module], bool] | None
) -> None:
    if dropout is None:
        return
    if not isinstance(dropout, bool) and not callable(dropout):
        raise TypeError(
            f"Received dropout = {dropout!r}. Expected True, False, None or a function of "
            "a path and a layer: lambda path, layer: path == ..., with one of "
            f"{quoted(layers)}."
        )
    for path, layer in layers.items():
        layer.train(bool(dropout(path, layer)) if callable(dropout) else dropout)
    if callable(dropout) and not any(layer.training for layer in layers.values()):
        raise ValueError(
            "The function given as dropout chose no layer. The model's dropout layers are: "
            f"{quoted(layers)}."
        )


def _check_no_layer_drops_without_key(
    dropouts: dict[str, nn.Module], key: mx.array | None
) -> None:
    ours, theirs = [], []
    for path, layer in dropouts.items():
        if not isinstance(layer, KeyedLayer):
            if layer.training and layer._p_1 < 1:
                theirs.append(path)
        elif key is None and layer._would_drop():
            ours.append(path)
    if ours:
        raise ValueError(
            f"Received no key, but these layers would drop: {quoted(ours)}. Each call "
            "would repeat one mask. Give key=mx.random.key(0), or dropout=False."
        )
    if theirs:
        raise ValueError(
            f"Received a model with layers of mlx.nn that would drop: {quoted(theirs)}. "
            "They draw from the global stream, whatever the key. Swap them by "
            "chandrop.nn.convert(model), or switch them off by model.eval(); a class that "
            "inherits from mlx.nn's has to inherit from chandrop.nn's."
        )
