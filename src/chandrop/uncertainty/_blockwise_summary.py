import math
from functools import partial
from typing import Any

import mlx.core as mx

from chandrop.uncertainty._checks import Index, at, unravel
from chandrop.uncertainty._classify import RunningClassification
from chandrop.uncertainty._regress import RunningRegression
from chandrop.uncertainty._sample import joined

TASKS: dict[str, type[RunningClassification | RunningRegression]] = {
    "classification": RunningClassification,
    "regression": RunningRegression,
}

# The numbers in a block: so few that intermediate results need little memory.
_BLOCK = 2**16


class BlockwiseSummary:
    """Summarises samples of a batch, one block of examples, pixels or voxels at a time.

    They are those of one network after another, each with all keys: 0 if there are none.
    """

    def __init__(self, task: str, first_example: int, examples: int, keys: int) -> None:
        self._running = TASKS[task]
        self._first_example = first_example
        self._examples = examples
        self._keys = keys
        self._samples = 0
        self._shapes: list[tuple[int, ...]] = []
        self._shape: tuple[int, ...] = ()
        self._blocks: dict[tuple[int, int], Any] = {}

    def add(self, outputs: object, suspicious: bool) -> bool:
        """Adds samples: one array ``(S, B, ...)``, or several.

        Returns whether all outputs of their network so far look like what they must not be;
        `suspicious` says it of those before.
        """
        arrays = self._as_arrays(outputs)
        # Evaluate the network first, so that its arrays are freed before the summary.
        mx.eval(arrays)
        if not self._blocks:
            self._shape = arrays[0].shape[1 : arrays[0].ndim - self._running.own_axes]
            positions = math.prod(self._shape)
            step = max(1, _BLOCK * positions // arrays[0].size)
            for start in range(0, positions, step):
                self._blocks[start, start + step] = self._running()
        flat = [mx.flatten(array, 1, len(self._shape)) for array in arrays]
        for (start, end), running in self._blocks.items():
            block = [array[:, start:end] for array in flat]
            suspicious = suspicious and running.suspects(*block)
            running.add(*block, name=partial(self._name, start))
            mx.eval(running.arrays())
        self._samples += len(arrays[0])
        return suspicious

    def result(self) -> Any:
        """Returns the evaluated summary of all samples."""
        results = []
        for block in list(self._blocks):
            results.append(self._blocks.pop(block).result())
            mx.eval(results[-1])
        flat = joined(results)
        return type(flat)(*(mx.unflatten(array, 0, self._shape) for array in flat))

    def _as_arrays(self, outputs: Any) -> list[mx.array]:
        arrays = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
        for array in arrays:
            is_batch = array.shape[1:2] == (self._examples,) and array.size > 0
            if not is_batch or array.ndim < 2 + self._running.own_axes:
                raise ValueError(
                    f"Received an output of shape {array.shape[1:]} for {self._examples} "
                    "examples. Expected logits (B, ..., K) or means (B, ...). For the "
                    "logit y of one class: mx.stack([mx.zeros_like(y), y], axis=-1)."
                )
        self._running.check(*arrays)
        shapes = [array.shape[1:] for array in arrays]
        self._shapes = self._shapes or shapes
        if shapes != self._shapes:
            raise ValueError(
                f"Received outputs of shape {', '.join(map(str, shapes))}, where models[0] "
                f"returned {', '.join(map(str, self._shapes))}. Expected the same of every "
                "model."
            )
        return arrays

    def _name(self, start: int, index: Index) -> str:
        sample, position = index
        example, *others = unravel(start + position, self._shape)
        key = f" with keys[{(self._samples + sample) % self._keys}]" if self._keys else ""
        return key + at((self._first_example + example, *others))
