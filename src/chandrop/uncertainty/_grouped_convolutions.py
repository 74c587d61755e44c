from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import mlx.core as mx

from chandrop._mlx import batched_as

# MLX's functions, and the place of `groups` among their arguments.
_OF_MLX = {"conv1d": 5, "conv2d": 5, "conv_general": 6}
_lock = Lock()
_originals: dict[str, Callable[..., Any]] = {}
_users = 0


@contextmanager
def right_groups() -> Iterator[None]:
    """Makes grouped convolutions right where ``mx.vmap`` batches their weights alone.

    Meanwhile ``mx.conv2d`` and the like are functions that, of a convolution with groups,
    make the input a batch, too. In other threads they return what MLX's return.
    """
    global _users
    with _lock:
        if _users == 0:
            for name, place in _OF_MLX.items():
                _originals[name] = getattr(mx, name)
                setattr(mx, name, _right(_originals[name], place))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for name, original in _originals.items():
                    setattr(mx, name, original)


def _right(convolution: Callable[..., Any], place: int) -> Callable[..., Any]:
    def right(*args: Any, **kwargs: Any) -> Any:
        groups = args[place] if len(args) > place else kwargs.get("groups", 1)
        if groups != 1 and len(args) > 1:
            x, weight, *others = args
            args = (batched_as(weight, x), weight, *others)
        return convolution(*args, **kwargs)

    return right
