from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import mlx.core as mx

from chandrop._checks import as_size, check_flag
from chandrop.random import Key, example_keys
from chandrop.uncertainty._axis_of_examples import AxisOfExamples
from chandrop.uncertainty._blockwise_summary import TASKS, BlockwiseSummary
from chandrop.uncertainty._classify import Classification
from chandrop.uncertainty._regress import Regression
from chandrop.uncertainty._sample import (
    Dropout,
    Network,
    as_function,
    check_network,
    chunks_of,
    joined,
    progress_bar,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Inputs = mx.array | tuple[mx.array, ...]


class Options(TypedDict, total=False):
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
    task: Literal["classification"] = ...,
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
    """Predicts with a network's subnetworks, and measures how uncertain each prediction is.

    Each key chooses one subnetwork, the same for every example, no matter how the examples
    are batched. Samples are summarised as they arrive and never held all together.

    Args:
        fn: a trained model, as for :func:`sample`, or a pure function ``fn(key, x)``. It
            returns logits ``(B, ..., K)``; or, for a regression, means ``(B, ...)`` or a
            pair of means and variances. A function receives keys ``(1, 2)``, or ``(B, 2)``
            if not `consistent`, as layers and :mod:`chandrop.functional` take them.
            :func:`chandrop.random.fold_in` derives more.
        keys: as for :func:`sample`, and so are `chunk`, `progress` and `dropout`.
        x: the examples, along axis 0, or a tuple of such arrays for several inputs:
            ``model(*x)``. Dropout layers, too, must receive the examples along axis 0; a
            warning names one whose axis 0 has another length than a multiple of them.
        task: ``"classification"`` or ``"regression"``.
        batch_size: the number of examples to evaluate at a time. Default: all.
        chunk: the number of keys to evaluate at a time.
        progress: whether to show a progress bar.
        consistent: whether all examples of a sample share one subnetwork. If not, each
            example has its own, which depends only on the position of the example in `x`.
        dropout: which dropout layers of a model are on.

    Returns:
        The evaluated result of :func:`classify` or :func:`regress` for all samples.

    Raises:
        TypeError: `x` or an output is not an ``mx.array``; `consistent` is not a bool; see
            :func:`sample`.
        ValueError: `task` is unknown; there are no examples, or not one output per example;
            see :func:`sample`, :func:`classify` and :func:`regress`.

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
    if not isinstance(task, str) or task not in TASKS:
        received = repr(task) if isinstance(task, str) else type(task)
        raise ValueError(
            f'Received task = {received}. Expected "classification" or "regression". For '
            "several inputs, a tuple: predict(model, keys, (x, z))."
        )
    check_network(fn, dropout)
    check_flag(consistent, "consistent")
    inputs = x if isinstance(x, tuple) else (x,)
    for array in inputs:
        if not isinstance(array, mx.array):
            place = "an item of x" if isinstance(x, tuple) else "x"
            raise TypeError(
                f"Received {place} of type {type(array).__name__}. Expected an mx.array, "
                "mx.array(x), or a tuple of them for several inputs."
            )
    lengths = {array.shape[0] if array.ndim else 0 for array in inputs}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"Received x of shape {', '.join(str(array.shape) for array in inputs)}. "
            "Expected at least one example along axis 0, and as many in every input."
        )
    examples = lengths.pop()
    size = examples if batch_size is None else as_size(batch_size, "batch_size")
    starts = range(0, examples, size)
    chunks = chunks_of(keys, chunk, fn, dropout)
    results: list[Any] = []
    suspicious = True
    axis = AxisOfExamples()
    with (
        as_function(fn, dropout, axis.observe) as function,
        progress_bar(len(starts) * len(keys), progress) as advance,
    ):
        for start in starts:
            batch = [array[start : start + size] for array in inputs]
            axis.examples = len(batch[0])
            call = partial(_call, function, batch, start, consistent)
            summary = BlockwiseSummary(task, start, len(batch[0]))
            for samples, outputs in chunks.evaluate(call):
                summary.add(outputs)
                advance(samples)
            axis.warn()
            suspicious = suspicious and summary.suspicious
            results.append(summary.result())
    TASKS[task].refuse(suspicious)
    return joined(results)


def _call(
    function: Callable[..., Any],
    batch: list[mx.array],
    first_example: int,
    consistent: bool,
    key: Key,
) -> Any:
    n = len(batch[0])
    drawn = key[None] if consistent else example_keys(key, n, first_example)
    try:
        output = function(drawn, *batch)
    except ValueError as error:
        if not consistent and "Expected one key" in str(error):
            hint = "consistent=False gave each example its own key."
        elif "Expected key shape" in str(error):
            hint = (
                "predict passes a batch of keys. To derive more: fold_in(key, 0). For "
                "mx.random: key[0], to draw once for all examples."
            )
        else:
            raise
        raise ValueError(f"{error} {hint}") from error
    except TypeError as error:
        if "required positional argument" not in str(error):
            raise
        hint = "For several inputs, a tuple: predict(model, keys, (x, z))."
        raise TypeError(f"{error}. {hint}") from error
    for array in output if isinstance(output, (tuple, list)) else [output]:
        if not isinstance(array, mx.array):
            raise TypeError(
                f"Received an output of type {type(array).__name__}. Expected an mx.array. "
                f"{_selection(array, len(batch))}"
            )
    return output


def _selection(output: object, inputs: int) -> str:
    """Returns a line of code that selects an array of a model's output."""
    item = '["logits"]' if isinstance(output, dict) else ".logits"
    if inputs == 1:
        line = f"predict(nn.Sequential(model, lambda y: y{item}), keys, x)."
    else:
        line = (
            "model = chandrop.nn.convert(model.eval()); predict(lambda key, *x: "
            "chandrop.nn.functional_call(model, {}, *x, key=key, dropout=True)"
            f"{item}, keys, (x, z))."
        )
    return f"For one that it holds: {line}"
