import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import mlx.core as mx
import mlx.nn as nn
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten

from chandrop import _mlx
from chandrop._global_stream import set_stream, stream_state
from chandrop.nn._call_context import in_context, is_constant
from chandrop.nn._layers_of_the_call import in_use
from chandrop.nn._snapshot import Snapshot, changing_models, put_back
from chandrop.nn.tools._convert import MLX_DROPOUTS
from chandrop.nn.tools._layers_by_path import layers_by_path
from chandrop.nn.tools._model_keys import check_has_layers, get_keys, keyed_layers, quoted
from chandrop.nn.tools._transforms import CARRY, KeysNotCarriedError, seen_before

_ANEW = """
If the step updates an optimizer, build that anew, since mx.compile has left arrays of its
trace in it."""

# The first call in a process may be traced once more.
_CALLS = 4


def check_step(
    model: nn.Module, step: Callable[..., Any], /, *args: Any, optimizer: Any = None
) -> None:
    """Runs a training step and raises if its dropout layers repeat masks.

    Call this once before training, on a small batch. The step is run five times, the first
    time uncompiled. Model, keys, optimizer and MLX's global stream are then put back, so
    training goes on as if it had not been called; what other objects hold is not. These
    repeat masks:

    - a compiled step that does not carry the keys, or MLX's global stream if it draws from
      that: the first mask stays in it for ever;
    - layers that hold the same key, and ranks of ``mx.distributed`` that do;
    - layers of ``mlx.nn`` that are on: under ``mx.vmap`` all members have one mask, and
      the recomputation of ``mx.checkpoint`` has another one than the loss.

    A layer whose key does not advance uncompiled either is not reported: the step does not
    call it, gives it a key, or gives keys to the model by :func:`rekey`. Keys that do not
    come from the layers, as those of :func:`functional_call`, are not checked. Warns of
    modules that have imported MLX's functions before :mod:`chandrop.nn`, since the layers
    are wrong in these. Other tools wait meanwhile, in all threads, so the step may not wait
    for a thread that uses one.

    Args:
        model: the model that `step` trains.
        step: the training step, compiled or not.
        *args: what `step` is called with.
        optimizer: the optimizer that `step` updates, an ``mlx.optimizers.Optimizer``, to be
            put back. Without it, its state advances by five steps.

    Raises:
        TypeError: `model` is not a module, or `optimizer` has no state.
        ValueError: masks repeat, or the trace has left its arrays in the model; the message
            names the layers and says what to add. Also if no dropout layer of chandrop in
            `model` is on, or if one is in a tuple. Among several ranks, all of them have to
            call this function.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import Dropout, check_step
        >>> model = nn.Sequential(nn.Linear(4, 4), Dropout(0.5))
        >>> check_step(model, lambda x: model(x).sum(), mx.ones((2, 4)))
    """
    with changing_models:
        layers = keyed_layers(model)
        check_has_layers(model, layers)
        dropping = [path for path, layer in layers.items() if layer._would_drop()]
        if not dropping:
            raise ValueError(
                f"None of the model's dropout layers is on: {quoted(layers)}. Expected "
                "training mode, model.train(), and a rate above 0."
            )
        left = _left_traced(model)
        if left:
            raise ValueError(
                f"The model holds arrays of an earlier trace of mx.compile: {quoted(left)}."
                " Build model and optimizer anew, and then the step."
            )
        _check_can_be_seen()
        with (
            _all_put_back(model, optimizer),
            in_use({id(layer) for layer in layers.values()}),
        ):
            anew = _ANEW if optimizer is None else ""
            words = _words(model)
            _check_keys_differ({path: words[path] for path in dropping})
            with _not_compiled():
                uncompiled = _called(model, step, args, anew)
            own = {path for path in dropping if uncompiled.keys[path] != words[path]}
            # Before anything may raise on one rank, and leave the others waiting.
            _check_ranks_differ(uncompiled.keys, dropping, own)
            calls = [_called(model, step, args, anew) for _ in range(_CALLS)]
            _check_keys_differ({path: calls[0].keys[path] for path in dropping})
            _check_keys_advance(uncompiled, calls[1:], dropping)
            _check_global_draws(model, calls, uncompiled)


class _Call(NamedTuple):
    """What a call of the step has left.

    Attributes:
        keys: the words of each layer's key, by path.
        draws: whether it has drawn from MLX's global stream.
        transforms: the transforms of MLX in which it has.
    """

    keys: dict[str, str]
    draws: bool
    transforms: set[str]


def _called(
    model: nn.Module, step: Callable[..., Any], args: tuple[Any, ...], anew: str
) -> _Call:
    stream = stream_state().tolist()
    transforms: set[str] = set()
    try:
        with in_context(global_draws=transforms):
            step(*args)
    except KeysNotCarriedError as error:
        paths = {id(layer): path for path, layer in keyed_layers(model).items()}
        frozen = {paths.get(id(layer), repr(layer)) for layer in error.layers}
        raise _repeats_at_every_step(sorted(frozen), anew) from error
    if not is_constant(stream_state()):
        raise ValueError(
            "The compiled step takes MLX's global stream, but does not give it back. Carry "
            "mx.random.state among the outputs, too."
        )
    left = _left_traced(model)
    if left:
        raise ValueError(
            f"mx.compile has left arrays of its trace in the model: {quoted(left)}. Carry "
            f"{CARRY}{anew}\n"
            "If both are carried: optimizer.state was replaced after the list was made; "
            "make it later."
        )
    draws = stream_state().tolist() != stream
    return _Call(_words(model), draws, transforms)


