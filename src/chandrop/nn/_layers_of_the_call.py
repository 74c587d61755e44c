"""The models that a tool is calling, with keys that it has put into their layers."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident

import mlx.nn as nn

from chandrop.nn._call_context import Call, call_context, in_context

# Which modules which thread changes. There is one such thread at a time.
_in_use: list[tuple[Container[int], int]] = []


@contextmanager
def layers_of_the_call(
    model: nn.Module, layers: Mapping[str, nn.Module]
) -> Iterator[set[int]]:
    """Lets only these layers draw, by their keys as they are, and gives those called.

    A tool that puts keys into the layers of a model has to know of all that draw: one that
    it has not found would go on with its own key, and its draws would be lost or repeated.
    """
    outer = call_context.get().call
    known = outer.paths or {}
    paths = {id(layer): known.get(id(layer), path) for path, layer in layers.items()}
    called: set[int] = set()
    call = Call((*outer.models, model), paths, called)
    # No index of a member around is folded into keys that were given, and no trace around
    # has to carry them.
    with (
        in_context(call=call, members=(), trace=None, watched=None, new=None),
        in_use(paths),
    ):
        yield called


@contextmanager
def in_use(*modules: Container[int]) -> Iterator[None]:
    """Tells other threads that this one changes modules, given by their identities."""
    outer = len(_in_use)
    _in_use.extend((some, get_ident()) for some in modules)
    try:
        yield
    finally:
        del _in_use[outer:]


def check_not_in_use(layer: nn.Module) -> None:
    """Raises if another thread changes a layer that is called without a key."""
    if _in_use and any(id(layer) in m and who != get_ident() for m, who in _in_use):
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
    _, paths, called = call_context.get().call
    if paths is None or called is None:
        return None
    if id(layer) not in paths:
        raise ValueError(
            f"A {type(layer).__name__} is called with a key of its own, but is not in the "
            "module that is called, where mlx.nn finds layers: in attributes, lists, dicts "
            "and other modules. Put it there, or give it a key: layer(x, key=key)."
        )
    called.add(id(layer))
    return paths[id(layer)]
