import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._containers import containers
from chandrop.nn.layers import Dropout, Dropout2d, Dropout3d, KeyedLayer
from chandrop.nn.tools._layers_by_path import layers_by_path
from chandrop.nn.tools._model_keys import keyed_layers, quoted

MLX_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
_OURS: dict[type[nn.Module], type[KeyedLayer]] = dict(
    zip(MLX_DROPOUTS, (Dropout, Dropout2d, Dropout3d), strict=True)
)
_THEIRS: dict[type[nn.Module], type[nn.Module]] = {
    ours: theirs for theirs, ours in _OURS.items()
}

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, where: Callable[[str, nn.Module], bool] | None = None) -> Model:
    """Makes ``mlx.nn``'s dropout layers in a model chandrop's, in place.

    Weights, rates, modes and sharing stay as they are, and so do the model's output in
    eval mode and its weights files. Each layer gets a key of its own from the global
    stream; :func:`rekey` gives others. Layers of classes that inherit from ``mlx.nn``'s are
    left alone, with a warning that names them; so is a model without dropout layers.

    Args:
        model: any model. Layers are found where ``mlx.nn`` finds them: in attributes,
            lists, dicts and other modules.
        where: which layers to convert: those for which ``where(path, layer)`` is true.
            Default: all.

    Returns:
        The model.

    Raises:
        TypeError: `model` is not a module, or `where` is not a function.
        ValueError: `where` chooses no layer, or `model` has a layer of ``mlx.nn``'s in a
            tuple.

    Example:
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, convert
        >>> model = convert(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)))
        >>> isinstance(model.layers[1], Dropout)
        True
    """
    _check_where(where)
    layers = {
        path: layer
        for path, layer in layers_by_path(model, MLX_DROPOUTS).items()
        if not isinstance(layer, KeyedLayer)
    }
    chosen = {path: m for path, m in layers.items() if where is None or where(path, m)}
    if where is not None and not chosen:
        raise ValueError(
            "The function given as where chose no layer. The model's dropout layers of "
            f"mlx.nn are: {quoted(layers) or 'none'}."
        )
    left = {path: layer for path, layer in chosen.items() if not is_convertible(layer)}
    # Before the model changes, since a warning may be an error.
    if left:
        warnings.warn(_left_alone(left), stacklevel=2)
    elif not chosen and not _has_keyed_layers(model):
        warnings.warn(
            f"Received a {type(model).__name__} without dropout layers, so none is "
            "converted. If layers come later, as by mlx-lm's linear_to_lora_layers, "
            "convert the model after that. If one is in a lambda or the like: make it an "
            "attribute of the model.",
            stacklevel=2,
        )
    for path, layer in chosen.items():
        if path not in left:
            convert_layer(layer)
    return model


def revert(model: Model) -> Model:
    """Makes chandrop's dropout layers in a model those of ``mlx.nn`` again, in place.

    Args:
        model: any model; see :func:`convert`. Weights, rates, modes and sharing stay as
            they are. The keys are lost: :func:`get_keys` before, if you need them.

    Returns:
        The model.

    Raises:
        TypeError: `model` is not a module.
        ValueError: ``mlx.nn`` has no counterpart of a layer: it is another one than
            ``Dropout``, ``Dropout2d`` and ``Dropout3d``, or has groups, or its rate is 1 or
            an array. The model is then left as it was. Also if a layer is in a tuple.

    Example:
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, revert
        >>> revert(nn.Sequential(nn.Linear(4, 4), Dropout(0.1))).layers[1]
        Dropout(p=0.09999999999999998)
    """
    layers = keyed_layers(model)
    for path, layer in layers.items():
        theirs = type(layer) in _THEIRS and layer._groups is None
        if not theirs or isinstance(layer.p, mx.array) or layer.p == 1:
            raise ValueError(
                f"Received a model with a {layer} at {quoted([path])}, which mlx.nn does "
                "not have."
            )
    for layer in layers.values():
        _become(layer, _THEIRS[type(layer)], layer.p)
    return model


def is_convertible(layer: nn.Module) -> bool:
    """Whether this is one of ``mlx.nn``'s layers and not one that inherits from them."""
    return type(layer) in _OURS


def convert_layer(layer: nn.Module, key: mx.array | None = None) -> None:
    """Makes a dropout layer of ``mlx.nn`` chandrop's, in place."""
    _become(layer, _OURS[type(layer)], _rate(layer), key=key)


def _become(layer: nn.Module, kind: type[Any], p: Any, **arguments: Any) -> None:
    # A new class for the same object: whoever refers to the layer refers to it still.
    training = layer.training
    layer.clear()
    vars(layer).clear()
    layer.__class__ = kind
    kind.__init__(layer, p, **arguments)
    layer.train(training)


def _rate(layer: nn.Module) -> float:
    """Gives the rate that the layer was built with, of which it keeps ``1 - p`` alone."""
    kept: float = layer._p_1
    written = round(1 - kept, 15)
    return written if 1 - written == kept else 1 - kept


def _check_where(where: Any) -> None:
    if isinstance(where, type):
        module = "nn." if where.__module__.startswith("mlx.nn") else ""
        raise TypeError(
            f"Received the class {where.__name__} as where. Expected a function of a path "
            "and a layer: where=lambda path, layer: "
            f"isinstance(layer, {module}{where.__name__})."
        )
    if where is not None and not callable(where):
        raise TypeError(
            f"Received where = {where!r}. Expected a function of a path and a layer."
        )


def _left_alone(layers: Mapping[str, nn.Module]) -> str:
    """Gives the warning that names the layers that no conversion is known for."""
    named = ", ".join(
        f"{quoted([path])} ({type(layer).__name__})" for path, layer in layers.items()
    )
    kind = type(next(iter(layers.values())))
    ours = next(ours for theirs, ours in _OURS.items() if issubclass(kind, theirs))
    return (
        "Received a model with dropout layers of other classes than mlx.nn's own, which "
        f"are left as they are: {named}. A class has to inherit from chandrop.nn's layer: "
        f"class {kind.__name__}(chandrop.nn.{ours.__name__})."
    )


def _has_keyed_layers(model: nn.Module) -> bool:
    return any(isinstance(layer, KeyedLayer) for _, layer in containers(model))
