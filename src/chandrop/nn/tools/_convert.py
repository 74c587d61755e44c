import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._containers import containers
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.nn.layers._layouts import Dropout, Dropout2d, Dropout3d
from chandrop.nn.tools._layers_by_path import choose, layers_by_path, quoted
from chandrop.nn.tools._model_keys import keyed_layers
from chandrop.random import Key

MLX_DROPOUTS = (nn.Dropout, nn.Dropout2d, nn.Dropout3d)
OURS: dict[type[nn.Module], type[KeyedLayer]] = {
    nn.Dropout: Dropout,
    nn.Dropout2d: Dropout2d,
    nn.Dropout3d: Dropout3d,
}
_THEIRS = {ours: theirs for theirs, ours in OURS.items()}

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, where: Callable[[str, nn.Module], bool] | None = None) -> Model:
    """Converts ``mlx.nn``'s dropout layers in a model to chandrop's, and returns it.

    Weights, rates, modes, sharing and weights files stay the same. Each layer draws a key
    from MLX's global stream; see :func:`rekey` for others. Warns of a model without dropout
    layers, and of layers whose class inherits from ``mlx.nn``'s, which stay as they are.

    Args:
        model: any model; see :func:`rekey` for where layers are found.
        where: which layers to convert: those for which ``where(path, layer)`` is true.
            Default: all.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: `where` chooses no layer, or a layer of ``mlx.nn`` is in a tuple.

    Example:
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, convert
        >>> model = convert(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1)))
        >>> isinstance(model.layers[1], Dropout)
        True
    """
    layers = mlx_dropouts(model)
    chosen = layers if where is None else choose(layers, where, "where")
    others = {path: m for path, m in chosen.items() if type(m) not in OURS}
    # Warnings come before the model changes, since they may be errors.
    if others:
        named = (f"{quoted([path])} ({type(m).__name__})" for path, m in others.items())
        kind = type(next(iter(others.values())))
        ours = next(ours for theirs, ours in OURS.items() if issubclass(kind, theirs))
        warnings.warn(
            "Received a model with dropout layers of other classes than mlx.nn's own, "
            f"which are left as they are: {', '.join(named)}. A class has to inherit from "
            f"chandrop's: class {kind.__name__}(chandrop.nn.{ours.__name__}).",
            stacklevel=2,
        )
    elif not chosen and not any(isinstance(m, KeyedLayer) for _, m in containers(model)):
        warnings.warn(
            f"Received a {type(model).__name__} without dropout layers. If they come "
            "later, as by mlx-lm's linear_to_lora_layers, convert the model after that. "
            "If one is in a lambda or the like: make it an attribute of the model.",
            stacklevel=2,
        )
    for path, layer in chosen.items():
        if path not in others:
            convert_layer(layer)
    return model


def revert(model: Model) -> Model:
    """Converts chandrop's dropout layers in a model back to ``mlx.nn``'s, and returns it.

    Their keys are lost: save them with :func:`get_keys`. The rest is as in :func:`convert`.

    Raises:
        ValueError: a layer is not a ``Dropout``, ``Dropout2d`` or ``Dropout3d``, has groups
            or a rate that is 1 or an array, or is in a tuple. No layer is then converted.

    Example:
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, revert
        >>> revert(nn.Sequential(nn.Linear(4, 4), Dropout(0.1))).layers[1]
        Dropout(p=0.09999999999999998)
    """
    layers = keyed_layers(model)
    for path, layer in layers.items():
        known = type(layer) in _THEIRS and layer._groups is None
        if not known or isinstance(layer.p, mx.array) or layer.p == 1:
            raise ValueError(
                f"Received a model with a {layer} at {quoted([path])}, which mlx.nn does "
                "not have."
            )
    for layer in layers.values():
        _become(layer, _THEIRS[type(layer)], layer.p)
    return model


def mlx_dropouts(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the dropout layers of ``mlx.nn`` in a model by path."""
    layers = layers_by_path(model, MLX_DROPOUTS)
    return {path: m for path, m in layers.items() if not isinstance(m, KeyedLayer)}


def drops(layer: nn.Module) -> bool:
    """Whether a call of a dropout layer, of chandrop or ``mlx.nn``, draws."""
    if isinstance(layer, KeyedLayer):
        return layer._would_draw()
    return bool(layer.training and layer._p_1 < 1)


def convert_layer(layer: nn.Module, key: Key | None = None) -> None:
    """Converts a dropout layer of ``mlx.nn``, in place."""
    # The layer keeps only 1 - p, which is rounded.
    kept: float = layer._p_1
    p = round(1 - kept, 15)
    _become(layer, OURS[type(layer)], p if 1 - p == kept else 1 - kept, key=key)


def _become(layer: nn.Module, kind: type[Any], p: Any, **arguments: Any) -> None:
    # The object gets a new class, so that references to the layer stay valid.
    training = layer.training
    layer.clear()
    vars(layer).clear()
    layer.__class__ = kind
    kind.__init__(layer, p, **arguments)
    layer.train(training)
