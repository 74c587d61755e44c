"""Checks of arguments. Those of values evaluate, so a transform's trace skips them."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from chandrop._checks import as_integer

Index = tuple[int, ...]


def at(index: Index) -> str:
    """Names an index in an error message."""
    return f" at index {index[0] if len(index) == 1 else index}" if index else ""


def in_sample(index: Index) -> str:
    """Names a sample, and an index in it, in an error message."""
    return f" in sample {index[0]}{at(index[1:])}"


def unravel(position: int, shape: Sequence[int]) -> Index:
    """Converts a position in a flattened array to an index."""
    index: Index = ()
    for length in reversed(shape):
        position, along = divmod(position, length)
        index = (along, *index)
    return index


def refuse_where(
    wrong: mx.array, what: str, fix: str = "", name: Callable[[Index], str] = at
) -> None:
    """Raises if any of `wrong` is true, and names the first such index."""
    try:
        found = wrong.any().item()
    except ValueError:  # mx.compile and mx.vmap trace without values.
        return
    if found:
        first: Any = mx.argmax(wrong.flatten()).item()
        place = name(unravel(first, wrong.shape))
        raise ValueError(f"Received {what}{place}. {fix}".rstrip())


def as_count(number: object, name: str) -> int:
    """Converts to an int of at least 1."""
    count = as_integer(number, name)
    if count < 1:
        raise ValueError(f"Received {name} = {count}. Expected at least 1.")
    return count


def as_array(array: object, name: str) -> mx.array:
    """Returns an array of real numbers; rejects anything else."""
    if not isinstance(array, mx.array):
        fields = getattr(type(array), "_fields", ())
        fix = f"one of its fields, such as .{fields[0]}" if fields else f"mx.array({name})"
        raise TypeError(
            f"Received {name} of type {type(array).__name__}. Expected an mx.array: {fix}."
        )
    if mx.issubdtype(array.dtype, mx.complexfloating):
        raise TypeError(f"Received {name} of dtype {array.dtype}. Expected real numbers.")
    return array


def as_samples(samples: object, name: str, expected: str, min_ndim: int) -> mx.array:
    """Returns an array with at least one sample along axis 0; rejects anything else."""
    array = as_array(samples, name)
    if array.ndim < min_ndim or len(array) == 0:
        raise ValueError(
            f"Received {name} of shape {array.shape}. Expected {expected} with S >= 1 "
            "samples."
        )
    return array


def check_labelled(probabilities: object, labels: object) -> None:
    """Raises unless these are probabilities ``(..., K)`` and class labels ``(...)``."""
    probabilities = as_array(probabilities, "probabilities")
    labels = as_array(labels, "labels")
    if not mx.issubdtype(labels.dtype, mx.integer):
        raise TypeError(
            f"Received labels of dtype {labels.dtype}. Expected integers: "
            "labels.astype(mx.int32), or mx.argmax(labels, axis=-1) for one-hot labels."
        )
    classes = probabilities.shape[-1] if probabilities.ndim else 0
    if classes < 2:
        raise ValueError(
            f"Received probabilities of shape {probabilities.shape}. Expected (..., K) "
            "with K >= 2 classes; for one probability p: mx.stack([1 - p, p], axis=-1)."
        )
    if labels.shape != probabilities.shape[:-1]:
        is_one_hot = labels.shape == probabilities.shape
        raise ValueError(
            f"Received labels of shape {labels.shape} for probabilities of shape "
            f"{probabilities.shape}. Expected {probabilities.shape[:-1]}"
            f"{': mx.argmax(labels, axis=-1) for one-hot labels' if is_one_hot else ''}."
        )
    if labels.size == 0:
        raise ValueError("Received no examples. Expected at least one.")
    refuse_where(
        (labels < 0) | (labels >= classes),
        f"a label outside [0, {classes})",
        "If labels count from 1: labels - 1. To leave out examples without a label: "
        "array[kept], with kept = mx.array(np.flatnonzero(labels >= 0)).",
    )
    # Comparisons with nan are false, so ask for what is right.
    sums = probabilities.astype(mx.float32).sum(-1)
    rounding = 1e-2 if probabilities.dtype == mx.float32 else 1e-1
    right = (probabilities >= 0).all(-1) & (mx.abs(sums - 1) < rounding)
    refuse_where(
        ~right,
        "probabilities that are nan, negative or do not add up to 1",
        "If they are logits: mx.softmax(logits.astype(mx.float32), axis=-1).",
    )
