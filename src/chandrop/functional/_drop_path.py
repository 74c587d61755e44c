import mlx.core as mx

from chandrop.functional._arguments import check_input
from chandrop.functional._dropout_channels import dropout_channels


def drop_path(x: mx.array, p: float | mx.array, key: mx.array) -> mx.array:
    r"""Zeroes examples with probability `p` and scales the rest by :math:`\frac{1}{1-p}`.

    Stochastic depth: put it on the branch of a residual block, ``x + drop_path(branch(x),
    p, key)``, and each example skips the branch with probability `p`. The paper drew once
    for a batch, which is ``key[None]``, and scaled when it tested.

    Args:
        x: an array whose axis 0 is the batch, of a floating-point or complex dtype.
        p: the probability of dropping an example: a number in ``[0, 1]``, or an array that
            broadcasts to ``(B, 1, ..., 1)``; see :func:`dropout_channels`.
        key: a key ``(2,)``; or one for each example, ``(B, 2)``; or one for all of them
            alike, ``(1, 2)``, which keeps or drops the branch for the whole batch.

    Returns:
        Shape and dtype of `x`: ``dropout_channels(x, p, key, range(1, x.ndim))``.

    Raises:
        TypeError: see :func:`dropout_channels`.
        ValueError: `x` is a scalar; see :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import drop_path
        >>> y = drop_path(mx.ones((4, 7, 7, 16)), 0.5, mx.random.key(0))
        >>> y[:, 0, 0, 0].tolist()
        [0.0, 2.0, 0.0, 2.0]

    Source: Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth",
    ECCV 2016; timm's ``drop_path``, torchvision's ``stochastic_depth``.
    """
    check_input(x)
    check_has_batch(x)
    return dropout_channels(x, p, key, range(1, x.ndim))


def check_has_batch(x: mx.array) -> None:
    """Raises for a scalar."""
    if x.ndim == 0:
        raise ValueError(
            "Received a scalar. Expected an input whose axis 0 is the batch: drop_path "
            "draws once for each example."
        )
