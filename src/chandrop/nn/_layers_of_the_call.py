from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.nn as nn

_paths: ContextVar[dict[int, str] | None] = ContextVar("paths", default=None)


@contextmanager
def layers_of_the_call(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Lets only these layers draw with keys of their own, meanwhile.

    A tool that puts keys into the layers of a model has to know of all that draw: one that
    it has not found would go on with its own key, and its draws would be lost or repeated.
    """
    outer = _paths.get() or {}
    token = _paths.set({id(m): outer.get(id(m), path) for path, m in layers.items()})
    try:
        yield
    finally:
        _paths.reset(token)


def path_in_the_call(layer: nn.Module) -> str | None:
    """Gives the path of a layer in the model that is being called by a tool.

    None if there is no such call.

    Raises:
        ValueError: the layer is not one of the call's.
    """
    paths = _paths.get()
    if paths is None:
        return None
    if id(layer) not in paths:
        raise ValueError(
            f"A {type(layer).__name__} is called with a key of its own, but is not in the "
            "module that is called, where mlx.nn finds layers: in attributes, lists, dicts "
            "and other modules. Put it there, or give it a key: layer(x, key=key)."
        )
    return paths[id(layer)]
