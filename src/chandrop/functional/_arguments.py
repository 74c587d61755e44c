"""What every function of the family checks before it draws."""

import math
import numbers
import operator
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx

from chandrop.functional._groups import channel_axis


def check_input(x: Any) -> None:
    """Raises unless `x` is an array; its dtype is checked with the mask's."""
    if not isinstance(x, mx.array):
        raise TypeError(
            f"Received input of type {type(x).__name__}. Expected an mx.array: mx.array(x)."
        )


def check_dtype(dtype: Any) -> None:
    """Raises unless `dtype` can hold ``1 / (1 - p)``."""
    if not isinstance(dtype, mx.Dtype):
        raise TypeError(f"Received dtype {dtype!r}. Expected one such as mx.float32.")
    if not mx.issubdtype(dtype, mx.inexact):
        raise TypeError(
            f"Received dtype {dtype}. Expected a floating-point or complex dtype: "
            "x.astype(mx.float32)."
        )


def is_zero(p: float | mx.array) -> bool:
    """Whether `p` is a number and 0, so that nothing is dropped."""
    return not isinstance(p, mx.array) and p == 0


def check_rank(x: Any, spatial_ndim: int) -> None:
    """Raises if `x` lacks `spatial_ndim` spatial axes, channels and perhaps a batch."""
    unbatched = spatial_ndim + 1
    if isinstance(x, mx.array) and x.ndim not in (unbatched, unbatched + 1):
        raise ValueError(
            f"Received input with {x.ndim} dimensions. "
            f"Expected {unbatched} or {unbatched + 1} dimensions."
        )


def as_rate(p: Any) -> float | mx.array:
    """Gives `p` as a float in ``[0, 1]``, or as a float32 array clipped to it.

    A rate is not differentiated: the scale's derivative alone, without that of the draw,
    would be a biased gradient.
    """
    if isinstance(p, mx.array):
        check_is_no_key(p)
        check_real_array(p, "p")
        return mx.clip(mx.stop_gradient(p.astype(mx.float32)), 0.0, 1.0)
    # Before the second question, which takes long.
    if isinstance(p, bool) or not isinstance(p, (float, numbers.Real)):
        raise TypeError(
            f"Received p of type {type(p).__name__}. Expected a number in [0, 1] or an "
            "mx.array of them: mx.array(p)."
        )
    number: Any = p
    if not 0 <= number <= 1:
        hint = f": for {p} % give {number / 100}" if 2 <= number <= 100 else ""
        raise ValueError(f"The dropout probability {p} is not in [0, 1]{hint}")
    return float(number)


def check_is_no_key(p: Any) -> None:
    """Raises for an array of the dtype of keys in the place of the rate."""
    if isinstance(p, mx.array) and p.dtype == mx.uint32:
        raise TypeError(
            "Received p of dtype uint32, as keys have. Expected the rate before the key: "
            "Dropout(0.5, key=key), or dropout(x, 0.5, key)."
        )


def check_real_array(array: Any, name: str) -> None:
    """Raises unless this is an array of real numbers."""
    if not isinstance(array, mx.array):
        raise TypeError(
            f"Received {name} of type {type(array).__name__}. Expected an mx.array: "
            f"mx.array({name})."
        )
    if array.dtype == mx.bool_ or mx.issubdtype(array.dtype, mx.complexfloating):
        raise TypeError(
            f"Received {name} of dtype {array.dtype}. Expected a real dtype: mx.float32."
        )


def as_positive(number: Any, name: str) -> float:
    """Gives a number above 0 as a float."""
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(
            f"Received {name} of type {type(number).__name__}. Expected a number above 0."
        )
    value = float(number)
    if not 0 < value < math.inf:
        raise ValueError(f"Received {name} = {number}. Expected a number above 0.")
    return value


def check_broadcasts(array: mx.array, name: str, mask_shape: Sequence[int]) -> None:
    """Raises unless a rate, or the like, broadcasts to the shape of what is drawn."""
    lengths = zip(reversed(array.shape), reversed(mask_shape), strict=False)
    if array.ndim > len(mask_shape) or any(n not in (1, m) for n, m in lengths):
        raise ValueError(
            f"Received {name} of shape {array.shape}, which does not broadcast to the "
            f"mask's shape {tuple(mask_shape)}: 1 at the spatial axes, and one entry for "
            f"each channel or group of channels. {name}.reshape can add axes of length 1."
        )


def as_integers(sequence: Any, expected: str) -> tuple[int, ...]:
    """Gives a sequence of ints as a tuple."""
    try:
        return tuple(map(operator.index, sequence))
    except TypeError:
        received = type(sequence) if hasattr(sequence, "shape") else repr(sequence)
        raise TypeError(f"Received {received}. Expected {expected}.") from None


def as_axes(spatial_axes: Any) -> tuple[int, ...]:
    """Gives one spatial axis, or a sequence of them, as a tuple."""
    axes = spatial_axes
    # Before the second question, which takes long.
    if not isinstance(axes, (tuple, list, bool)) and isinstance(axes, numbers.Integral):
        axes = (axes,)
    return as_integers(axes, "spatial axes, as 1 or (1, 2)")


def axes_and_mask_shape(
    shape: Sequence[int],
    spatial_axes: int | Sequence[int],
    groups: int | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Gives the spatial axes, counted from the first, and the shape of what is drawn.

    That is `shape` with 1 at the spatial axes, and `groups` at the channel axis.
    """
    # Not in what is cached, where (4.0, 3) is the same as (4, 3).
    shape = as_integers(shape, "a shape, as x.shape")
    return _axes_and_mask_shape(shape, as_axes(spatial_axes), groups)


@lru_cache(maxsize=4096)
def _axes_and_mask_shape(
    shape: tuple[int, ...], spatial_axes: tuple[int, ...], groups: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
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


def check_keys(key: mx.array, shape: Sequence[int], axes: Sequence[int]) -> None:
    """Raises unless `key` is one key, or one for each example along axis 0 of `shape`."""
    if key.ndim == 1:
        return
    if key.ndim > 2:
        raise ValueError(
            f"Received keys of shape {key.shape}. Expected one key, (2,), or one for each "
            "example, (B, 2); for more batch axes, use mx.vmap."
        )
    if not shape or 0 in axes:
        raise ValueError(
            f"Received a batch of {key.shape[0]} keys for an input of shape "
            f"{tuple(shape)} without a batch axis (spatial axes {tuple(axes)}). "
            "Expected one key, (2,)."
        )
    if key.shape[0] not in (1, shape[0]):
        raise ValueError(
            f"Received a batch of {key.shape[0]} keys for an input of shape "
            f"{tuple(shape)}. Expected one key, (2,), one for all examples alike, (1, 2), "
            f"or one for each of them: chandrop.random.example_keys(key, {shape[0]})."
        )
