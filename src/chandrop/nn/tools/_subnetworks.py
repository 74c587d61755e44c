from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._containers import containers
from chandrop.nn._layers_of_the_call import in_use
from chandrop.nn._snapshot import put_back
from chandrop.nn.tools._convert import MLX_DROPOUTS, convert_layer, is_convertible
from chandrop.nn.tools._functional_call import functional_call
from chandrop.nn.tools._layers_by_path import layers_by_path
from chandrop.nn.tools._model_keys import keyed_layers, quoted


@contextmanager
def subnetworks(
    model: nn.Module, dropout: bool | Callable[[str, nn.Module], bool]
) -> Iterator[Callable[..., Any]]:
    """Gives a model as a function of a key, which chooses one of its subnetworks.

    Meanwhile the model is in eval mode, but for its dropout layers, and those of
    ``mlx.nn`` are chandrop's. Then it is again as it was.

    Args:
        model: any model.
        dropout: which dropout layers are on; see :func:`functional_call`.

    Raises:
        TypeError: `model` is not a module.
        ValueError: all layers shall be on, and one inherits from ``mlx.nn``'s; or the rates
            of all that shall be on are 0, or one of them depends on the batch.
    """
    with put_back(model):
        # model.eval() would leave out modules in tuples.
        for _, module in containers(model):
            if isinstance(module, nn.Module):
                module.eval()
        for path, layer in layers_by_path(model, MLX_DROPOUTS).items():
            if is_convertible(layer):
                convert_layer(layer, key=mx.random.key(0))
            elif dropout is True:
                raise ValueError(
                    f"Received a model with a {type(layer).__name__} at {quoted([path])}, "
                    "which no key reaches. It has to inherit from chandrop.nn's layer; or "
                    "choose others: dropout=lambda path, layer: ..."
                )
        _check_layers(model, dropout)
        with in_use({id(layer) for layer in keyed_layers(model).values()}):
            yield lambda key, *arguments: functional_call(
                model, {}, *arguments, key=key, dropout=dropout
            )


def _check_layers(
    model: nn.Module, dropout: bool | Callable[[str, nn.Module], bool]
) -> None:
    layers = keyed_layers(model)
    if callable(dropout):
        layers = {path: layer for path, layer in layers.items() if dropout(path, layer)}
    if not layers and not callable(dropout):
        raise ValueError(
            f"Received a {type(model).__name__} without dropout layers. If it was trained "
            "without dropout, it has no subnetworks. If one is in a lambda or the like: "
            "make it an attribute of the model."
        )
    by_place = [
        path
        for path, layer in layers.items()
        if layer.depends_on_batch and not layer._keeps_all()
    ]
    if by_place and dropout is not False:
        raise ValueError(
            f"Received a model with a {type(layers[by_place[0]]).__name__} at "
            f"{quoted(by_place)}. Which examples it keeps depends on the batch, so a key "
            "is no subnetwork. Put a DropPath in its place, or leave it off: "
            "dropout=lambda path, layer: not layer.depends_on_batch."
        )
    if dropout is not False and layers and all(m._keeps_all() for m in layers.values()):
        raise ValueError(
            f"Received a model whose dropout layers have p = 0: {quoted(layers)}. All its "
            "subnetworks are the same. If it was trained without dropout, it has none."
        )
