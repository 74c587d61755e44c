import math
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import mlx.core as mx


def coefficients_of(
    formula: Callable[[Any, ModuleType], tuple[Any, ...]],
    rate: float | mx.array,
    dtype: mx.Dtype,
) -> Iterable[mx.array]:
    """Gives what a formula makes of a rate, and 0 at a rate of 1, as arrays.

    Args:
        formula: ``(p, module) -> numbers`` for a rate below 1, with the module that has
            functions for it: ``math`` for a float, ``mlx.core`` for an array. At a rate of
            1 all numbers are 0.
        rate: what :func:`as_rate` gave.
        dtype: that of the input. A float's are computed in double precision, and stay in it
            for float64.
    """
    if isinstance(rate, mx.array):
        return [mx.where(rate == 1, 0.0, number) for number in formula(rate, mx)]
    numbers = formula(rate if rate < 1 else 0.0, math)
    if rate == 1:
        numbers = (0.0,) * len(numbers)
    # Parts of one array, since MLX writes a lone number into the source of the kernel that
    # it compiles: one more run of the compiler for every rate, and in old MLX with too few
    # digits, so that compiled and eager would differ.
    array = mx.array(numbers, mx.float64 if dtype == mx.float64 else mx.float32)
    return mx.split(array, len(numbers))
