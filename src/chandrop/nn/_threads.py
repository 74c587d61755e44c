"""One thread at a time changes models; layers that it changes refuse other threads."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from threading import RLock, get_ident

import mlx.nn as nn

# Held by a tool as long as it changes a model.
model_lock = RLock()

# The ids of the modules that are being changed, with the thread that changes them.
_in_use: list[tuple[Container[int], int]] = []


@contextmanager
def in_use(*ids: Container[int]) -> Iterator[None]:
    """Marks modules as being changed by this thread, until exit."""
    with model_lock:
        outer = len(_in_use)
        _in_use.extend((some, get_ident()) for some in ids)
        try:
            yield
        finally:
            del _in_use[outer:]


def check_not_in_use(layer: nn.Module) -> None:
    """Raises if another thread is changing a layer that is called without a key."""
    if _in_use and any(id(layer) in ids and who != get_ident() for ids, who in _in_use):
        raise RuntimeError(
            f"A {type(layer).__name__} is called while another thread calls its model by "
            "functional_call, predict, sample, checkpoint or check_step, which change it "
            "during the call. Use functional_call in this thread, too, or give each thread "
            "a model of its own: copy.deepcopy(model)."
        )
