from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from chandrop._checks import as_integer

Index = tuple[int, ...]


def as_count(number: object, name: str) -> int:
    """Converts to an int of at least 1."""
    count = as_integer(number, name)
    if count < 1:
        raise ValueError(f"Received {name} = {count}. Expected at least 1.")
    return count


def as_array(array: object, name: str) -> mx.array:
    """Rejects anything but an array of real numbers."""
    if not isinstance(array, mx.array):
        fields = getattr(type(array), "_fields", ())
        fix = f"one of its fields, such as .{fields[0]}" if fields else f"mx.array({name})"
        raise TypeError(
            f"Received {name} of type {type(array).__name__}. Expected an mx.array: {fix}."
        )
    if mx.issubdtype(array.dtype, mx.complexfloating):
        raise TypeError(f"Received {name} of dtype {array.dtype}. Expected real numbers.")
    return array


def at(index: Index) -> str:
    return f" at index {index[0] if len(index) == 1 else index}" if index else ""


def in_sample(index: Index) -> str:
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
    except ValueError:  # Traces of mx.compile and mx.vmap have no values.
        return
    if found:
        first: Any = mx.argmax(wrong.flatten()).item()
        place = name(unravel(first, wrong.shape))
        raise ValueError(f"Received {what}{place}. {fix}".rstrip())
