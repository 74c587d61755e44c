from collections.abc import Callable
from typing import Any

import mlx.core as mx

from chandrop._checks import check_function, check_has_batch, check_input
from chandrop.random import Key, check_key
from chandrop.thin._keep_channels import check_one_key, keep_channels, number_kept
from chandrop.thin._kept import among_zeros, take_kept
from chandrop.thin._thin_dropout import kept_scale
from chandrop.thin._thin_layer import ThinLayer


def thin_drop_path(
    x: mx.array,
    p: float,
    key: Key,
    branch: Callable[..., mx.array],
    *others: mx.array | None,
) -> mx.array:
    """Computes a branch for a fixed number of examples; the output of the others is 0.

    Stochastic depth that saves the work: of ``B`` examples ``k = max(1, round((1 - p) *
    B))`` go through the branch, and their outputs are scaled by ``B / k``. In a residual
    block: ``x + thin_drop_path(x, p, key, branch)``.
    Which examples are kept depends on their positions in the batch. A small batch rounds
    the rate: with p = 0.1 all of 4 examples are kept.

    Args:
        x: the input of the branch: an array whose axis 0 is the batch.
        p: the share of examples to drop: a number in ``[0, 1)``.
        key: one key, ``(2,)`` or ``(1, 2)``.
        branch: a function or module that returns one output for each example.
        *others: further inputs for each example, such as a mask: arrays whose axis 0 is the
            batch, or None. The call is ``branch(x, *others)``.

    Returns:
        ``thin_dropout_channels(branch(x), p, key, range(1, ndim))``, computed for the
        kept examples, if the branch treats each example alone. BatchNorm in training mode
        does not: its statistics are those of the kept examples. What is not computed is 0,
        even where it would have been inf or nan.

    Raises:
        TypeError: an input or the branch's output is not an array; the output holds
            integers or bools; `branch` is not callable; see :func:`keep_channels`.
        ValueError: the inputs are scalars, or differ in the number of examples; the branch
            returns another number of outputs; see :func:`keep_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.thin import thin_drop_path
        >>> x = mx.ones((4, 3))
        >>> thin_drop_path(x, 0.5, mx.random.key(0), lambda x: x * 10)[:, 0].tolist()
        [0.0, 20.0, 0.0, 20.0]

    Source: Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth",
    ECCV 2016; a fixed number of examples as in Oquab et al., "DINOv2: learning robust
    visual features without supervision", TMLR 2024, section 5.
    """
    check_branch(branch, x, *others)
    check_one_key(key)
    # Of no examples, none; but a wrong rate is an error all the same.
    if number_kept(x.shape[0], p) == 0:
        return _outputs(branch, x, *others)
    return on_kept_examples(keep_channels(key, x.shape[0], p), branch, x, *others)


def check_branch(branch: Any, *inputs: Any) -> Callable[..., mx.array]:
    """Returns the branch; raises unless it takes inputs of one batch."""
    expected = (
        "a function or module, the branch itself and not its output: "
        "x + drop_path(x, branch), where DropPath takes x + drop_path(branch(x))"
    )
    check_function(branch, "a branch", expected)
    given = [inputs[0], *(x for x in inputs[1:] if x is not None)]
    for x in given:
        check_input(x)
        check_has_batch(x)
    lengths = [x.shape[0] for x in given]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"Received inputs of {', '.join(map(str, lengths))} examples. Expected equal "
            "lengths along axis 0; the branch can close over what all examples share."
        )
    function: Callable[..., mx.array] = branch
    return function


def on_kept_examples(
    kept: mx.array, branch: Callable[..., mx.array], x: mx.array, *others: mx.array | None
) -> mx.array:
    """Returns a branch's scaled output at the indices `kept` of axis 0, 0 elsewhere."""
    examples = x.shape[0]
    if len(kept) == examples:
        return _outputs(branch, x, *others)
    inputs = (None if x is None else take_kept(x, kept, 0) for x in (x, *others))
    y = _outputs(branch, *inputs)
    scale = kept_scale(kept, examples, y.dtype).reshape(-1, *(1,) * (y.ndim - 1))
    return among_zeros(y * scale, kept, 0, examples)


def _outputs(branch: Callable[..., mx.array], *inputs: Any) -> mx.array:
    y, examples = branch(*inputs), inputs[0].shape[0]
    if not isinstance(y, mx.array) or not mx.issubdtype(y.dtype, mx.inexact):
        received = y.dtype if isinstance(y, mx.array) else type(y).__name__
        raise TypeError(
            f"Received a branch that returns {received}. Expected one mx.array of a "
            "floating-point or complex dtype."
        )
    if y.shape[:1] != (examples,):
        raise ValueError(
            f"Received a branch that returns an output of shape {y.shape} for {examples} "
            "examples. Expected one output for each of them, along axis 0."
        )
    return y


class ThinDropPath(ThinLayer):
    """Computes the branch of a residual block for a fixed number of examples.

    It takes the place of :class:`chandrop.nn.DropPath`, but takes the branch instead of the
    branch's output: ``x + drop_path(x, branch)`` for ``x + drop_path(branch(x))``. The
    branch stays where it is, so no parameter changes its name. See :func:`thin_drop_path`.

    Shape:
        Input: any shape whose axis 0 is the batch. Output: that of ``branch(x)``.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.thin import ThinDropPath
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 16)
        ...         self.drop_path = ThinDropPath(0.4)
        ...
        ...     def __call__(self, x):
        ...         return x + self.drop_path(x, lambda x: self.linear(self.norm(x)))
        >>> Block()(mx.ones((8, 16))).shape
        (8, 16)
    """

    depends_on_batch = True

    def __init__(self, p: float, *, key: Key | None = None):
        """Creates a layer in training mode.

        Args:
            p: the share of examples to drop: a number in ``[0, 1)``. Of ``B`` examples
                ``max(1, round((1 - p) * B))`` go through the branch.
            key: the initial key, ``(2,)``; see :class:`ThinDropout`.

        Raises:
            TypeError: see :class:`ThinDropout`.
            ValueError: see :class:`ThinDropout`.
        """
        super().__init__(p, key=key)

    def __call__(
        self,
        x: mx.array,
        branch: Callable[..., mx.array] | None = None,
        *others: mx.array | None,
        key: Key | None = None,
    ) -> mx.array:
        """Computes the branch for some examples in training mode, for all in eval mode.

        Args:
            x: the input of the branch.
            branch: a function or module that returns one output for each example.
                Required: the error without it says how to change from
                :class:`chandrop.nn.DropPath`.
            *others: further inputs of the branch; see :func:`thin_drop_path`.
            key: the key to choose the examples with; the layer's own then stays as it is.
                Default: as for :class:`chandrop.nn.KeyedLayer`.
        """
        self._record()
        branch = check_branch(branch, x, *others)
        if key is not None:
            check_key(key)
        if not self.training or x.shape[0] == 0:
            return _outputs(branch, x, *others)
        return on_kept_examples(self._keep(x.shape[0], key), branch, x, *others)
