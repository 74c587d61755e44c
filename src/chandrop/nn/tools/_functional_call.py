import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from chandrop._checks import check_flag, of_type
from chandrop.nn._call_context import record_state, tool_call
from chandrop.nn._snapshot import restored_on_exit, with_copied_containers
from chandrop.nn._threads import model_lock
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.nn.tools._convert import MLX_DROPOUTS, drops
from chandrop.nn.tools._layers_by_path import choose, layers_by_path, quoted
from chandrop.nn.tools._model_keys import assign_keys, check_has_layers
from chandrop.random import Key

Choice = bool | Callable[[str, nn.Module], bool]


@overload
def functional_call(
    model: nn.Module, parameters: Any, /, *args: Any, return_state: Literal[True], **kw: Any
) -> tuple[Any, Any]: ...
@overload
def functional_call(
    model: nn.Module,
    parameters: Any,
    /,
    *args: Any,
    key: Key | None = None,
    dropout: Choice | None = None,
    return_state: bool = False,
    **kwargs: Any,
) -> Any: ...
def functional_call(
    model: nn.Module,
    parameters: Any,
    /,
    *args: Any,
    key: Key | None = None,
    dropout: Choice | None = None,
    return_state: bool = False,
    **kwargs: Any,
) -> Any:
    """Calls a model as a pure function of its parameters, a key and its input.

    Parameters and keys are put in for the call, and everything that the model held is
    restored after it, so the call can be differentiated, vmapped, compiled and
    checkpointed. It is not pure if the model draws from MLX's global stream, changes its
    arguments, such as a key-value cache, or changes objects other than modules, lists,
    dicts, tuples and sets; :func:`chandrop.uncertainty.sample` notices the first two.

    Args:
        model: any model, with its dropout layers from :mod:`chandrop.nn`; see
            :func:`convert` for those of ``mlx.nn``.
        parameters: a tree such as ``model.parameters()``, or a part of one; the rest is
            the model's own.
        *args: the model's arguments.
        key: as in :func:`rekey`: one key, one for each example, or ``key[None]``, which is
            one network for the whole batch.
        dropout: which of chandrop's layers drop: all (``True``), none (``False``), those
            for which ``dropout(path, layer)`` is true, or each by its own mode (``None``).
            Other layers keep their modes: ``BatchNorm`` stays in eval mode. A
            :class:`KeyStream` draws all the same, and is not among those to choose from.
        return_state: whether to return the parameters after the call, too, such as the
            running statistics of ``BatchNorm``, but without new arrays.
        **kwargs: the model's keyword arguments, except the names above.

    Returns:
        The model's output, or with `return_state` a pair of it and the parameters.

    Raises:
        TypeError: an argument has a wrong type, or the model returns an iterator or a
            coroutine.
        ValueError: `parameters` or `key` does not fit the model; a layer would draw without
            a key, or is one of ``mlx.nn``; `key` or `dropout` is given, but no layer uses
            it; a layer that draws is in a tuple or not in the model.

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
    check_flag(return_state, "return_state")
    turned_on = dropout is not None and dropout is not False
    with model_lock:
        dropouts = layers_by_path(model, (KeyedLayer, *MLX_DROPOUTS))
        layers = {path: m for path, m in dropouts.items() if isinstance(m, KeyedLayer)}
        if key is not None or turned_on:
            check_has_layers(model, layers)
        with restored_on_exit(model) as before:
            record_state(model)
            before.restore_copies()
            _set_parameters(model, parameters)
            _set_modes(layers, dropout)
            drawing = [path for path, layer in dropouts.items() if drops(layer)]
            _check_drops_with_key(drawing, layers, key, args)
            if key is not None:
                assign_keys(layers, key)
            own_parameters = model.parameters() if return_state else None
            with tool_call(model, layers) as called:
                output = with_copied_containers(model(*args, **kwargs))
            if key is not None and turned_on:
                _check_called(layers, called)
            if not return_state:
                return output
            # Without arrays that the call has added.
            left = dict(tree_flatten(model.parameters()))
            return output, tree_map_with_path(
                lambda path, array: left.get(path, array), own_parameters
            )


def _set_parameters(model: nn.Module, parameters: Any) -> None:
    if not isinstance(parameters, dict) or isinstance(parameters, nn.Module):
        raise TypeError(
            f"Received parameters {of_type(parameters)}. Expected a tree, or {{}} for the "
            "model's own: functional_call(model, model.parameters(), x, key=key)."
        )
    given, own = dict(tree_flatten(parameters)), dict(tree_flatten(model.parameters()))
    unknown = sorted(given.keys() - own.keys())
    if unknown:
        import difflib  # Late, to import chandrop faster.

        similar = difflib.get_close_matches(unknown[0], own, n=1)
        hint = f" Did you mean {quoted(similar)}?" if similar else ""
        raise ValueError(
            f"Received parameters that {type(model).__name__} does not have: "
            f"{quoted(unknown)}.{hint}"
        )
    for name, parameter in given.items():
        if not isinstance(parameter, mx.array):
            received = f'a parameter "{name}" {of_type(parameter)}'
            raise TypeError(f"Received {received}. Expected an mx.array.")
        shape, expected = parameter.shape, own[name].shape
        remaining = iter(expected)
        # The model may hold the stacked parameters of an ensemble, and be given a member's.
        if not all(length in remaining for length in shape):
            fix = (
                " Map over stacked parameters: mx.vmap(lambda p, k: functional_call("
                "model, p, x, key=k))(stacked, keys)."
            )
            raise ValueError(
                f'Received a parameter "{name}" of shape {shape}, where the model\'s has '
                f"{expected}.{fix if shape[1:] == expected else ''}"
            )
    try:
        # Copies, since a model may change them in place.
        model.update(tree_map(copy.copy, parameters))
    except ValueError as error:
        raise ValueError(
            "Received parameters in another tree than that of model.parameters(). If it is "
            "a flat dict: mlx.utils.tree_unflatten(list(parameters.items()))."
        ) from error


def _set_modes(layers: Mapping[str, KeyedLayer], dropout: Choice | None) -> None:
    if dropout is None:
        return
    on = switched_on(layers, dropout)
    for path, layer in layers.items():
        layer._switch(path in on)


def switched_on(layers: Mapping[str, KeyedLayer], dropout: Choice) -> dict[str, KeyedLayer]:
    """Returns the layers that a choice turns on, of those that eval mode turns off."""
    switched = {path: m for path, m in layers.items() if not m._draws_in_eval_mode}
    if isinstance(dropout, bool):
        return switched if dropout else {}
    return choose(switched, dropout, "dropout")


def _check_called(layers: Mapping[str, KeyedLayer], called: set[int]) -> None:
    """Raises if layers are on, but none of them drew; a stream of keys does not count."""
    on = {path: m for path, m in switched_on(layers, True).items() if drops(m)}
    if on and not any(id(layer) in called for layer in on.values()):
        raise ValueError(
            "Received a key, and dropout that is on, but no random layer drew with it: "
            f"{quoted(on)}. Are they called only `if self.training`, with other keys, or "
            "in a function that was compiled before?"
        )


def _check_drops_with_key(
    dropping: list[str],
    layers: Mapping[str, KeyedLayer],
    key: Key | None,
    args: tuple[Any, ...],
) -> None:
    ours = {path: layers[path] for path in dropping if path in layers}
    theirs = [path for path in dropping if path not in layers]
    if ours and key is None:
        arrays = [a for a in args if isinstance(a, mx.array) and a.dtype == mx.uint32]
        is_key = any(array.shape[-1:] == (2,) for array in arrays)
        by_position = " A key is given by its name: key=key." if is_key else ""
        always = any(layer._draws_in_eval_mode for layer in ours.values())
        raise ValueError(
            f"Received no key, but these layers would draw: {quoted(ours)}. Each call "
            "would draw the same. Give key=mx.random.key(0)"
            f"{'' if always else ', or dropout=False'}.{by_position}"
        )
    if theirs:
        raise ValueError(
            f"Received a model with layers of mlx.nn that would drop: {quoted(theirs)}. "
            "They draw from MLX's global stream, whatever the key. Convert them by "
            "chandrop.nn.convert(model), or switch them off by model.eval(); a class that "
            "inherits from mlx.nn's has to inherit from chandrop.nn's."
        )
