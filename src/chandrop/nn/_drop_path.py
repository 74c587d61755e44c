import mlx.core as mx

from chandrop import functional
from chandrop.functional._drop_path import check_has_batch
from chandrop.nn._keyed_layer import KeyedLayer


class DropPath(KeyedLayer):
    r"""Drops whole examples: stochastic depth, on the branch of a residual block.

    Args:
        p: the probability of dropping an example: a number in ``[0, 1]``, or an array that
            broadcasts to ``(B, 1, ..., 1)``. Deep networks have it grow with depth, from 0:
            ``DropPath(p * i / (blocks - 1))`` in block ``i``.
        key: the key to begin with, ``(2,)``; see :class:`Dropout`. At the call,
            ``layer(x, key=key[None])`` keeps or drops the branch for the whole batch.

    Shape:
        Input and output: any shape whose axis 0 is the batch, of a floating-point or
        complex dtype.

    Raises:
        TypeError: see :class:`Dropout`.
        ValueError: see :class:`Dropout`; the input is a scalar.

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

    Source: Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth",
    ECCV 2016; timm's ``DropPath``, torchvision's ``StochasticDepth``.
    """

    def __init__(self, p: float | mx.array, *, key: mx.array | None = None):
        super().__init__(p, key)

    def _check_axes(self, x: mx.array) -> None:
        check_has_batch(x)

    def _drop(self, x: mx.array, key: mx.array) -> mx.array:
        return functional.drop_path(x, self.p, key)
