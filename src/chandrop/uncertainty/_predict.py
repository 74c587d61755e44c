from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import mlx.core as mx

from chandrop.random import Key, example_keys
from chandrop.uncertainty._blockwise_summary import BlockwiseSummary, Running
from chandrop.uncertainty._checks import as_count
from chandrop.uncertainty._classify import Classification, RunningClassification
from chandrop.uncertainty._over_keys import (
    Dropout,
    Network,
    as_function,
    chooses_weights,
    chunks_of,
    joined,
    over_keys,
    progress_bar,
)
from chandrop.uncertainty._regress import Regression, RunningRegression

if TYPE_CHECKING:
    from typing_extensions import Unpack

Inputs = mx.array | tuple[mx.array, ...]

_TASKS: dict[str, type[Running]] = {
    "classification": RunningClassification,
    "regression": RunningRegression,
}


class Options(TypedDict, total=False):
    """The keyword arguments of :func:`predict`."""

    batch_size: int | None
    chunk: int | None
    progress: bool
    consistent: bool
    dropout: Dropout


@overload
def predict(
    fn: Network,
    keys: Key,
    x: Inputs,
    task: Literal["classification"] = "classification",
    **options: "Unpack[Options]",
) -> Classification: ...


@overload
def predict(
    fn: Network,
    keys: Key,
    x: Inputs,
    task: Literal["regression"],
    **options: "Unpack[Options]",
) -> Regression: ...


def predict(
    fn: Network,
    keys: Key,
    x: Inputs,
    task: str = "classification",
    *,
    batch_size: int | None = None,
    chunk: int | None = None,
    progress: bool = False,
    consistent: bool = True,
    dropout: Dropout = None,
) -> Any:
    """Predicts with a network's subnetworks and measures the uncertainty of each prediction.

    Each key chooses one subnetwork, the same for every example, no matter how the examples
    are batched. Samples are summarised as they arrive and never held all together.

    Args:
        fn: a trained model, as for :func:`sample`, or a pure function ``fn(key, x)``. It
            returns logits ``(B, ..., K)``; or, for a regression, means ``(B, ...)`` or a
            pair of means and variances. A function receives a batch of keys, ``(1, 2)`` or
            ``(B, 2)``, as layers and :mod:`chandrop.functional` take them. To derive more:
            :func:`chandrop.random.fold_in`.
        keys: one key per sample, ``(S, 2)``, as ``mx.random.split(key, S)`` returns.
        x: the examples, along axis 0, or a tuple of such arrays for several inputs:
            ``model(*x)`` or ``fn(key, *x)``. Axis 0 has to be the examples in the inputs of
            dropout layers, too.
        task: ``"classification"`` or ``"regression"``.
        batch_size: the number of examples to evaluate at a time. Default: all.
        chunk: the number of keys to evaluate at a time, as for :func:`sample`.
        progress: whether to show a progress bar, which needs tqdm.
        consistent: whether all examples of a sample share one subnetwork. If not, each
            example has its own, which depends only on the position of the example in `x`.
        dropout: which dropout layers of a model are on, as for
            :func:`chandrop.nn.functional_call`: ``lambda path, layer: path == "head.drop"``.
            Default: all.

    Returns:
        The evaluated result of :func:`classify` or :func:`regress` for all samples.

    Raises:
        TypeError: `x` or an output is not an ``mx.array``; `batch_size` is not an int; see
            :func:`sample`.
        ValueError: `task` is unknown; there are no examples; `batch_size` is less than 1;
            there is not one output per example; see :func:`sample`, :func:`classify` and
            :func:`regress`.

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
    if not isinstance(task, str) or task not in _TASKS:
        received = repr(task) if isinstance(task, str) else f"of type {type(task).__name__}"
        raise ValueError(
            f'Received task = {received}. Expected "classification" or "regression"; for '
            "several inputs, a tuple: predict(model, keys, (x, z))."
        )
    if chunk is None and chooses_weights(fn, dropout):
        chunk = 1
    chunks = chunks_of(keys, chunk)
    inputs = x if isinstance(x, tuple) else (x,)
    examples = _number_of_examples(inputs)
    size = examples if batch_size is None else as_count(batch_size, "batch_size")
    starts = range(0, examples, size)
    results: list[Any] = []
    with (
        as_function(fn, dropout) as function,
        progress_bar(len(starts) * len(keys), progress) as advance,
    ):
        for start in starts:
            batch = [array[start : start + size] for array in inputs]
            summary = BlockwiseSummary(_TASKS[task], first_example=start)
            for chosen in chunks:
                summary.add(_outputs(function, chosen, batch, start, consistent))
                advance(len(chosen))
            results.append(summary.result())
    return joined(results)


def _number_of_examples(inputs: tuple[object, ...]) -> int:
    shapes = []
    for x in inputs:
        if not isinstance(x, mx.array):
            raise TypeError(
                f"Received x of type {type(x).__name__}. Expected an mx.array, "
                "mx.array(x), or a tuple of them for several inputs."
            )
        shapes.append(x.shape)
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"Received x of shape {', '.join(map(str, shapes))}. Expected at least one "
            "example along axis 0, and as many in every input."
        )
    return lengths.pop()


def _outputs(
    function: Callable[..., Any],
    keys: Key,
    batch: list[mx.array],
    first_example: int,
    consistent: bool,
) -> tuple[mx.array, ...]:
    """Returns the checked outputs for each key and one batch."""
    n = len(batch[0])

    def output(key: Key) -> Any:
        drawn = key[None] if consistent else example_keys(key, n, first_example)
        try:
            return function(drawn, *batch)
        except ValueError as error:
            if not consistent and "Expected one key" in str(error):
                hint = "With consistent=False, predict passes one key per example."
            elif "Expected key shape" in str(error):
                hint = (
                    "predict passes a batch of keys, for layers, functional_call and "
                    "chandrop.functional. To derive more: chandrop.random.fold_in(key, 0). "
                    "mx.random takes key[0]; draw one array for all examples with it."
                )
            else:
                raise
            raise ValueError(f"{error} {hint}") from error

    outputs = over_keys(output, keys)
    arrays = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
    for array in arrays:
        if not isinstance(array, mx.array):
            raise TypeError(
                f"Received an output of type {type(array).__name__}. Expected an mx.array; "
                "for one in a dict: "
                'predict(nn.Sequential(model, lambda y: y["logits"]), keys, x).'
            )
        if array.shape[1:2] != (n,):
            raise ValueError(
                f"Received an output of shape {array.shape[1:]} for {n} examples. Expected "
                "one per example, along axis 0."
            )
    return arrays
