import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.nn import KeyedLayer
from chandrop.random import Key


class AxisOfExamples:
    """Warns of dropout layers of a model whose axis 0 cannot be the examples.

    Of windows, heads or tokens of each example, axis 0 is a multiple of them.
    """

    def __init__(self, model: object) -> None:
        modules: Any = model
        named = modules.named_modules() if isinstance(model, nn.Module) else ()
        self._layers = {path: m for path, m in named if isinstance(m, KeyedLayer)}
        self._found: dict[str, tuple[int, ...]] = {}
        self._warned: set[str] = set()

    def expect(self, examples: int) -> None:
        """Looks at what the layers receive, until the model is put back."""
        for path, layer in self._layers.items():
            draw = type(layer)._draw.__get__(layer)
            vars(layer)["_draw"] = partial(self._draw, draw, path, examples)

    def warn(self, examples: int) -> None:
        """Warns of the layers found, of each once."""
        for path, shape in self._found.items():
            if path not in self._warned:
                self._warned.add(path)
                warnings.warn(
                    f'The dropout layer at "{path}" received an input of shape {shape} for '
                    f"{examples} examples. Its axis 0 is not that of the examples, so its "
                    "mask may depend on how they are batched. Leave it off: "
                    f'dropout=lambda path, layer: path != "{path}"; or see docs/'
                    "uncertainty.md.",
                    stacklevel=3,
                )

    def _draw(
        self,
        draw: Callable[[mx.array, Key], mx.array],
        path: str,
        examples: int,
        x: mx.array,
        key: Key,
    ) -> mx.array:
        if key.shape == (1, 2) and x.ndim and x.shape[0] != 1 and x.shape[0] % examples:
            self._found.setdefault(path, x.shape)
        return draw(x, key)
