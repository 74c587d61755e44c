"""The models that a tool is calling, with keys that it has put into their layers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident
from typing import NamedTuple

import mlx.nn as nn


class Call(NamedTuple):
    """A tool's call of a model.

    Attributes:
        models: the model, and those of the calls around, the outermost first.
        paths: the paths of the layers that may draw, by the layers' identities.
        called: the layers that have been called to draw.
    """

    models: tuple[nn.Module, ...]
    paths: dict[int, str]
    called: set[int]


call_around: ContextVar[Call | None] = ContextVar("call_around", default=None)
# Which thread changes which modules, for the others.
_in_use: dict[int, int] = {}


@contextmanager
def layers_of_the_call(
    model: nn.Module, layers: Mapping[str, nn.Module]
) -> Iterator[set[int]]:
    """Lets only these layers draw with keys of their own, and gives those that are called.

    A tool that puts keys into the layers of a model has to know of all that draw: one that
    it has not found would go on with its own key, and its draws would be lost or repeated.
    """
    models, outer, _ = call_around.get() or Call((), {}, set())
    paths = {id(layer): outer.get(id(layer), path) for path, layer in layers.items()}
    called: set[int] = set()
    token = call_around.set(Call((*models, model), paths, called))
    try:
        with in_use(paths):
            yield called
    finally:
        call_around.reset(token)


@contextmanager
def in_use(*modules: Iterable[int]) -> Iterator[None]:
    """Tells other threads that this one changes modules, given by their identities."""
    mine = {module for some in modules for module in some if module not in _in_use}
    _in_use.update(dict.fromkeys(mine, get_ident()))
    try:
        yield
    finally:
        for module in mine:
            del _in_use[module]


def check_not_in_use(layer: nn.Module) -> None:
    """Raises if another thread changes a layer that is called without a key."""
    if _in_use and _in_use.get(id(layer), get_ident()) != get_ident():
        raise RuntimeError(
            f"A {type(layer).__name__} is called while another thread calls its model by "
            "functional_call, predict, sample, checkpoint or check_step, which change it "
            "for the time of the call. Use functional_call in this thread, too, or give "
            "each thread a model of its own: copy.deepcopy(model)."
        )


def path_in_the_call(layer: nn.Module) -> str | None:
    """Gives the path of a layer that draws in the model that is being called by a tool.

    None if there is no such call.

    Raises:
        ValueError: the layer is not one of the call's.
    """
    call = call_around.get()
    if call is None:
        return None
    if id(layer) not in call.paths:
        raise ValueError(
            f"A {type(layer).__name__} is called with a key of its own, but is not in the "
            "module that is called, where mlx.nn finds layers: in attributes, lists, dicts "
            "and other modules. Put it there, or give it a key: layer(x, key=key)."
        )
    call.called.add(id(layer))
    return call.paths[id(layer)]
