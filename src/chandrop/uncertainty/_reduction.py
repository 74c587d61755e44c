from typing import Literal

import mlx.core as mx

from chandrop.uncertainty._sums import mean

Reduction = Literal["mean", "none"]


def reduced(
    values: mx.array, reduction: Reduction, kept: mx.array | None = None
) -> mx.array:
    """Returns the mean of the values of a score, or each, and 0 for what is not kept."""
    if not isinstance(reduction, str) or reduction not in ("mean", "none"):
        raise ValueError(
            f'Received reduction = {reduction!r}. Expected "mean", or "none" for the value '
            "of each example."
        )
    if reduction == "mean":
        return mean(values, kept)
    return values if kept is None else mx.where(kept, values, 0)
