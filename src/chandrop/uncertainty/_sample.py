import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from chandrop._checks import as_size, check_flag
from chandrop._mlx import vmap
from chandrop.nn.tools._purity import checked
from chandrop.nn.tools._subnetworks import (
    chooses_weights,
    drawing_in_eval_mode,
    subnetworks,
    whole_network,
)
from chandrop.random import Key, check_key
from chandrop.uncertainty._grouped_convolutions import right_groups

Network = nn.Module | Callable[..., Any]
Dropout = bool | Callable[[str, nn.Module], bool] | None

KEYS = "mx.random.split(mx.random.key(0), 32)"


def sample(
    fn: Network,
    keys: Key,
    *args: Any,
    chunk: int | None = None,
    progress: bool = False,
    dropout: Dropout = None,
) -> Any:
    """Evaluates a function of a key, or a model's subnetworks, for every key.

    It applies ``mx.vmap`` over the keys, so whatever does not depend on the key is computed
    only once: dropout in the last layers alone costs little more than a single call.

    Args:
        fn: a model, or a pure function ``fn(key, *args)`` of one key ``(2,)``. Each key
            chooses one subnetwork of a model, the same for every example along axis 0. The
            model runs in eval mode with its dropout layers on, including those of
            ``mlx.nn``, and is restored afterwards.
        keys: one key per sample, ``(S, 2)``, as ``mx.random.split(key, S)`` returns.
        *args: the other arguments of `fn`. Each call receives copies of their arrays, so
            ``x += 1`` in `fn` does not change yours.
        chunk: the number of keys to evaluate at a time, which bounds the memory. It does
            not work within ``mx.compile`` and ``mx.vmap``. A chunk of 1 does not use
            ``mx.vmap``. Default: all keys, without evaluating them; one by one, with a
            warning, where MLX cannot vmap an operation, such as those of quantised layers;
            one by one for a model whose :class:`chandrop.thin.ThinSequential` thins
            convolutions.
        progress: whether to show a progress bar, which needs tqdm and evaluates each chunk.
        dropout: which dropout layers of a model are on, as for
            :func:`chandrop.nn.functional_call`; False only for a single key, or if other
            layers draw in eval mode, too. Default: all.

    Returns:
        The outputs of `fn`, any tree of arrays, with a leading axis for the ``S`` keys.

    Raises:
        TypeError: `fn` is not callable, takes the key late or returns what is no tree of
            arrays; `keys` is not an array of keys; `chunk` is not an int, `progress` not a
            bool, or `dropout` not a function of two arguments.
        ValueError: there are no keys; `chunk` is less than 1; `dropout` is given for a
            function, or False for several keys; `fn` draws from MLX's global stream, or
            changes its arguments, such as a key-value cache; see
            :func:`chandrop.nn.functional_call`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import dropout
        >>> from chandrop.uncertainty import sample
        >>> keys = mx.random.split(mx.random.key(0), 1000)
        >>> samples = sample(lambda key, x: dropout(x, 0.5, key), keys, mx.ones(3))
        >>> samples.shape
        (1000, 3)

    Source: Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016.
    """
    check_network(fn, dropout)
    check_keys(keys, chunk)
    chunks = chunks_of(keys, chunk, fn, dropout)
    is_lazy = chunk is None and progress is False
    parts = []
    with as_function(fn, dropout) as function, progress_bar(len(keys), progress) as advance:

        def call(key: Key) -> Any:
            # With a batch of one key, a model has one mask for all examples.
            output = function(key[None] if isinstance(fn, nn.Module) else key, *args)
            return tree_map(_check_array, output)

        for samples, outputs in chunks.evaluate(call):
            parts.append(outputs)
            if not is_lazy:
                mx.eval(outputs)
            advance(samples)
    return joined(parts, is_lazy)


def _check_array(output: object) -> object:
    if not isinstance(output, mx.array):
        raise TypeError(
            f"Received an output with a {type(output).__name__}. Expected an mx.array, or "
            "lists, tuples and dicts of them. For an array that it holds: "
            "sample(nn.Sequential(model, lambda y: y.logits), keys, x)."
        )
    return output


class Chunks:
    """The keys of all samples, of which some are evaluated at a time."""

    def __init__(self, keys: Key, size: int) -> None:
        self._keys = keys
        self._size = size

    def __len__(self) -> int:
        return len(self._keys)

    def evaluate(self, function: Callable[[Key], Any]) -> Iterator[tuple[int, Any]]:
        """Yields how many samples there are in a chunk, and a function's outputs for them.

        The outputs are those of ``mx.vmap``. Where MLX has none of an operation, the keys
        are evaluated one by one from then on.
        """
        start = 0
        while start < len(self._keys):
            chosen = self._keys[start : start + self._size]
            try:
                outputs = over_keys(function, chosen)
            except (ValueError, RuntimeError) as error:
                operation = _not_vmapped(error)
                if operation is None or len(chosen) == 1:
                    raise
                chosen = chosen[:1]
                outputs = over_keys(function, chosen)
                warnings.warn(
                    f"MLX cannot vmap {operation}, so one key is evaluated after another. "
                    "Give chunk=1 for the same without this warning.",
                    stacklevel=3,
                )
                self._size = 1
            start += len(chosen)
            yield len(chosen), outputs


