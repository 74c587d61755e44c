from collections.abc import Callable
from typing import Any, Literal, overload

import mlx.core as mx

from chandrop.random import example_keys
from chandrop.uncertainty._blockwise_summary import BlockwiseSummary, Running
from chandrop.uncertainty._classify import Classification, RunningClassification
from chandrop.uncertainty._over_keys import (
    Dropout,
    Network,
    as_function,
    as_size,
    chunks_of,
    is_one_by_one,
    joined,
    over_keys,
)
from chandrop.uncertainty._progress import progress_bar
from chandrop.uncertainty._regress import Regression, RunningRegression

_RUNNING: dict[str, type[Running]] = {
    "classification": RunningClassification,
    "regression": RunningRegression,
}


@overload
def predict(
    fn: Network,
    keys: mx.array,
    x: mx.array | tuple[mx.array, ...],
    task: Literal["classification"] = "classification",
    *,
    batch_size: int | None = None,
    chunk: int | None = None,
    progress: bool = False,
    consistent: bool = True,
    dropout: Dropout = None,
) -> Classification: ...


@overload
def predict(
    fn: Network,
    keys: mx.array,
    x: mx.array | tuple[mx.array, ...],
    task: Literal["regression"],
    *,
    batch_size: int | None = None,
    chunk: int | None = None,
    progress: bool = False,
    consistent: bool = True,
    dropout: Dropout = None,
) -> Regression: ...


def predict(
    fn: Network,
    keys: mx.array,
    x: mx.array | tuple[mx.array, ...],
    task: str = "classification",
    *,
    batch_size: int | None = None,
    chunk: int | None = None,
    progress: bool = False,
    consistent: bool = True,
    dropout: Dropout = None,
) -> Any:
    """Predicts with a network's subnetworks, and says how uncertain each prediction is.

    A key means one subnetwork: each sample is the same network for every example, however
    the examples are cut into batches. The samples are summarised as they come and never
    held together.

    Args:
        fn: a trained model; or a pure function ``fn(key, x)``. It gives logits
            ``(B, ..., K)``, classes last; or for a regression means ``(B, ...)`` or a pair
            of means and variances: one output for each image, pixel or voxel. A model is
            called in eval mode, but with its dropout layers on, those of ``mlx.nn`` too,
            and is left as it was. A function is given keys as layers,
            :func:`chandrop.nn.functional_call` and :mod:`chandrop.functional` take them:
            ``(1, 2)``, a key for all examples of the batch, or ``(B, 2)``. It derives
            others by :func:`chandrop.random.fold_in`.
        keys: keys ``(S, 2)``, as ``mx.random.split(key, S)`` gives, or
            :func:`chandrop.random.balanced_keys`, whose masks complement one another.
        x: the examples, along axis 0; or a tuple of such arrays for several inputs, as
            ``fn(key, *x)`` or ``model(*x)`` takes them. The axis 0 of what a dropout layer
            is given has to be that of the examples, too.
        task: ``"classification"`` or ``"regression"``.
        batch_size: how many examples at a time. Default: all.
        chunk: how many keys at a time, by ``mx.vmap``: what does not depend on the key is
            computed once for each chunk, and what does is held for all keys of a chunk.
            A chunk of 1 does without ``mx.vmap``, for models that MLX cannot vmap. Default:
            all; of a model that thins convolutions, by a
            :class:`chandrop.nn.ThinSequential`, one after another.
        progress: whether to show a progress bar, for which tqdm has to be installed.
        consistent: whether a sample is one subnetwork. If not, it has a subnetwork for each
            example, which depends on the place of the example in `x` alone.
        dropout: for a model: which dropout layers are on, as for
            :func:`chandrop.nn.functional_call`, such as
            ``lambda path, layer: path == "head.dropout"``. Default: all.

    Returns:
        What :func:`classify` or :func:`regress` gives for all samples, evaluated.

    Raises:
        TypeError: `fn` is not callable, `keys` are no keys, `x` or an output is not an
            ``mx.array``, or a size is not an int.
        ValueError: `task` is not known; there are no keys or no examples; a size is less
            than 1; the outputs are not one for each example, have nan (the error names the
            sample) or one class, or are probabilities; `dropout` is given for a function;
            `fn` draws from MLX's global stream; else see
            :func:`chandrop.nn.functional_call`.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.uncertainty import predict
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(), nn.Linear(16, 3))
        >>> keys = mx.random.split(mx.random.key(0), 32)
        >>> summary = predict(model, keys, mx.ones((8, 4)), batch_size=5)
        >>> summary.probabilities.shape, summary.mutual_information.shape
        ((8, 3), (8,))

    Source: Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016; one mask
    for all examples: "consistent dropout" of baal (Atighehchian, Branchaud-Charron and
    Lacoste, "Bayesian active learning for production", 2020).
    """
    if not isinstance(task, str) or task not in _RUNNING:
        received = repr(task) if isinstance(task, str) else f"of type {type(task).__name__}"
        raise ValueError(
            f'Received task = {received}. Expected "classification" or "regression". '
            "Several inputs are a tuple: predict(model, keys, (x, z))."
        )
    chunks = chunks_of(keys, 1 if is_one_by_one(fn, chunk, dropout) else chunk)
    inputs = x if isinstance(x, tuple) else (x,)
    examples = _number_of_examples(inputs)
    size = as_size(batch_size, "batch_size", examples)
    starts = range(0, examples, size)
    results: list[Any] = []
    with (
        as_function(fn, dropout) as function,
        progress_bar(len(starts) * len(keys), progress) as advance,
    ):
        for start in starts:
            batch = [array[start : start + size] for array in inputs]
            summary = BlockwiseSummary(_RUNNING[task], first_example=start)
            for chosen in chunks:
                summary.add(_outputs(function, chosen, batch, start, consistent))
                advance(len(chosen))
            results.append(summary.result())
    return joined(results)


