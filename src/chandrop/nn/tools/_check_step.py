import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from chandrop import _mlx
from chandrop._checks import check_function, of_type
from chandrop._global_stream import set_stream, stream_state
from chandrop.nn._call_context import in_context, is_constant
from chandrop.nn._snapshot import Snapshot, restored_on_exit
from chandrop.nn._threads import model_lock
from chandrop.nn.tools._convert import drops, mlx_dropouts
from chandrop.nn.tools._layers_by_path import quoted
from chandrop.nn.tools._model_keys import (
    check_has_layers,
    get_keys,
    hashes,
    keyed_layers,
)
from chandrop.nn.tools._transforms import CARRY, KeysNotCarriedError, unwrapped_imports

_REBUILD = """
If the step updates an optimizer, rebuild it, since mx.compile has left arrays of its
trace in it."""

# The first may be traced once more, so it is not compared with the others.
_CALLS = 4

# What goes wrong with draws from MLX's global stream in a transform; the worst first.
_FAULTS = {
    "mx.checkpoint": "In mx.checkpoint the recomputation draws something else, so the "
    "gradient is of another network than the loss.",
    "mx.vmap": "In mx.vmap all members drop the same.",
    "mx.compile": "The compiled step does not carry the stream, which is mx.random.state, "
    "so every step repeats the first one's draws.",
}


def check_step(
    model: nn.Module, step: Callable[..., Any], /, *args: Any, optimizer: Any = None
) -> None:
    """Runs a training step and raises if its random layers repeat their draws.

    Call it once before training, on a small batch. It runs the step five times, first
    uncompiled, and then restores model, optimizer and MLX's global stream. It finds

    - a compiled step that does not carry the keys, or MLX's global stream if it draws from
      that: every call has the masks of the first;
    - layers, or ranks of ``mx.distributed``, that hold the same key;
    - layers of ``mlx.nn`` under ``mx.vmap``, where all members share a mask, and under
      ``mx.checkpoint``, where the recomputation draws another one.

    It leaves out layers whose keys do not advance uncompiled either, such as those that are
    given a key, and warns of modules that imported MLX's functions before this one. The
    step may not wait for a thread that uses another tool.

    Args:
        model: the model that `step` trains.
        step: the training step, compiled or not.
        *args: the arguments of `step`.
        optimizer: the ``mlx.optimizers.Optimizer`` that `step` updates, to restore.
            Without it, its state advances by five steps.

    Raises:
        TypeError: `model` is not a module, `step` not a function, or `optimizer` has no
            state.
        ValueError: draws repeat, or a trace has left its arrays in the model; or no random
            layer of chandrop in `model` is on, or one is in a tuple. All ranks have to call
            this function.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, check_step
        >>> model = nn.Sequential(nn.Linear(4, 4), Dropout(0.5))
        >>> check_step(model, lambda x: model(x).sum(), mx.ones((2, 4)))
    """
    check_function(step, "a step", "a function: check_step(model, step, x)")
    with model_lock:
        layers = keyed_layers(model)
        check_has_layers(model, layers)
        dropping = [path for path, layer in layers.items() if drops(layer)]
        if not dropping:
            raise ValueError(
                f"None of the model's dropout layers is on: {quoted(layers)}. Expected "
                "training mode, model.train(), and a rate above 0."
            )
        left = _left_in_model(model)
        if left:
            raise ValueError(
                f"The model holds arrays of an earlier trace of mx.compile: {quoted(left)}."
                " Rebuild the model and the optimizer, then the step."
            )
        imports = unwrapped_imports()
        if imports:
            warnings.warn(
                "MLX's own functions were imported before chandrop.nn: "
                f"{', '.join(imports)}. In these, random layers draw wrongly, without "
                "an error. Import chandrop.nn first, or call mx.vmap, mx.checkpoint and "
                "mx.compile.",
                stacklevel=2,
            )
        carry = CARRY if optimizer is not None else CARRY + _REBUILD
        transforms: set[str] = set()
        with _all_restored(model, optimizer), in_context(global_draws=transforms):
            before = _key_words(model)
            _check_keys_differ(before, dropping)
            with _not_compiled():
                uncompiled = _run(model, step, args, carry)
            advancing = [path for path in dropping if uncompiled.keys[path] != before[path]]
            # What may raise on one rank alone comes later, since the others would wait.
            _check_ranks_differ(uncompiled.keys, dropping, advancing)
            first, *calls = (_run(model, step, args, carry) for _ in range(_CALLS))
            _check_keys_differ(first.keys, dropping)
            repeated = [
                path
                for path in dropping
                if len({call.keys[path] for call in calls}) == 1
                and calls[0].keys[path] != uncompiled.keys[path]
            ]
            if repeated:
                raise _masks_repeat(repeated, carry)
            if uncompiled.draws_globally and not calls[-1].draws_globally:
                transforms.add("mx.compile")
            _check_global_draws(model, transforms)


class _Run(NamedTuple):
    """The words of each layer's key after a call, and whether that drew without a key."""

    keys: dict[str, str]
    draws_globally: bool


