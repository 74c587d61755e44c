from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._call_context import in_context
from chandrop.nn._containers import containers
from chandrop.nn._snapshot import restored_on_exit
from chandrop.nn._threads import model_lock
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.nn.tools._convert import MLX_DROPOUTS, OURS, convert_layer, mlx_dropouts
from chandrop.nn.tools._functional_call import Choice, functional_call, switched_on
from chandrop.nn.tools._layers_by_path import check_choice, layers_by_path, quoted
from chandrop.nn.tools._model_keys import check_has_layers, keyed_layers
from chandrop.random import Key

_AS_IT_IS = "To ask the whole network, without keys: predict(model, None, x)."


@contextmanager
def subnetworks(
    model: nn.Module, dropout: Choice, observe: Callable[..., None] | None = None
) -> Iterator[Callable[..., Any]]:
    """Yields a function of a key and inputs; each key selects one subnetwork of a model.

    It calls ``observe(path, x, key)`` for each layer that draws.
    Until exit, the layers of ``mlx.nn`` are converted, and all of the model is in eval mode
    but the layers that `dropout` chooses, as in :func:`functional_call`.
    """
    with _in_eval_mode(model):
        for path, layer in mlx_dropouts(model).items():
            if type(layer) in OURS:
                convert_layer(layer, key=mx.random.key(0))
            elif dropout is True:
                raise ValueError(
                    f"Received a model with a {type(layer).__name__} at {quoted([path])}, "
                    "which no key reaches. It has to inherit from chandrop.nn's layer; or "
                    "choose others: dropout=lambda path, layer: ..."
                )
        layers = keyed_layers(model)
        check_has_layers(model, layers, _AS_IT_IS)
        if dropout is not False:
            on = switched_on(layers, dropout)
            on |= {path: m for path, m in layers.items() if m._draws_in_eval_mode}
            _check_chosen(on)

        def subnetwork(key: Key, *inputs: Any) -> Any:
            with in_context(observe=observe):
                return functional_call(model, {}, *inputs, key=key, dropout=dropout)

        yield subnetwork


@contextmanager
def whole_network(model: nn.Module) -> Iterator[Callable[..., Any]]:
    """Yields a model in eval mode, as a function of a key, which it ignores, and inputs.

    Raises if a layer draws in eval mode, too.
    """
    with _in_eval_mode(model):
        drawing = drawing_in_eval_mode(model)
        if drawing:
            raise ValueError(
                "Received no keys for a model whose layers draw in eval mode, too: "
                f"{quoted(drawing)}. Give keys, and leave its dropout off: "
                "predict(model, keys, x, dropout=False)."
            )
        yield lambda key, *inputs: functional_call(model, {}, *inputs)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    with restored_on_exit(model):
        # model.eval() would leave out modules in tuples.
        for _, module in containers(model):
            if isinstance(module, nn.Module):
                module.eval()
        yield


def drawing_in_eval_mode(model: nn.Module) -> list[str]:
    """Returns the paths of the layers that draw whether or not dropout is on."""
    # Another thread may be restoring the model.
    with model_lock:
        return [
            path
            for path, layer in keyed_layers(model).items()
            if layer._draws_in_eval_mode and not layer._keeps_all()
        ]


def _check_chosen(layers: dict[str, Any]) -> None:
    on = {path: layer for path, layer in layers.items() if not layer._keeps_all()}
    if not on:
        raise ValueError(
            f"Received a model whose dropout layers have p = 0: {quoted(layers)}. All its "
            "subnetworks are the same. If it was trained without dropout, it has none. "
            f"{_AS_IT_IS}"
        )
    dependent = [path for path, layer in on.items() if layer.depends_on_batch]
    if dependent:
        raise ValueError(
            f"Received a model with a {type(on[dependent[0]]).__name__} at "
            f"{quoted(dependent)}. Which examples it keeps depends on the batch, so a key "
            "selects no subnetwork. Put a DropPath in its place, or leave it off: "
            "dropout=lambda path, layer: not layer.depends_on_batch."
        )


def chooses_weights(model: nn.Module, dropout: Choice) -> bool:
    """Whether a key chooses which weights a convolution of a subnetwork uses."""
    # Another thread may be restoring the model.
    with model_lock:
        layers = keyed_layers(model)
        if not isinstance(dropout, bool):
            all_layers = layers_by_path(model, (KeyedLayer, *MLX_DROPOUTS))
            check_choice(dropout, "dropout", all_layers)
            layers = {path: m for path, m in layers.items() if dropout(path, m)}
        on = {id(m) for m in layers.values() if not m._keeps_all()}
        return any(
            id(layer) in on
            for _, module in containers(model)
            for layer in getattr(module, "_weight_choosers", ())
        )
