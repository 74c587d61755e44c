import math
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

import mlx.core as mx

Formula = Callable[[Any, ModuleType], tuple[Any, ...]]


def coefficients(
    formula: Formula, rate: float | mx.array, dtype: mx.Dtype
) -> list[mx.array]:
    """Returns what a formula makes of a rate, as arrays; all are 0 at a rate of 1.

    Args:
        formula: ``(p, module) -> numbers`` for a rate below 1. The module has the functions
            for it: ``math`` for a float, ``mlx.core`` for an array.
        rate: a float in ``[0, 1]``, or a float32 array.
        dtype: the dtype of the input. A float is computed in double precision, and stays
            float64 for a float64 input.
    """
    if isinstance(rate, mx.array):
        return [mx.where(rate == 1, 0.0, number) for number in formula(rate, mx)]
    numbers = _numbers(formula, rate, dtype == mx.float64)
    # Slices, since MLX writes a lone number into the source of the kernel that it compiles:
    # one more run of the compiler for every rate, and in old MLX with too few digits, so
    # that compiled and eager would differ.
    return [numbers[i : i + 1] for i in range(len(numbers) - 1)]


@lru_cache(maxsize=4096)
def _numbers(formula: Formula, rate: float, double: bool) -> mx.array:
    numbers = formula(rate if rate < 1 else 0.0, math)
    if rate == 1:
        numbers = (0.0,) * len(numbers)
    # One more number, so that even a lone one is a slice.
    return mx.array([*numbers, 0.0], mx.float64 if double else mx.float32)
