from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

Index = tuple[int, ...]


def as_array(array: object, name: str, bools: bool = False) -> mx.array:
    """Rejects anything but an array of real numbers; `bools` are no such numbers."""
    if not isinstance(array, mx.array):
        fields = getattr(type(array), "_fields", ())
        fix = f"one of its fields, such as .{fields[0]}" if fields else f"mx.array({name})"
        raise TypeError(
            f"Received {name} of type {type(array).__name__}. Expected an mx.array: {fix}."
        )
    if mx.issubdtype(array.dtype, mx.complexfloating):
        raise TypeError(f"Received {name} of dtype {array.dtype}. Expected real numbers.")
    if array.dtype == mx.bool_ and not bools:
        raise TypeError(
            f"Received {name} of dtype {array.dtype}. Expected real numbers, not what a "
            "comparison of them returns."
        )
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


def is_true(array: mx.array) -> bool:
    """Whether an array is true; False within a trace, where nobody knows."""
    try:
        return bool(array.item())
    except ValueError:  # Traces of mx.compile and mx.vmap have no values.
        return False


def refuse_where(
    wrong: mx.array, what: str, fix: str = "", name: Callable[[Index], str] = at
) -> None:
    """Raises if any of `wrong` is true, and names the first such index."""
    if is_true(wrong.any()):
        first: Any = mx.argmax(wrong.flatten()).item()
        place = name(unravel(first, wrong.shape))
        raise ValueError(f"Received {what}{place}. {fix}".rstrip())