def _number_of_examples(inputs: tuple[mx.array, ...]) -> int:
    for x in inputs:
        if not isinstance(x, mx.array):
            raise TypeError(
                f"Received x of type {type(x).__name__}. Expected an mx.array: "
                "mx.array(x); or a tuple of them for several inputs."
            )
    lengths = {x.shape[0] if x.ndim else 0 for x in inputs}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"Received x of shape {', '.join(str(x.shape) for x in inputs)}. Expected at "
            "least one example, along axis 0, and of several inputs as many of each."
        )
    return lengths.pop()


def _outputs(
    function: Callable[..., Any],
    keys: mx.array,
    batch: list[mx.array],
    first_example: int,
    consistent: bool,
) -> Any:
    """Gives what the function gives for each key, of one batch."""
    n = len(batch[0])

    def output(key: mx.array) -> Any:
        drawn = key[None] if consistent else example_keys(key, n, first_example)
        try:
            return function(drawn, *batch)
        except ValueError as error:
            if not consistent and "Expected one key" in str(error):
                raise ValueError(
                    f"{error} consistent=False gave each example a key of its own."
                ) from error
            if "Expected key shape" not in str(error):
                raise
            raise ValueError(
                f"fn gave mx.random a key made from that of predict, {drawn.shape}: a key "
                "for all examples of a batch. It is for layers, functional_call and "
                "chandrop.functional, and chandrop.random.fold_in(key, 0) derives others. "
                "mx.random takes key[0], if that is no balanced key; draw with 1 in place "
                "of the number of examples, so that they share the mask."
            ) from error

    outputs = over_keys(output, keys)
    for array in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
        if not isinstance(array, mx.array):
            raise TypeError(
                f"Received an output of type {type(array).__name__}. Expected an mx.array. "
                'Take one out of it: predict(nn.Sequential(model, lambda y: y["logits"]), '
                "keys, x)."
            )
        if array.shape[1:2] != (n,):
            raise ValueError(
                f"Received an output of shape {array.shape[1:]} for {n} examples. Expected "
                "one for each of them, along axis 0."
            )
    return outputs
