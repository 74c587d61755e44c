"""The kept part of an array along an axis."""

import mlx.core as mx


def take_kept(x: mx.array, kept: mx.array, axis: int) -> mx.array:
    """Returns the entries of `x` at the indices `kept` of an axis."""
    # Along the last axis, mx.take takes three times as long, and its gradient twelve.
    return mx.take_along_axis(x, _along(kept, x, axis), axis=axis)


def put_kept(whole: mx.array, kept: mx.array, x: mx.array, axis: int) -> mx.array:
    """Returns `whole` with `x` at the indices `kept` of an axis."""
    return mx.put_along_axis(whole, _along(kept, x, axis), x, axis=axis)


def among_zeros(x: mx.array, kept: mx.array, axis: int, length: int) -> mx.array:
    """Returns zeros of `length` along an axis, with `x` at the indices `kept`."""
    shape = list(x.shape)
    shape[axis] = length
    return put_kept(mx.zeros(shape, dtype=x.dtype), kept, x, axis)


def _along(kept: mx.array, x: mx.array, axis: int) -> mx.array:
    shape = list(x.shape)
    shape[axis] = kept.shape[0]
    ones = [1] * x.ndim
    ones[axis] = kept.shape[0]
    return mx.broadcast_to(kept.reshape(ones), shape)