@contextmanager
def _all_put_back(model: nn.Module, optimizer: Any) -> Iterator[None]:
    """Puts back, on exit, the model, MLX's global stream and the optimizer.

    An optimizer that makes its state at its first update keeps what it makes, but without
    the update, since a step that is compiled cannot make it twice.
    """
    if optimizer is not None and not hasattr(optimizer, "state"):
        raise TypeError(
            f"Received an optimizer of type {type(optimizer).__name__}. Expected an "
            "mlx.optimizers.Optimizer: check_step(model, step, x, optimizer=optimizer)."
        )
    stream = stream_state().tolist()
    with put_back(model) as [before]:
        before.restore_copies()
        parts = _optimizers_of(optimizer)
        snapshots = [Snapshot(vars(part)) for part in parts]
        for i, part in enumerate(parts):
            if hasattr(part, "init"):
                part.init = partial(_init, part, snapshots, i)
        try:
            yield
        finally:
            for snapshot in snapshots:
                snapshot.restore()
            set_stream(stream)


def _optimizers_of(optimizer: Any) -> list[Any]:
    """Gives an optimizer, and those that it holds."""
    found: dict[int, Any] = {}
    pending = [] if optimizer is None else [optimizer]
    while pending:
        value = pending.pop()
        if isinstance(value, (list, tuple)):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif id(value) in found:
            continue
        elif value is optimizer or isinstance(value, Optimizer):
            found[id(value)] = value
            pending.extend(vars(value).values())
    return list(found.values())


def _init(optimizer: Any, snapshots: list[Snapshot], i: int, parameters: Any) -> None:
    """Makes the state of an optimizer, and takes a snapshot of that."""
    del optimizer.init
    optimizer.init(parameters)
    snapshots[i] = Snapshot(vars(optimizer))


def _left_traced(model: nn.Module) -> list[str]:
    """Gives the paths of the arrays that stand for an input of a trace."""
    arrays = dict(tree_flatten(model.state))
    return [path for path, array in arrays.items() if not is_constant(array)]


def _check_can_be_seen() -> None:
    places = seen_before()
    if places:
        warnings.warn(
            f"MLX's own functions were imported before chandrop.nn: {', '.join(places)}. "
            "In these, dropout layers draw wrong masks without an error. Import "
            "chandrop.nn first, or call mx.vmap, mx.checkpoint and mx.compile.",
            stacklevel=3,
        )


def _words(model: nn.Module) -> dict[str, str]:
    """Gives keys as they can be compared later."""
    return {path: str(key.tolist()) for path, key in get_keys(model).items()}


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


def _check_keys_advance(uncompiled: _Call, calls: list[_Call], paths: list[str]) -> None:
    frozen = [
        path
        for path in paths
        if all(call.keys[path] == calls[0].keys[path] for call in calls)
        and uncompiled.keys[path] != calls[0].keys[path]
    ]
    if frozen:
        raise _repeats_at_every_step(frozen)


def _repeats_at_every_step(paths: Iterable[str], anew: str = "") -> ValueError:
    return ValueError(
        f"These layers drop the same at every step: {quoted(paths)}. The step is compiled "
        f"and does not carry their keys. Carry {CARRY}{anew}"
    )


def _check_global_draws(model: nn.Module, calls: list[_Call], uncompiled: _Call) -> None:
    layers = layers_by_path(model, MLX_DROPOUTS)
    theirs = [path for path, m in layers.items() if m.training and m._p_1 < 1]
    transforms = uncompiled.transforms.union(*(call.transforms for call in calls))
    if "mx.checkpoint" in transforms:
        what = (
            "In mx.checkpoint the recomputation draws something else, so the gradient is "
            "of another network than the loss."
        )
    elif "mx.vmap" in transforms and theirs:
        what = "In mx.vmap all members drop the same."
    elif "mx.compile" in transforms or (uncompiled.draws and not calls[-1].draws):
        what = (
            "The compiled step does not carry the stream, which is mx.random.state, so "
            "every step repeats the first one's draws."
        )
    else:
        return
    if theirs:
        who = f"These layers of mlx.nn draw from MLX's global stream: {quoted(theirs)}."
        fix = "Give them keys: chandrop.nn.convert(model)."
    else:
        who = "The step draws from MLX's global stream."
        fix = "Draw by a key that the step is given: mx.random.normal(shape, key=key)."
    raise ValueError(f"{who} {what} {fix}")


def _check_ranks_differ(words: dict[str, str], paths: list[str], own: set[str]) -> None:
    """Raises if layers that draw by their `own` keys hold the same on several ranks."""
    if not mx.distributed.is_available():
        return
    ranks = mx.distributed.init()
    if ranks.size() == 1:
        return
    hashes = mx.array([crc32(words[path].encode()) for path in paths], dtype=mx.uint32)
    others: Any = mx.distributed.all_gather(hashes[None], group=ranks).tolist()
    same = [
        path
        for i, path in enumerate(paths)
        if path in own and len({rank_hashes[i] for rank_hashes in others}) < ranks.size()
    ]
    if same:
        raise ValueError(
            f"These layers hold the same key on several ranks: {quoted(same)}. Each rank "
            "then drops the same of its part of the batch. Give each rank keys of its own, "
            "once before training:\n"
            "    rank = mx.distributed.init().rank()\n"
            "    chandrop.nn.rekey(model, chandrop.random.fold_in(key, rank))"
        )


@contextmanager
def _not_compiled() -> Iterator[None]:
    if not _compile_is_on():
        yield
        return
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


def _compile_is_on() -> bool:
    traces = []

    def identity(x: mx.array) -> mx.array:
        traces.append(x)
        return x

    compiled = _mlx.compile(identity)
    # The first call in a process may be traced once more than those that follow.
    for _ in range(3):
        compiled(mx.array(0.0))
    return len(traces) < 3
