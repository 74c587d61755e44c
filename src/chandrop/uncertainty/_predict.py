from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

import mlx.core as mx
import mlx.nn as nn

from chandrop._checks import as_size, check_flag
from chandrop.random import Key, example_keys
from chandrop.uncertainty._blockwise_summary import TASKS, BlockwiseSummary
from chandrop.uncertainty._classify import Classification
from chandrop.uncertainty._member import members_of
from chandrop.uncertainty._regress import Regression
from chandrop.uncertainty._sample import Dropout, Network, joined, progress_bar

if TYPE_CHECKING:
    from typing_extensions import Unpack

Models = Network | Sequence[nn.Module]
Inputs = mx.array | tuple[mx.array, ...]


class Options(TypedDict, total=False):
    batch_size: int | None
    chunk: int | None
    progress: bool
    consistent: bool
    dropout: Dropout


@overload
def predict(
    models: Models,
    keys: Key | None,
    x: Inputs,
    task: Literal["classification"] = ...,
    **options: "Unpack[Options]",
) -> Classification: ...
@overload
def predict(
    models: Models,
    keys: Key | None,
    x: Inputs,
    task: Literal["regression"],
    **options: "Unpack[Options]",
) -> Regression: ...
def predict(
    models: Models,
    keys: Key | None,
    x: Inputs,
    task: str = "classification",
    *,
    batch_size: int | None = None,
    chunk: int | None = None,
    progress: bool = False,
    consistent: bool = True,
    dropout: Dropout = None,
) -> Any:
    """Predicts with subnetworks or an ensemble, and measures how uncertain predictions are.

    Each key chooses one subnetwork of a model, the same for every example, no matter how
    the examples are batched; a warning names a :class:`chandrop.nn.KeyStream`, whose key is
    that of a batch. An ensemble's samples are those of each model with each key. Samples
    are summarised as they arrive and never held all together.

    Args:
        models: a trained model, as for :func:`sample`; an ensemble, a list or tuple of such
            models; or a pure function ``fn(key, x)``. Each returns logits ``(B, ..., K)``;
            or, for a regression, means ``(B, ...)`` or a pair of means and variances. A
            function receives keys ``(1, 2)``, or ``(B, 2)`` if not `consistent`, as layers
            and :mod:`chandrop.functional` take them. :func:`chandrop.random.fold_in`
            derives more.
        keys: as for :func:`sample`, and so are `chunk`, `progress` and `dropout`. None asks
            each model once, with all dropout off; it then needs no dropout layers.
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
        TypeError: `x` or an output is not an ``mx.array``; `models` holds anything but
            modules; `consistent` is not a bool; see :func:`sample`.
        ValueError: `task` is unknown; there are no examples, no models, or not one output
            per example; models return different shapes; there are no keys for a function,
            or for layers that draw in eval mode, too; see :func:`sample`, :func:`classify`
            and :func:`regress`.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.uncertainty import predict
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(), nn.Linear(16, 3))
        >>> keys = mx.random.split(mx.random.key(0), 32)
        >>> summary = predict(model, keys, mx.ones((8, 4)), batch_size=5)
        >>> summary.probabilities.shape, summary.mutual_information.shape
        ((8, 3), (8,))
        >>> ensemble = [nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)]
        >>> predict(ensemble, None, mx.ones((8, 4))).mutual_information.shape
        (8,)

    Source: Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016; one mask
    for all examples: "consistent dropout" of baal (Atighehchian, Branchaud-Charron and
    Lacoste, "Bayesian active learning for production", 2020); ensembles: Lakshminarayanan,
    Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", NeurIPS 2017.
    """
    if not isinstance(task, str) or task not in TASKS:
        received = repr(task) if isinstance(task, str) else type(task)
        raise ValueError(
            f'Received task = {received}. Expected "classification" or "regression". For '
            "several inputs, a tuple: predict(model, keys, (x, z))."
        )
    members = members_of(models, keys, chunk, dropout)
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
    total = len(starts) * sum(len(member.chunks) for member in members)
    numbered = 0 if keys is None else len(keys)
    results: list[Any] = []
    with ExitStack() as stack:
        for member in members:
            with member.named():
                stack.enter_context(member.ready())
        advance = stack.enter_context(progress_bar(total, progress))
        for start in starts:
            batch = [array[start : start + size] for array in inputs]
            summary = BlockwiseSummary(task, start, len(batch[0]), numbered)
            for member in members:
                member.axis.examples = len(batch[0])
                member.axis.is_cut = len(starts) > 1
                call = partial(_call, member.function, batch, start, consistent)
                with member.named():
                    for samples, outputs in member.chunks.evaluate(call):
                        member.suspicious = summary.add(outputs, member.suspicious)
                        advance(samples)
                member.axis.warn()
            results.append(summary.result())
    for member in members:
        with member.named():
            TASKS[task].refuse(member.suspicious)
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
        elif "Expected key shape" in str(error) and consistent:
            hint = (
                "predict passes a batch of keys. To derive more: fold_in(key, 0). For "
                "mx.random: key[0], to draw once for all examples."
            )
        elif "Expected key shape" in str(error):
            hint = (
                "consistent=False gave each example its own key. For mx.random: "
                "mx.vmap(lambda key: mx.random.normal(shape, key=key))(keys), with the "
                "shape of one example."
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
