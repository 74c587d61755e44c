from collections.abc import Sequence

import mlx.core as mx

from chandrop._affine import affine
from chandrop._checks import as_positive, check_broadcasts, check_real_array
from chandrop.functional._channels import channels_of
from chandrop.random import Key


def concrete_dropout_channels(
    x: mx.array,
    logit: mx.array,
    key: Key,
    spatial_axes: int | Sequence[int],
    *,
    temperature: float = 0.1,
) -> mx.array:
    """Drops channels by relaxed draws, so that the rate has a gradient and is learned.

    With ``u`` uniform in ``(0, 1)`` and ``p = sigmoid(logit)``, a channel is multiplied by
    ``(1 - z) / (1 - p)``, where ``z = sigmoid((logit + log(u) - log(1 - u)) /
    temperature)`` is near 0 or 1. Add :func:`concrete_regularizer` to the loss: without it,
    the rate goes to 0.

    Args:
        x: as for :func:`dropout_channels`, and so are `key` and `spatial_axes`.
        logit: ``log(p / (1 - p))`` of the rate ``p``: an array that broadcasts to the
            mask's shape, ``()`` for one rate, ``(C,)`` for a rate per channel. It is
            converted to float32; above 88 the scale is no longer finite.
        temperature: a number above 0. A smaller one brings the draws closer to those of
            :func:`dropout_channels`, and raises the variance of the gradient.

    Returns:
        An array of the shape and dtype of `x`. Its mean over keys is not exactly `x`,
        since the mean of ``z`` is not exactly ``p``.

    Raises:
        TypeError: `logit` is not a real ``mx.array``; `temperature` is not a number; see
            :func:`dropout_channels`.
        ValueError: `logit` does not broadcast; `temperature` is not above 0; see
            :func:`dropout_channels`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import concrete_dropout_channels
        >>> x, key = mx.ones((8, 28, 28, 16)), mx.random.key(0)
        >>> def loss(logit):
        ...     return (concrete_dropout_channels(x, logit, key, (1, 2)) ** 2).mean()
        >>> mx.grad(loss)(mx.array(-1.0)).item() > 0
        True

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017, equation 5; Maddison,
    Mnih and Teh, "The concrete distribution", ICLR 2017.
    """
    channels = channels_of(x, key, spatial_axes)
    temperature = as_positive(temperature, "temperature")
    logit = _as_logit(logit)
    check_broadcasts(logit, "logit", channels.mask_shape)
    drawn = channels.draw(_uniform, key)
    # sigmoid(-a) in place of 1 - sigmoid(a), which would round off what is left.
    kept = mx.sigmoid((mx.log((1 - drawn) / drawn) - logit) / temperature)
    return affine(x, channels.mask(kept * (1 + mx.exp(logit))))


def concrete_regularizer(
    logit: mx.array, weight: mx.array, length_scale: float
) -> mx.array:
    """Returns what :func:`concrete_dropout_channels` adds to the loss: a KL divergence.

    It is the sum over channels of ``length_scale**2 / (2 * (1 - p)) * (W**2).sum() -
    H(p)``. ``W`` are the weights that read the channel, and ``H(p) = -p * log(p) - (1 - p)
    * log(1 - p)`` is the entropy, which pulls the rate to a half. Divide it by the number
    of training examples, and add it to the mean negative log likelihood of an example, in
    nats.

    Args:
        logit: as for :func:`concrete_dropout_channels`: one for all channels, or ``(C,)``.
        weight: the weights of the layer that reads the dropped channels, channels last,
            ``(..., C)``, as ``nn.Linear`` and the ungrouped convolutions of ``mlx.nn`` hold
            them. For a layer that reads flattened maps: ``weight.reshape(outputs, -1, C)``.
        length_scale: the prior length scale, above 0: large for a smooth
            function. A smaller one brings rates closer to a half.

    Returns:
        One number, in nats, ``float32``, with a gradient for `logit` and `weight`.

    Raises:
        TypeError: `logit` or `weight` is not a real ``mx.array``; `length_scale` is not a
            number.
        ValueError: `logit` has more than one axis; `weight` has another number of channels;
            `length_scale` is not above 0.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.functional import concrete_regularizer
        >>> weight = mx.random.normal((10, 3, 3, 16), key=mx.random.key(0))
        >>> logit = mx.zeros((16,))  # p = 0.5
        >>> nats = concrete_regularizer(logit, weight, length_scale=0.01)
        >>> round(nats.item(), 2)
        -10.95

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017, equations 3 and 4, with
    ``W / (1 - p)`` for the weights of dropout that does not rescale.
    """
    logit = _as_logit(logit)
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


def _uniform(shape: Sequence[int], key: Key) -> mx.array:
    return mx.random.uniform(shape=shape, key=key)


def _as_logit(logit: object) -> mx.array:
    if not isinstance(logit, mx.array):
        raise TypeError(
            f"Received logit of type {type(logit).__name__}. Expected an mx.array of "
            "log(p / (1 - p)): for p = 0.1, mx.array(-2.197)."
        )
    check_real_array(logit, "logit")
    return logit.astype(mx.float32)
