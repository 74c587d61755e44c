from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from chandrop._checks import check_flag, check_has_batch, check_input
from chandrop.functional import Rate, drop_path, dropout_channels
from chandrop.nn.layers._dropout_layer import DropoutLayer
from chandrop.random import Key


class DropPath(DropoutLayer):
    """Drops whole examples: stochastic depth, on the branch of a residual block.

    The rate `p`, a number or an array ``(B, 1, ..., 1)``, has no default. In deep networks
    it grows with depth, from 0:
    ``DropPath(p * i / (blocks - 1))`` in block ``i``. At the call, ``layer(x,
    key=key[None])`` keeps or drops the branch for the whole batch. See
    :func:`chandrop.functional.drop_path`.

    Shape:
        Input and output: any shape whose axis 0 is the batch, of a floating-point or
        complex dtype.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import DropPath
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.branch = nn.Linear(16, 16)
        ...         self.drop_path = DropPath(0.1)
        ...
        ...     def __call__(self, x):
        ...         return x + self.drop_path(self.branch(x))
        >>> Block()(mx.ones((8, 16))).shape
        (8, 16)
    """

    on_channels = "multiplies"
    _draws_batches = True

    def __init__(self, p: Rate, *, scale: bool = True, key: Key | None = None):
        """Creates a layer in training mode.

        Args:
            p: the probability of dropping an example: a number in ``[0, 1]``, or an array
                ``(B, 1, ..., 1)``.
            scale: whether to scale what is kept. If not, the branch is on average ``1 - p``
                times what it is in eval mode; to multiply it by that in eval mode, as the
                original does, is up to the block. Default: true.
            key: the initial key, ``(2,)``; see :class:`KeyedLayer`.
        """
        super().__init__(p, key=key)
        check_flag(scale, "scale")
        self._scale = scale

    def draw(self, x: mx.array, key: Key) -> mx.array:
        if not self._scale:
            return drop_path(x, self.p, key, scale=False)
        # As drop_path, in one call of Python less: see test_few_calls_of_python.
        check_input(x)
        check_has_batch(x)
        return dropout_channels(x, self.p, key, range(1, x.ndim))

    def _check(self, x: Any, key: Key | None) -> None:
        super()._check(x, key)
        check_has_batch(x)

    def _constant_axes(self, ndim: int) -> Sequence[int]:
        return range(1, ndim)

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}{'' if self._scale else ', scale=False'}"
