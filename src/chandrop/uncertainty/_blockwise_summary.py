import math
from functools import partial
from typing import Any

import mlx.core as mx

from chandrop.uncertainty._checks import Index, in_sample, unravel
from chandrop.uncertainty._classify import RunningClassification
from chandrop.uncertainty._over_keys import joined
from chandrop.uncertainty._regress import RunningRegression

Running = RunningClassification | RunningRegression

# The numbers in a block: so few that the intermediate results need little memory.
_BLOCK = 2**16


class BlockwiseSummary:
    """Summarises samples of a batch, one block of examples, pixels or voxels at a time.

    Args:
        running: the class that summarises a block.
        first_example: the position of the batch in the whole input, for error messages.
    """

    def __init__(self, running: type[Running], first_example: int) -> None:
        self._running = running
        self._first_example = first_example
        self._samples = 0
        self._shape: tuple[int, ...] = ()
        self._step = 1
        self._blocks: dict[int, Running] = {}

    def add(self, outputs: tuple[mx.array, ...]) -> None:
        """Adds samples ``(S, B, ...)``."""
        self._running.check(*outputs)
        samples = outputs[0]
        if samples.ndim < 2 + self._running.own_axes or samples.size == 0:
            raise ValueError(
                f"Received an output of shape {samples.shape[1:]}. Expected logits "
                "(B, ..., K), or means (B, ...) of a regression; for the logit y of one "
                "class against the rest: mx.stack([mx.zeros_like(y), y], axis=-1)."
            )
        # Free what the network needs before the summary begins.
        mx.eval(outputs)
        if not self._blocks:
            self._create_blocks(samples)
        flat = [mx.flatten(output, 1, len(self._shape)) for output in outputs]
        for start, running in self._blocks.items():
            block = [output[:, start : start + self._step] for output in flat]
            running.add(*block, name=partial(self._name, start))
            mx.eval(running.arrays())
        self._samples += len(samples)

    def result(self) -> Any:
        """Returns the evaluated summary of all samples."""
        results = []
        for start in list(self._blocks):
            results.append(self._blocks.pop(start).result())
            mx.eval(results[-1])
        flat = joined(results)
        return type(flat)(*(mx.unflatten(array, 0, self._shape) for array in flat))

    def _create_blocks(self, samples: mx.array) -> None:
        self._shape = samples.shape[1 : samples.ndim - self._running.own_axes]
        positions = math.prod(self._shape)
        self._step = max(1, _BLOCK * positions // samples.size)
        for start in range(0, positions, self._step):
            self._blocks[start] = self._running()

    def _name(self, start: int, index: Index) -> str:
        """Names an index of the block that begins at `start` in an error message."""
        sample, position = index
        example, *others = unravel(start + position, self._shape)
        return in_sample((self._samples + sample, self._first_example + example, *others))
