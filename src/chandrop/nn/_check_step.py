from collections import defaultdict
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from chandrop.nn._model_keys import check_has_layers, get_keys, keyed_layers, quoted
from chandrop.nn._snapshot import Snapshot

# The first call may be followed by another trace, since it makes the optimizer's state.
_CALLS = 4


def check_step(model: nn.Module, step: Callable[..., Any], /, *args: Any) -> None:
    """Runs a training step and raises if its layers repeat masks, or each other's.

    A layer repeats its mask if `step` is compiled and does not carry the model's state: the
    key of the first call then stays in it for ever. Layers repeat each other's masks if
    they hold the same key. Call this once before training, on a small batch.

    The step is run four times, and a fifth time uncompiled if a key has not advanced, which
    trains the model and the optimizer by as many steps. A layer whose key does not advance
    uncompiled either is not reported: the step does not call it, gives it a key, or gives
    keys to the model by :func:`rekey`. Keys that do not come from the layers, as those of
    :func:`functional_call`, are not checked.

    Args:
        model: the model that `step` trains.
        step: the training step, compiled or not.
        *args: what `step` is called with.

    Raises:
        TypeError: `model` is not a module.
        ValueError: masks repeat, or the trace has left its arrays in the model (what the
            model held is then put back); the message names the layers and says what to add.
            Also if no dropout layer of chandrop in `model` is on, or if one is in a tuple.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, check_step
        >>> model = nn.Sequential(nn.Linear(4, 4), Dropout(0.5))
        >>> check_step(model, lambda x: model(x).sum(), mx.ones((2, 4)))
    """
    layers = keyed_layers(model)
    check_has_layers(model, layers)
    dropping = [path for path, layer in layers.items() if layer._would_drop()]
    if not dropping:
        raise ValueError(
            f"None of the model's dropout layers is on: {quoted(layers)}. Expected "
            "training mode, model.train(), and a rate above 0."
        )
    before = Snapshot(model)

    def run() -> dict[str, str]:
        try:
            step(*args)
        finally:
            _check_no_trace_left(model, before)
        return _words(model, dropping)

    _check_keys_differ(_words(model, dropping))
    _check_keys_differ(run())
    calls = [run() for _ in range(_CALLS - 1)]
    same = [path for path in dropping if all(c[path] == calls[0][path] for c in calls)]
    if same and _compile_is_on():
        mx.disable_compile()
        try:
            uncompiled = run()
        finally:
            mx.enable_compile()
        frozen = [path for path in same if uncompiled[path] != calls[0][path]]
        if frozen:
            raise ValueError(
                f"These layers drop the same at every step: {quoted(frozen)}. {_CARRY}\n"
                "If it does, it derives keys from a number that the trace has fixed: give "
                "that to the step as an array, mx.array(number)."
            )


_CARRY = """\
The step is compiled and has to carry the model's state, where the keys are:
    state = [model.state, optimizer.state]
    step = mx.compile(step, inputs=state, outputs=state)"""


def _words(model: nn.Module, paths: list[str]) -> dict[str, str]:
    """Gives keys as they can be compared later."""
    keys = get_keys(model)
    return {path: str(keys[path].tolist()) for path in paths}


def _check_keys_differ(words: dict[str, str]) -> None:
    paths = defaultdict(list)
    for path, key in words.items():
        paths[key].append(path)
    for same in paths.values():
        if len(same) > 1:
            raise ValueError(
                f"These layers hold the same key, so they drop the same: {quoted(same)}. "
                "Give each its own: chandrop.nn.rekey(model, mx.random.key(0))."
            )


def _check_no_trace_left(model: nn.Module, before: Snapshot) -> None:
    names = []
    for name, array in dict(tree_flatten(model.state)).items():
        try:
            mx.eval(array)
        except RuntimeError:
            names.append(name)
    if names:
        before.restore()
        raise ValueError(
            f"mx.compile has left arrays of its trace in the model: {quoted(names)}. "
            f"{_CARRY}\n"
            "Build the optimizer anew as well, since they are in its state, too. If both "
            "are carried: optimizer.state was replaced after the list was made; make it "
            "later."
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
