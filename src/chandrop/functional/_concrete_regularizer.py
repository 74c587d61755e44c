import mlx.core as mx

from chandrop.functional._arguments import as_positive, check_real_array
from chandrop.functional._concrete_dropout_channels import as_logit


def concrete_regularizer(
    logit: mx.array, weight: mx.array, length_scale: float
) -> mx.array:
    r"""Gives what :func:`concrete_dropout_channels` adds to the loss: a KL divergence.

    It is :math:`\sum_k \frac{l^2}{2 (1 - p_k)} \lVert W_k \rVert^2 - H(p_k)` over the
    channels :math:`k`, with the entropy :math:`H(p) = -p \log p - (1 - p) \log (1 - p)`,
    which pulls rates to a half, and :math:`W_k` the weights that read channel :math:`k`.
    Divide it by the number of training examples, and add it to the mean negative log
    likelihood of an example, in nats.

    Args:
        logit: that of :func:`concrete_dropout_channels`: one for all channels, or ``(C,)``.
        weight: the weights of the layer that reads the channels which are dropped, channels
            last, ``(..., C)``, as ``nn.Linear`` and the ungrouped convolutions of
            ``mlx.nn`` hold them. For a layer that reads flattened maps:
            ``weight.reshape(outputs, -1, C)``.
        length_scale: the prior length scale :math:`l`, above 0: large for a smooth
            function. The smaller, the nearer rates come to a half.

    Returns:
        One number, in nats, ``float32``, with a gradient for `logit` and `weight`.

    Raises:
        TypeError: `logit` or `weight` is not a real ``mx.array``, or `length_scale` not a
            number.
        ValueError: `logit` has more than one axis, `weight` has another number of channels,
            or `length_scale` is not above 0.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import concrete_regularizer
        >>> weight = mx.random.normal((10, 3, 3, 16), key=mx.random.key(0))
        >>> logit = mx.zeros((16,))  # p = 0.5
        >>> nats = concrete_regularizer(logit, weight, length_scale=0.01)
        >>> round(nats.item(), 2)
        -10.95

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017, equations 3 and 4.
    There the weights are those of dropout that does not rescale, :math:`W / (1 - p)`.
    """
    logit = as_logit(logit)
    check_real_array(weight, "weight")
    length_scale = as_positive(length_scale, "length_scale")
    if logit.ndim > 1:
        raise ValueError(
            f"Received logit of shape {logit.shape}. Expected one for all channels, (), or "
            "one for each, (C,)."
        )
    channels = weight.shape[-1] if weight.ndim else 0
    if channels == 0 or logit.size not in (1, channels):
        raise ValueError(
            f"Received weight of shape {weight.shape} for logits of shape {logit.shape}. "
            "Expected (..., C), channels last; for a layer that reads flattened maps: "
            "weight.reshape(outputs, -1, C)."
        )
    kept = mx.sigmoid(-logit)
    squares = (weight.astype(mx.float32) ** 2).reshape(-1, channels).sum(0)
    # With log p = -softplus(-logit), and log(1 - p) = -softplus(logit), no log is of 0.
    entropy = (1 - kept) * mx.logaddexp(0, -logit) + kept * mx.logaddexp(0, logit)
    return (length_scale**2 / 2 * squares * (1 + mx.exp(logit)) - entropy).sum()
