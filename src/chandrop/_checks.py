"""Checks of arguments: each raises an error that names the fix."""

import math
import numbers
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx


def as_integer(number: object, name: str, expected: str = "an int") -> int:
    """Converts to int; rejects bools and non-integers."""
    if not isinstance(number, bool) and hasattr(number, "__index__"):
        try:
            return operator.index(number)
        except TypeError:  # An array that holds no single integer.
            pass
    raise TypeError(
        f"Received {name} of type {type(number).__name__}. Expected {expected}."
    )


def as_integers(sequence: Any, expected: str) -> tuple[int, ...]:
    """Converts a sequence of integers, or an array of them, to a tuple; rejects bools."""
    if isinstance(sequence, (tuple, list, range)) or hasattr(sequence, "shape"):
        plain = sequence.tolist() if hasattr(sequence, "tolist") else sequence
        try:
            integers = tuple(map(operator.index, plain))
            if bool not in map(type, plain):
                return integers
        except TypeError:
            pass
    received = type(sequence) if hasattr(sequence, "shape") else repr(sequence)
    raise TypeError(f"Received {received}. Expected {expected}.")


def as_axes(spatial_axes: Any) -> tuple[int, ...]:
    """Converts one axis, or a sequence of axes, to a tuple."""
    is_one = not isinstance(spatial_axes, (tuple, bool)) and isinstance(
        spatial_axes, numbers.Integral
    )
    axes = (spatial_axes,) if is_one else spatial_axes
    return as_integers(axes, "spatial axes such as 1 or (1, 2)")


def as_size(size: object, name: str, least: int = 1) -> int:
    """Converts a count, such as a number of entries along an axis, to int."""
    number = as_integer(size, name)
    if not least <= number < 2**31:
        expected = f"at least {least}" if number < least else "less than 2**31"
        raise ValueError(f"Received {name} = {number}. Expected {expected}.")
    return number


def as_groups(groups: object) -> int | None:
    """Converts a number of groups to int; None stays None."""
    if groups is None:
        return None
    return as_size(groups, "groups")


def as_rate(p: object) -> float | mx.array:
    """Converts a rate to a float in ``[0, 1]``, or clips an array of rates to it.

    The array has no gradient: the derivative of the scale alone, without that of the draw,
    would be biased.
    """
    if isinstance(p, mx.array):
        check_is_no_key(p, "p")
        check_real_array(p, "p")
        return mx.clip(mx.stop_gradient(p.astype(mx.float32)), 0.0, 1.0)
    # float first: the abstract class takes longer.
    if isinstance(p, bool) or not isinstance(p, (float, numbers.Real)):
        hint = ""
        if isinstance(p, list) or hasattr(p, "__array__"):
            hint = ": mx.array(p)"
        elif isinstance(p, tuple):
            hint = ", before the axes: ChannelDropout(0.5, spatial_axes)"
        raise TypeError(
            f"Received p of type {type(p).__name__}. Expected a number in [0, 1] or an "
            f"mx.array of them{hint}."
        )
    # Compared before it is converted, since an int may be too large for a float.
    number: Any = p
    if not 0 <= number <= 1:
        hint = f": for {p} % pass {number / 100}" if 2 <= number <= 100 else ""
        raise ValueError(f"The dropout probability {p} is not in [0, 1]{hint}")
    return float(number)


def is_zero(p: float | mx.array) -> bool:
    """Whether a rate is the number 0, so that nothing is dropped."""
    return not isinstance(p, mx.array) and p == 0


def as_positive(number: object, name: str) -> float:
    """Converts a number above 0 to float."""
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(
            f"Received {name} of type {type(number).__name__}. Expected a number above 0."
        )
    value = float(number)
    if not 0 < value < math.inf:
        raise ValueError(f"Received {name} = {number}. Expected a number above 0.")
    return value


def as_block_size(
    block_size: object, shape: Sequence[int] = (), axes: Sequence[int] = ()
) -> int:
    """Converts a block size to int; rejects one longer than the shortest of `axes`."""
    if isinstance(block_size, float) and block_size < 1:
        raise TypeError(
            f"Received block_size = {block_size}. Expected an int, after the rate: "
            "DropBlock(0.1, 3, spatial_axes), or drop_block(x, 0.1, key, 3, spatial_axes)."
        )
    size = as_size(block_size, "block_size")
    lengths = [shape[axis] for axis in axes]
    # An empty input has nothing to drop.
    if 0 not in shape and any(size > length for length in lengths):
        raise ValueError(
            f"Received block_size = {block_size} for spatial axes of lengths "
            f"{', '.join(map(str, lengths))}. Expected at most {min(lengths)}."
        )
    return size


def check_input(x: object) -> None:
    """Raises unless `x` is an array."""
    if not isinstance(x, mx.array):
        hint = ", before the rate" if isinstance(x, float) else ": mx.array(x)"
        raise TypeError(
            f"Received input of type {type(x).__name__}. Expected an mx.array{hint}."
        )


def check_dtype(dtype: object) -> None:
    """Raises unless `dtype` can hold ``1 / (1 - p)``."""
    if not isinstance(dtype, mx.Dtype):
        raise TypeError(f"Received dtype {dtype!r}. Expected one such as mx.float32.")
    if not mx.issubdtype(dtype, mx.inexact):
        raise TypeError(
            f"Received dtype {dtype}. Expected a floating-point or complex dtype: "
            "x.astype(mx.float32)."
        )