def _not_vmapped(error: Exception) -> str | None:
    """Returns the name of the operation that MLX cannot vmap, if that is the error."""
    if "[conv] Can only handle groups" in str(error):
        return "the weights of a 3D convolution"
    found = re.search(
        r"\[Primitive::vmap\] Not implemented for (\w+)|\[?(\w+)::vmap\]? NYI", str(error)
    )
    return found and (found[1] or found[2])


def check_keys(keys: object, chunk: object) -> None:
    """Checks keys ``(S, 2)``, and how many of them are evaluated at a time."""
    if not isinstance(keys, mx.array):
        fix = "mx.stack(keys)" if isinstance(keys, (list, tuple)) else KEYS
        raise TypeError(
            f"Received keys of type {type(keys).__name__}. Expected an mx.array: {fix}."
        )
    if mx.issubdtype(keys.dtype, mx.floating):
        raise TypeError(
            f"Received keys of dtype {keys.dtype}. Expected keys before the input: "
            "predict(model, keys, x)."
        )
    check_key(keys)
    if keys.ndim != 2 or len(keys) == 0:
        raise ValueError(
            f"Received keys of shape {keys.shape}. Expected (S, 2) for S >= 1 samples: "
            f"{KEYS}."
        )
    if chunk is not None:
        as_size(chunk, "chunk")


def chunks_of(keys: Key, chunk: int | None, fn: Network, dropout: Dropout) -> Chunks:
    """Cuts keys into chunks, by default into one, or of one key where that is faster."""
    repeats = dropout is False and len(keys) > 1
    if repeats and isinstance(fn, nn.Module) and not drawing_in_eval_mode(fn):
        raise ValueError(
            f"Received dropout = False and {len(keys)} keys, so that all samples would be "
            "the same. For the whole network, one is enough: keys[:1]; or in predict, "
            "none: keys=None."
        )
    if chunk is None:
        # MLX is slow, or fails, where it vmaps the weights of a convolution.
        is_slow = isinstance(fn, nn.Module) and chooses_weights(
            fn, True if dropout is None else dropout
        )
        chunk = 1 if is_slow else len(keys)
    return Chunks(keys, as_size(chunk, "chunk"))


def check_network(fn: object, dropout: object) -> None:
    """Raises unless `fn` can be sampled, with the layers on that `dropout` chooses."""
    if isinstance(fn, type) or not callable(fn):
        received, instance = f"a network of type {type(fn).__name__}", ""
        if isinstance(fn, type):
            received = f"the class {fn.__name__}"
            instance = f", which is an instance, {fn.__name__}(...)"
        elif isinstance(fn, Iterable):
            instance = ", or in predict a list of models"
        raise TypeError(
            f"Received {received}. Expected a model{instance}, or a function of a key and "
            "an input."
        )
    if dropout is None:
        return
    if not isinstance(fn, nn.Module):
        raise ValueError(
            "Received dropout for a function. Pass the model instead, or choose in the "
            "function: functional_call(model, {}, x, key=key, dropout=...)."
        )


@contextmanager
def as_function(
    fn: Network,
    dropout: Dropout,
    observe: Callable[..., None] | None = None,
    is_whole: bool = False,
) -> Iterator[Callable[..., Any]]:
    """Yields `fn`, or a model's subnetworks, as a function that is checked to be pure.

    If a model `is_whole`, its dropout is off, and the function ignores the key.
    """
    if isinstance(fn, nn.Module):
        on = True if dropout is None else dropout
        network = whole_network(fn) if is_whole else subnetworks(fn, on, observe)
        with network as function:
            yield checked(function)
        return
    try:
        yield checked(fn)
    except (TypeError, ValueError) as error:
        if not _takes_the_key_late(fn, error):
            raise
        raise TypeError(
            f"{error} The key comes first: lambda key, x: ..., not lambda x, key: ..."
        ) from error


def _takes_the_key_late(function: Callable[..., Any], error: Exception) -> bool:
    """Whether the names of the parameters, or an error, tell that they are swapped."""
    if re.search("(a|Expected) key (of dtype|type)", str(error)):
        return True
    try:
        first, *others = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return first not in ("key", "keys") and ("key" in others or "keys" in others)


def over_keys(function: Callable[[Key], Any], keys: Key) -> Any:
    """Evaluates a function for every key, by ``mx.vmap`` if there is more than one."""
    if len(keys) > 1:
        with right_groups():
            return vmap(function)(keys)
    return tree_map(lambda array: array[None], function(keys[0]))


def joined(parts: list[Any], is_lazy: bool = False) -> Any:
    """Concatenates trees along axis 0; unless lazy, one array at a time, to save memory."""
    if len(parts) == 1:
        return parts.pop()
    tree = tree_map(lambda _: None, parts[0])
    leaves: list[Any] = [list(dict(tree_flatten(part)).values()) for part in parts]
    parts.clear()

    def join(_: None) -> mx.array:
        array = mx.concatenate([part.pop(0) for part in leaves])
        if not is_lazy:
            mx.eval(array)
        return array

    return tree_map(join, tree)


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    check_flag(shown, "progress")
    if not shown:
        yield lambda samples: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm.") from error
    with tqdm(total=total, unit="sample") as bar:
        yield bar.update
