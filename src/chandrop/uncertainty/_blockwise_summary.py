import math
from functools import partial
from operator import itemgetter
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from chandrop.uncertainty._checks import at, unraveled
from chandrop.uncertainty._classify import RunningClassification
from chandrop.uncertainty._over_keys import joined
from chandrop.uncertainty._regress import RunningRegression

Running = RunningClassification | RunningRegression

# So few numbers that what is computed on the way to a summary needs little memory.
_BLOCK = 2**16


class BlockwiseSummary:
    """Summarises samples of a batch, one block of examples, pixels or voxels after another.

    Args:
        running: the class that summarises a block.
        first_example: the number of the first example, for error messages.
    """

    def __init__(self, running: type[Running], first_example: int) -> None:
        self._running = running
        self._first_example = first_example
        self._shape: tuple[int, ...] = ()
        self._step = 1
        self._blocks: dict[int, Running] = {}

    def add(self, outputs: Any) -> None:
        """Takes samples ``(S, B, ...)`` in."""
        self._running.check(outputs)
        samples = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
        if samples.ndim < 2 + self._running.own_axes or samples.size == 0:
            raise ValueError(
                f"Received an output of shape {samples.shape[1:]}. Expected logits "
                "(B, ..., K), or of a regression means (B, ...). A logit of one class "
                "against the rest becomes two by mx.stack([mx.zeros_like(y), y], axis=-1)."
            )
        # What the network needs is freed before the summary begins.
        mx.eval(outputs)
        if not self._blocks:
            self._cut(samples)
        last = len(self._shape)
        flat = tree_map(lambda samples: mx.flatten(samples, 1, last), outputs)
        for start, running in self._blocks.items():
            block = slice(start, start + self._step)
            running.add(tree_map(itemgetter((slice(None), block)), flat))
            mx.eval(running.arrays())

    def result(self) -> Any:
        """Gives the summary of all samples, evaluated."""
        results = []
        for start in list(self._blocks):
            results.append(self._blocks.pop(start).result())
            mx.eval(results[-1])
        flat = joined(results)
        return type(flat)(*(mx.unflatten(array, 0, self._shape) for array in flat))

    def _cut(self, samples: mx.array) -> None:
        self._shape = samples.shape[1 : samples.ndim - self._running.own_axes]
        positions = math.prod(self._shape)
        self._step = max(1, _BLOCK * positions // samples.size)
        for start in range(0, positions, self._step):
            self._blocks[start] = self._running(partial(self._at, start))

    def _at(self, start: int, index: tuple[int, ...]) -> str:
        """Names an index in a block for an error message."""
        example, *others = unraveled(start + index[0], self._shape)
        return at((self._first_example + example, *others))
