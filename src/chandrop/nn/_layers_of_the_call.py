"""The models that a tool is calling, with keys that it has put into their layers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.nn as nn

# The models that are being called, the outermost first.
called_models: ContextVar[tuple[nn.Module, ...]] = ContextVar("called_models", default=())
_paths: ContextVar[dict[int, str] | None] = ContextVar("paths", default=None)
# The layers of all calls, for the other threads.
_in_use: dict[int, int] = {}


@contextmanager
def layers_of_the_call(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Lets only these layers draw with keys of their own, meanwhile.

    A tool that puts keys into the layers of a model has to know of all that draw: one that
    it has not found would go on with its own key, and its draws would be lost or repeated.
    """
    outer = _paths.get() or {}
    paths = {id(layer): outer.get(id(layer), path) for path, layer in layers.items()}
    outer_paths = _paths.set(paths)
    outer_models = called_models.set((*called_models.get(), model))
    for layer in paths:
        _in_use[layer] = _in_use.get(layer, 0) + 1
    try:
        yield
    finally:
        for layer in paths:
            _in_use[layer] -= 1
            if not _in_use[layer]:
                del _in_use[layer]
        called_models.reset(outer_models)
        _paths.reset(outer_paths)


def path_in_the_call(layer: nn.Module) -> str | None:
    """Gives the path of a layer in the model that is being called by a tool.

    None if there is no such call.

    Raises:
        ValueError: the layer is not one of the call's.
        RuntimeError: the layer is one of a call's in another thread.
    """
    paths = _paths.get()
    if paths is None:
        if id(layer) in _in_use:
            raise RuntimeError(
                f"A {type(layer).__name__} is called while another thread calls its model "
                "by functional_call, predict, sample, checkpoint or check_step, which "
                "change it for the time of the call. Call the model by functional_call in "
                "this thread, too, or give each thread a model of its own: "
                "copy.deepcopy(model)."
            )
        return None
    if id(layer) not in paths:
        raise ValueError(
            f"A {type(layer).__name__} is called with a key of its own, but is not in the "
            "module that is called, where mlx.nn finds layers: in attributes, lists, dicts "
            "and other modules. Put it there, or give it a key: layer(x, key=key)."
        )
    return paths[id(layer)]
