from collections.abc import Callable
from typing import Any

import mlx.core as mx

from chandrop.functional._arguments import check_input
from chandrop.functional._drop_path import check_has_batch
from chandrop.functional._keep_channels import check_one_key, keep_channels, number_kept
from chandrop.functional._kept import among_zeros, take_kept
from chandrop.functional._thin_dropout_channels import kept_scale


def thin_drop_path(
    x: mx.array,
    p: float,
    key: mx.array,
    branch: Callable[..., mx.array],
    *others: mx.array | None,
) -> mx.array:
    r"""Computes a branch for a fixed number of examples only, and gives 0 for the others.

    Stochastic depth that saves what it drops: of :math:`B` examples :math:`k = \max(1,
    \mathrm{round}((1-p) B))` go through the branch, and their outputs are scaled by
    :math:`\frac{B}{k}`. In a residual block: ``x + thin_drop_path(x, p, key, branch)``.
    Which examples are kept depends on their places in the batch, and of few examples few
    rates can be had: 4 at p = 0.1 are all kept.

    Args:
        x: what the branch is given: an array whose axis 0 is the batch.
        p: the share of examples to drop: a number in ``[0, 1)``.
        key: one key, ``(2,)`` or ``(1, 2)``.
        branch: a function or module that gives one output for each example it is given.
        *others: what else the branch takes of each example, such as a mask: arrays whose
            axis 0 is the batch, or None. It is called as ``branch(x, *others)``.

    Returns:
        ``thin_dropout_channels(branch(x), p, key, range(1, ndim))``, computed for the
        examples that are kept, if the branch treats each example alone. BatchNorm in
        training mode does not: its statistics are those of the examples that are kept.
        What is not computed is 0, also where it would have been inf or nan.

    Raises:
        TypeError: an input or the branch's output is not an array, or the output is one of
            integers or bools; `branch` cannot be called; see :func:`keep_channels`.
        ValueError: the inputs are scalars, or not of as many examples; the branch gives
            another number of outputs; see :func:`keep_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import thin_drop_path
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
        return branch(x, *others)
    return on_kept_examples(keep_channels(key, x.shape[0], p), branch, x, *others)


def check_branch(branch: Any, *inputs: Any) -> Callable[..., mx.array]:
    """Gives the branch, or raises unless it can be called with inputs of one batch."""
    if not callable(branch):
        raise TypeError(
            f"Received a branch of type {type(branch).__name__}. Expected a function or "
            "module, the branch itself and not its output: x + drop_path(x, branch), where "
            "DropPath takes x + drop_path(branch(x))."
        )
    given = [inputs[0], *(x for x in inputs[1:] if x is not None)]
    for x in given:
        check_input(x)
        check_has_batch(x)
    lengths = [x.shape[0] for x in given]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"Received inputs of {', '.join(map(str, lengths))} examples. Expected as many "
            "of each, along axis 0; what is for all examples the branch can hold itself."
        )
    function: Callable[..., mx.array] = branch
    return function


def on_kept_examples(
    kept: mx.array, branch: Callable[..., mx.array], x: mx.array, *others: mx.array | None
) -> mx.array:
    """Gives the scaled output of a branch at the indices `kept` of axis 0, 0 elsewhere."""
    examples = x.shape[0]
    if kept.shape[0] == examples:
        return branch(x, *others)
    follow = (None if other is None else take_kept(other, kept, 0) for other in others)
    y = branch(take_kept(x, kept, 0), *follow)
    if not isinstance(y, mx.array) or not mx.issubdtype(y.dtype, mx.inexact):
        received = y.dtype if isinstance(y, mx.array) else type(y).__name__
        raise TypeError(
            f"Received a branch that gives {received}. Expected one mx.array of a "
            "floating-point or complex dtype."
        )
    if y.shape[:1] != kept.shape:
        raise ValueError(
            f"Received a branch that gives an output of shape {y.shape} for {len(kept)} "
            "examples. Expected one output for each of them, along axis 0."
        )
    scale = kept_scale(kept, examples, y.dtype).reshape(-1, *(1,) * (y.ndim - 1))
    return among_zeros(y * scale, kept, 0, examples)
