"""Sums of many numbers.

MLX adds float32 numbers one by one: on the CPU, the sum of 10^7 times 0.1 is off by 9 %.
These functions add blocks, and then the sums of the blocks, which keeps the rounding small.
"""

import mlx.core as mx

_BLOCK = 32


def mean(values: mx.array) -> mx.array:
    """Returns the mean of all `values`."""
    return total(values.flatten()) / values.size


def total(values: mx.array) -> mx.array:
    """Returns the sum along axis 0."""
    while len(values) > _BLOCK:
        values = _blocks(values).sum(1)
    return values.sum(0)


def total_by_bin(values: mx.array, bins: mx.array, n: int) -> mx.array:
    """Returns the sums along axis 0 of the `values` in bin 0, 1, ..., n - 1."""
    blocks = mx.arange(len(values)) // _BLOCK
    sums = mx.zeros((-(-len(values) // _BLOCK), n, *values.shape[1:]))
    return total(sums.at[blocks, bins].add(values))


def cumulative(values: mx.array) -> mx.array:
    """Returns the cumulative sums of a vector."""
    if len(values) <= _BLOCK:
        return mx.cumsum(values)
    within = mx.cumsum(_blocks(values), axis=1)
    before = cumulative(within[:, -1]) - within[:, -1]
    return (within + before[:, None]).flatten()[: len(values)]


def _blocks(values: mx.array) -> mx.array:
    # Not mx.pad, which old versions of MLX cannot vmap.
    padding = mx.zeros((-len(values) % _BLOCK, *values.shape[1:]), dtype=values.dtype)
    return mx.unflatten(mx.concatenate([values, padding]), 0, (-1, _BLOCK))
