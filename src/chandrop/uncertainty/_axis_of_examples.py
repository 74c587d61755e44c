import warnings

import mlx.core as mx

from chandrop.random import Key


class AxisOfExamples:
    """Warns of layers whose draws for an example may depend on how examples are batched.

    Axis 0 of windows, heads or tokens of each example is a multiple of them.

    Attributes:
        examples: the number of examples in the batch.
        is_cut: whether there are other batches.
    """

    def __init__(self, model: str = "") -> None:
        self.examples = 1
        self.is_cut = False
        self._of = f" of {model}" if model else ""
        # What to say of each layer that was found.
        self._found: dict[str, str] = {}
        self._warned: set[str] = set()

    def observe(self, path: str | None, x: object, key: Key) -> None:
        """Looks at the input of a layer that draws."""
        if path is None or key.shape != (1, 2):
            return
        if x is None and self.is_cut:
            self._found[path] = (
                f'The KeyStream at "{path}"{self._of} returns the same key for each batch. '
                "What is drawn for an example with it depends on its place in the batch, "
                "and repeats from batch to batch. Give no batch_size, unless the draw is "
                "one for all examples, such as noise of weights."
            )
        if not isinstance(x, mx.array) or x.ndim == 0 or x.shape[0] == 1:
            return
        if x.shape[0] % self.examples:
            self._found[path] = (
                f'The layer at "{path}"{self._of} received an input of shape {x.shape} for '
                f"{self.examples} examples. Its axis 0 is not that of the examples, so its "
                "mask may depend on how they are batched. Leave it off: "
                f'dropout=lambda path, layer: path != "{path}"; or see docs/uncertainty.md.'
            )

    def warn(self) -> None:
        """Warns of each layer found, once."""
        for path, message in self._found.items():
            if path not in self._warned:
                self._warned.add(path)
                warnings.warn(message, stacklevel=3)
