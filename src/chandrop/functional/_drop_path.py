import mlx.core as mx

from chandrop._checks import check_has_batch, check_input
from chandrop.functional._dropout_channels import Rate, dropout_channels
from chandrop.random import Key


def drop_path(x: mx.array, p: Rate, key: Key) -> mx.array:
    r"""Zeroes examples with probability `p` and scales the rest by :math:`\frac{1}{1-p}`.

    Stochastic depth: on the branch of a residual block, ``x + drop_path(branch(x), p,
    key)``, each example skips the branch with probability `p`. The original draws once per
    batch, which is ``key[None]``, and scales at test time. It is ``dropout_channels(x, p,
    key, range(1, x.ndim))``; args, returns and raises as there, and a scalar `x` is an
    error.

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
