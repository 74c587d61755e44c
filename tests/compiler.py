"""Tells whether ``mx.compile`` compiles: on a CPU without g++ it does nothing."""

from functools import cache

import mlx.core as mx


@cache
def mx_compiles():
    traces = []

    @mx.compile
    def double(x):
        traces.append(x)
        return x * 2

    # The first call in a process may be traced once more than those that follow.
    for _ in range(3):
        mx.eval(double(mx.array([1.0])))
    return len(traces) < 3


@cache
def literals_survive_compilation():
    """Whether compiled code sees a number as it was written; old MLX wrote 7 digits."""
    x = mx.arange(1.0, 1001.0)
    third = mx.compile(lambda x: x * (1 / 3) * (5 / 7))
    return mx.array_equal(third(x), x * (1 / 3) * (5 / 7)).item()