def check_rank(x: object, spatial_ndim: int) -> None:
    """Raises unless `x` has `spatial_ndim` spatial axes, channels and perhaps a batch."""
    unbatched = spatial_ndim + 1
    if isinstance(x, mx.array) and x.ndim not in (unbatched, unbatched + 1):
        check_is_no_key(x, "an input")
        raise ValueError(
            f"Received input with {x.ndim} dimensions. "
            f"Expected {unbatched} or {unbatched + 1} dimensions."
        )


def check_has_axes(axes: Sequence[int]) -> None:
    """Raises for no spatial axes."""
    if not axes:
        raise ValueError(
            "Received no spatial axes. Expected those along which blocks extend, such as "
            "(1, 2)."
        )


def check_keys_of_batch(key: mx.array, x: mx.array) -> None:
    """Raises unless there is one key, one for all examples alike, or one for each."""
    if key.ndim == 1:
        return
    if key.ndim > 2 or x.ndim == 0 or len(key) not in (1, len(x)):
        raise ValueError(
            f"Received keys of shape {key.shape} for an input of shape {x.shape}. "
            "Expected one key, (2,), one for all examples alike, (1, 2), or one for "
            "each example along axis 0, (B, 2)."
        )


def check_has_batch(x: mx.array) -> None:
    """Raises for a scalar."""
    if x.ndim == 0:
        raise ValueError(
            "Received a scalar. Expected an input whose axis 0 is the batch: drop_path "
            "draws once for each example."
        )


def check_is_no_key(argument: object, name: str) -> None:
    """Raises for a key in the place of the input or the rate."""
    if isinstance(argument, mx.array) and argument.dtype == mx.uint32:
        raise TypeError(
            f"Received {name} of dtype uint32, as keys have. Expected the rate before the "
            "key: Dropout(0.5, key=key), or dropout(x, 0.5, key)."
        )


def check_flag(flag: object, name: str) -> None:
    """Raises unless `flag` is a bool."""
    if not isinstance(flag, bool):
        raise TypeError(f"Received {name} = {flag!r}. Expected True or False.")


def check_function(function: object, name: str, expected: str) -> None:
    """Raises unless `function` can be called, and is no class."""
    if isinstance(function, type) or not callable(function):
        raise TypeError(f"Received {name} {of_type(function)}. Expected {expected}.")


def of_type(value: object) -> str:
    """Says in an error what was received; a class often stands for its instance."""
    if isinstance(value, type):
        return f"that is the class {value.__name__} itself"
    return f"of type {type(value).__name__}"


def check_real_array(array: object, name: str) -> None:
    """Raises unless `array` holds real numbers."""
    if not isinstance(array, mx.array):
        raise TypeError(
            f"Received {name} of type {type(array).__name__}. Expected an mx.array: "
            f"mx.array({name})."
        )
    if array.dtype == mx.bool_ or mx.issubdtype(array.dtype, mx.complexfloating):
        raise TypeError(
            f"Received {name} of dtype {array.dtype}. Expected a real dtype: mx.float32."
        )


def check_broadcasts(array: mx.array, name: str, mask_shape: Sequence[int]) -> None:
    """Raises unless a rate, or the like, broadcasts to the mask's shape."""
    lengths = zip(reversed(array.shape), reversed(mask_shape), strict=False)
    if array.ndim > len(mask_shape) or any(n not in (1, m) for n, m in lengths):
        raise ValueError(
            f"Received {name} of shape {array.shape}, which does not broadcast to the "
            f"mask's shape {tuple(mask_shape)}: 1 at the spatial axes, and one entry for "
            f"each channel or group of channels. {name}.reshape can add axes of length 1."
        )


# For plain ints alone: the cache could not tell True, 1 and 1.0 apart.
@lru_cache(maxsize=4096)
def axes_and_mask_shape(
    shape: tuple[int, ...], spatial_axes: tuple[int, ...], groups: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the spatial axes, counted from the first, and the shape of what is drawn.

    That is `shape` with 1 at the spatial axes, and `groups` at the channel axis.
    """
    ndim = len(shape)
    for axis in spatial_axes:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"Received spatial axis {axis} for an input with {ndim} dimensions. "
                f"Expected {-ndim} <= axis < {ndim}."
            )
    axes = tuple(axis % ndim for axis in spatial_axes)
    for axis in axes:
        if axes.count(axis) > 1:
            raise ValueError(
                f"Received spatial axes {spatial_axes} for an input with {ndim} "
                f"dimensions, which name axis {axis} twice. Expected each axis once."
            )
    mask_shape = [1 if axis in axes else n for axis, n in enumerate(shape)]
    if groups is not None:
        axis = channel_axis(ndim, axes)
        if shape[axis] % groups:
            raise ValueError(
                f"Received groups = {groups} for {shape[axis]} channels (axis {axis} of an "
                f"input of shape {shape}). Expected a divisor of {shape[axis]}."
            )
        mask_shape[axis] = groups
    return axes, tuple(mask_shape)


def channel_axis(ndim: int, axes: Sequence[int]) -> int:
    """Returns the axis of the channels: the last that is not spatial."""
    others = [axis for axis in range(ndim) if axis not in axes]
    if not others:
        raise ValueError(
            f"Received an input whose {ndim} axes are all spatial. Expected one more, for "
            "the channels."
        )
    return others[-1]
