"""What MLX cannot do, or does wrong: counted apart, and pinned in tests/test_mlx_limits.py.

``docs/mlx-limits.md`` has each of them in pure MLX.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """A limit of MLX.

    heading: what ``docs/mlx-limits.md`` calls it.
    order: the transforms that run into it, from the inside, as a regular expression.
    said: what MLX's error then says. Empty: MLX gives something wrong without a word.
    """

    heading: str
    order: str
    said: str = ""


LIMITS = [
    Limit(
        "`vmap` of the gradient of a checkpoint",
        r"checkpoint.* (grad|vjp).* vmap",
        r"\[Primitive::vmap\] Not implemented for Depends",
    ),
    Limit(
        "`jvp` of the gradient of a checkpoint",
        r"checkpoint.* (grad|vjp).* jvp",
        r"\[Primitive::jvp\] Not implemented for Depends",
    ),
    Limit(
        "Export of a checkpointed function",
        r"checkpoint.* export",
        "Unable to serialize primitive CustomTransforms",
    ),
    Limit(
        "Export of an imported function",
        r"export.* export",
        "Unable to serialize primitive Load",
    ),
    Limit(
        "An imported function has lost `stop_gradient`",
        r"export.* checkpoint.* (grad|vjp|jvp)",
        r"Not implemented for RandomBits|Cannot calculate VJP with respect to indices",
    ),
    # What is around a checkpoint calls the function once more.
    Limit(
        "The second `vmap` of an imported function",
        r"export.* (checkpoint|twice).* vmap|"
        r"export.* vmap.* (twice|checkpoint.* (grad|vjp|jvp))",
    ),
]


def limit_of(names, error=None):
    """The limit that transforms of these names run into, with this error or in silence."""
    order = "".join(f" {name}" for name in names)
    for limit in LIMITS:
        silent = error is None and not limit.said
        told = error is not None and limit.said and re.search(limit.said, str(error))
        if (silent or told) and re.search(limit.order, order):
            return limit.heading
    return None
