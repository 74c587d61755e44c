import mlx.core as mx

from chandrop._affine import affine
from chandrop._checks import check_flag, check_has_batch, check_input, is_zero
from chandrop.functional._channels import channels_of
from chandrop.functional._dropout_channels import Rate, channel_mask, dropout_channels
from chandrop.random import Key


def drop_path(x: mx.array, p: Rate, key: Key, *, scale: bool = True) -> mx.array:
    """Zeroes examples with probability `p` and scales the rest by ``1 / (1 - p)``.

    Stochastic depth: on the branch of a residual block, ``x + drop_path(branch(x), p,
    key)``, each example skips the branch with probability `p`. It is ``dropout_channels(x,
    p, key, range(1, x.ndim))``; args, returns and raises as there, and a scalar `x` is an
    error.

    The original draws once per batch, which is ``key[None]``, does not scale in training,
    and multiplies the branch by ``1 - p`` at test time instead.

    Args:
        x: the output of the branch, whose axis 0 is the batch; `p` and `key` as in
            :func:`dropout_channels`.
        scale: whether to scale what is kept. If not, the mean over keys is ``(1 - p) * x``;
            timm's ``scale_by_keep``. Default: true.

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
    check_flag(scale, "scale")
    axes = range(1, x.ndim)
    if scale:
        return dropout_channels(x, p, key, axes)
    if is_zero(channels_of(x, key, axes).rate(p)):
        return x
    # What dropout multiplies by is 0, nan or at least 1.
    return affine(x, mx.minimum(channel_mask(x.shape, p, key, axes, x.dtype), 1))
