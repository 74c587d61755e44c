"""Checks of arrays. Those of values evaluate, and are left out where a transform traces."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx


def refuse_where(wrong: mx.array, message: Callable[[tuple[int, ...]], str]) -> None:
    """Raises if any of `wrong` is true, with the message for the first such index."""
    try:
        found = wrong.any().item()
    except ValueError:  # Within mx.compile or mx.vmap values are not known.
        return
    if found:
        place: Any = mx.argmax(wrong.flatten()).item()
        raise ValueError(message(unraveled(place, wrong.shape)))


def check_array(array: Any, name: str) -> None:
    """Raises unless `array` is one of real numbers."""
    if not isinstance(array, mx.array):
        fields = getattr(type(array), "_fields", ())
        fix = f"one of its fields, such as .{fields[0]}" if fields else f"mx.array({name})"
        raise TypeError(
            f"Received {name} of type {type(array).__name__}. Expected an mx.array: {fix}."
        )
    if mx.issubdtype(array.dtype, mx.complexfloating):
        raise TypeError(f"Received {name} of dtype {array.dtype}. Expected real numbers.")


def check_samples(samples: Any, name: str, expected: str, least_ndim: int) -> None:
    """Raises unless there is at least one sample along axis 0."""
    check_array(samples, name)
    if samples.ndim < least_ndim or len(samples) == 0:
        raise ValueError(
            f"Received {name} of shape {samples.shape}. Expected {expected} for S >= 1 "
            "samples."
        )


def check_labelled(probabilities: Any, labels: Any) -> None:
    """Raises unless these are probabilities ``(..., K)`` and class numbers ``(...)``."""
    check_array(probabilities, "probabilities")
    check_array(labels, "labels")
    if not mx.issubdtype(labels.dtype, mx.integer):
        raise TypeError(
            f"Received labels of dtype {labels.dtype}. Expected integers, the numbers of "
            "the classes: labels.astype(mx.int32). One-hot labels become such by "
            "mx.argmax(labels, axis=-1)."
        )
    classes = probabilities.shape[-1] if probabilities.ndim else 0
    if classes < 2:
        raise ValueError(
            f"Received probabilities of shape {probabilities.shape}. Expected (..., K) for "
            "K >= 2 classes. One probability p of two is mx.stack([1 - p, p], axis=-1)."
        )
    if labels.shape != probabilities.shape[:-1]:
        one_hot = ", mx.argmax(labels, axis=-1) for one-hot labels"
        raise ValueError(
            f"Received labels of shape {labels.shape} for probabilities of shape "
            f"{probabilities.shape}. Expected {probabilities.shape[:-1]}"
            f"{one_hot if labels.shape == probabilities.shape else ''}."
        )
    if labels.size == 0:
        raise ValueError("Received no examples. Expected at least one.")
    refuse_where(
        (labels < 0) | (labels >= classes),
        lambda index: (
            f"Received a label outside [0, {classes}){at(index)}. Labels that "
            "count from 1 need labels - 1. What has no label is left out by "
            "array[kept], with kept = mx.array(np.flatnonzero(labels >= 0))."
        ),
    )
    # Not a negation: comparisons with nan are false.
    sums = probabilities.astype(mx.float32).sum(-1)
    rounding = 1e-2 if probabilities.dtype == mx.float32 else 1e-1
    right = (probabilities >= 0).all(-1) & (mx.abs(sums - 1) < rounding)
    refuse_where(
        ~right,
        lambda index: (
            "Received probabilities that are nan, negative or do not add up to 1"
            f"{at(index)}. Logits become probabilities by "
            "mx.softmax(logits.astype(mx.float32), axis=-1)."
        ),
    )


def at(index: tuple[int, ...]) -> str:
    """Names an index for an error message."""
    return f" at index {index[0] if len(index) == 1 else index}" if index else ""


def unraveled(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Gives the index of what is at `place` of a flattened array of this shape."""
    index = []
    for length in reversed(shape):
        place, along = divmod(place, length)
        index.append(along)
    return tuple(reversed(index))
