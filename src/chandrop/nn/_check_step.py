from collections import defaultdict
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn._model_keys import (
    check_layers_for_key,
    get_keys,
    keyed_layers,
    quoted,
    set_keys,
)


def check_step(model: nn.Module, step: Callable[..., Any], *args: Any) -> None:
    """Runs a training step and raises if its layers repeat masks, or each other's.

    A layer repeats its mask if `step` is compiled and does not carry the model's state: the
    key of the first call then stays in it for ever. Layers repeat each other's masks if
    they hold the same key. Call this once before training, on a small batch.

    The step is run twice, and a third time uncompiled if a key has not advanced, which
    trains the model and the optimizer by as many steps. A layer whose key does not advance
    uncompiled either is not reported: the step does not call it, gives it a key, or gives
    keys to the model by :func:`rekey`.

    Args:
        model: the model that `step` trains.
        step: the training step, compiled or not.
        *args: what `step` is called with.

    Raises:
        TypeError: `model` is not a module.
        ValueError: masks repeat, or a trace has taken the keys out of the model (they are
            then put back); the message names the layers and says what to add. Also if
            `model` has no dropout layer of chandrop, or one in a tuple.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, check_step
        >>> model = nn.Sequential(nn.Linear(4, 4), Dropout(0.5))
        >>> check_step(model, lambda x: model(x).sum(), mx.ones((2, 4)))
    """
    layers = keyed_layers(model)
    check_layers_for_key(model, layers)
    keys = get_keys(model)
    _check_keys_differ(_words(model))
    step(*args)
    first = _words(model)
    _check_keys_differ(first)
    step(*args)
    second = _words(model)
    lost = [path for path in layers if second[path] is None]
    if lost:
        set_keys(model, keys)
        raise ValueError(_advice(f"The keys of these layers are lost: {quoted(lost)}."))
    same = [path for path in layers if first[path] == second[path]]
    if same and _compile_is_on():
        mx.disable_compile()
        try:
            step(*args)
        finally:
            mx.enable_compile()
        uncompiled = _words(model)
        frozen = [path for path in same if uncompiled[path] != second[path]]
        if frozen:
            raise ValueError(
                _advice(f"These layers drop the same at every step: {quoted(frozen)}.")
            )


def _advice(problem: str) -> str:
    return (
        f"{problem} The step is compiled and does not carry the model's state, where the "
        "keys are. Add it:\n"
        "    state = [model.state, optimizer.state]\n"
        "    step = mx.compile(step, inputs=state, outputs=state)"
    )


def _compile_is_on() -> bool:
    traces = []

    @mx.compile
    def identity(x: mx.array) -> mx.array:
        traces.append(x)
        return x

    # The first call in a process may be traced once more than those that follow.
    for _ in range(3):
        identity(mx.array(0.0))
    return len(traces) < 3


def _words(model: nn.Module) -> dict[str, Any]:
    """Gives the keys as lists of ints, or None for what a trace left unfinished."""
    words: dict[str, Any] = {}
    for path, key in get_keys(model).items():
        try:
            words[path] = key.tolist()
        except RuntimeError:
            words[path] = None
    return words


def _check_keys_differ(words: dict[str, Any]) -> None:
    paths = defaultdict(list)
    for path, key in words.items():
        if key is not None:
            paths[str(key)].append(path)
    for same in paths.values():
        if len(same) > 1:
            raise ValueError(
                f"These layers hold the same key, so they drop the same: {quoted(same)}. "
                "Give each its own: chandrop.nn.rekey(model, mx.random.key(0))."
            )
