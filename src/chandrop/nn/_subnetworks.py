from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._convert import CHECKPOINTING, MLX_DROPOUTS, convert_layer, is_convertible
from chandrop.nn._functional_call import functional_call
from chandrop.nn._layers_by_path import layers_by_path
from chandrop.nn._model_keys import quoted
from chandrop.nn._snapshot import Snapshot


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
        ValueError: all layers shall be on, and one inherits from ``mlx.nn``'s.
    """
    before = Snapshot(model)
    try:
        model.eval()
        for transformer in layers_by_path(model, CHECKPOINTING).values():
            # It would change nothing here, but hide the keys from mx.vmap.
            transformer.checkpoint = False
        for path, layer in layers_by_path(model, MLX_DROPOUTS).items():
            if is_convertible(layer):
                convert_layer(layer, key=mx.random.key(0))
            elif dropout is True:
                raise ValueError(
                    f"Received a model with a {type(layer).__name__} at {quoted([path])}, "
                    "which no key reaches. It has to inherit from chandrop.nn's layer; or "
                    "choose others: dropout=lambda path, layer: ..."
                )
        yield lambda key, *arguments: functional_call(
            model, {}, *arguments, key=key, dropout=dropout
        )
    finally:
        before.restore()