def _run(
    model: nn.Module, step: Callable[..., Any], args: tuple[Any, ...], carry: str
) -> _Run:
    stream = stream_state().tolist()
    try:
        step(*args)
    except KeysNotCarriedError as error:
        paths = {id(layer): path for path, layer in keyed_layers(model).items()}
        repeated = {paths.get(id(layer), repr(layer)) for layer in error.layers}
        raise _masks_repeat(sorted(repeated), carry) from error
    if not is_constant(stream_state()):
        raise ValueError(
            "The compiled step takes MLX's global stream, but does not return it. Carry "
            "mx.random.state among the outputs, too."
        )
    left = _left_in_model(model)
    if left:
        raise ValueError(
            f"mx.compile has left arrays of its trace in the model: {quoted(left)}. Carry "
            f"{carry}\nIf both are carried: optimizer.state was replaced after the list "
            "was made; make it later."
        )
    return _Run(_key_words(model), stream_state().tolist() != stream)


@contextmanager
def _all_restored(model: nn.Module, optimizer: Any) -> Iterator[None]:
    """Restores the model, the optimizer and MLX's global stream on exit.

    An optimizer that makes its state at its first update keeps that, as it was before the
    update, since a compiled step cannot make it twice.
    """
    if optimizer is not None and not hasattr(optimizer, "state"):
        raise TypeError(
            f"Received an optimizer {of_type(optimizer)}. Expected an "
            "mlx.optimizers.Optimizer: check_step(model, step, x, optimizer=optimizer)."
        )
    stream = stream_state().tolist()
    with restored_on_exit(model) as before:
        before.restore_copies()
        parts = _optimizers_in(optimizer)
        snapshots = [Snapshot(vars(part)) for part in parts]

        def init(i: int, parameters: Any) -> None:
            del parts[i].init
            parts[i].init(parameters)
            snapshots[i] = Snapshot(vars(parts[i]))

        for i, part in enumerate(parts):
            if hasattr(part, "init"):
                part.init = partial(init, i)
        try:
            yield
        finally:
            for snapshot in snapshots:
                snapshot.restore()
            set_stream(stream)


def _optimizers_in(optimizer: Any) -> list[Any]:
    """Returns an optimizer, and those that it holds."""
    from mlx.optimizers import Optimizer  # Late, to import chandrop faster.

    found = [] if optimizer is None else [optimizer]
    for part in found:
        for held in dict(tree_flatten(vars(part))).values():
            if isinstance(held, Optimizer) and held not in found:
                found.append(held)
    return found


def _left_in_model(model: nn.Module) -> list[str]:
    """Returns the paths of arrays that a trace has left in a model."""
    arrays = dict(tree_flatten(model.state))
    return [path for path, array in arrays.items() if not is_constant(array)]


def _key_words(model: nn.Module) -> dict[str, str]:
    return {path: str(key.tolist()) for path, key in get_keys(model).items()}


def _check_keys_differ(keys: dict[str, str], dropping: list[str]) -> None:
    paths = defaultdict(list)
    for path in dropping:
        paths[keys[path]].append(path)
    for same in paths.values():
        if len(same) > 1:
            raise ValueError(
                f"These layers hold the same key, so they draw the same: {quoted(same)}. "
                "Give each its own: chandrop.nn.rekey(model, mx.random.key(0))."
            )


def _masks_repeat(paths: list[str], carry: str) -> ValueError:
    return ValueError(
        f"These layers draw the same at every step: {quoted(paths)}. The step is compiled "
        f"and does not carry their keys. Carry {carry}"
    )


def _check_global_draws(model: nn.Module, transforms: set[str]) -> None:
    theirs = [path for path, layer in mlx_dropouts(model).items() if drops(layer)]
    if theirs:
        source = f"These layers of mlx.nn draw from MLX's global stream: {quoted(theirs)}."
        fix = "Give them keys: chandrop.nn.convert(model)."
    else:
        source = "The step draws from MLX's global stream."
        fix = "Draw by a key that the step is given: mx.random.normal(shape, key=key)."
        transforms.discard("mx.vmap")
    for transform, fault in _FAULTS.items():
        if transform in transforms:
            raise ValueError(f"{source} {fault} {fix}")


def _check_ranks_differ(
    keys: dict[str, str], dropping: list[str], advancing: list[str]
) -> None:
    """Raises if layers that draw by their own keys hold the same on several ranks."""
    ranks = mx.distributed.init()
    if ranks.size() == 1:
        return
    words = hashes(keys[path] for path in dropping)
    gathered: Any = mx.distributed.all_gather(words[None], group=ranks).tolist()
    same = [
        path
        for path, on_ranks in zip(dropping, zip(*gathered, strict=True), strict=True)
        if path in advancing and len(set(on_ranks)) < ranks.size()
    ]
    if same:
        raise ValueError(
            f"These layers hold the same key on several ranks: {quoted(same)}. Each rank "
            "then draws the same for its part of the batch. Give each its own keys, once "
            "before training:\n"
            "    rank = mx.distributed.init().rank()\n"
            "    chandrop.nn.rekey(model, chandrop.random.fold_in(key, rank))"
        )


@contextmanager
def _not_compiled() -> Iterator[None]:
    """Turns compiling off until exit, if it is on."""
    is_on = []

    def identity(x: mx.array) -> mx.array:
        is_on.append(not is_constant(x))
        return x

    _mlx.compile(identity)(mx.array(0.0))
    if is_on[0]:
        mx.disable_compile()
    try:
        yield
    finally:
        if is_on[0]:
            mx.enable_compile()
