"""Proper scores: lower is better, and the true probabilities score best."""

import mlx.core as mx

from chandrop.uncertainty._checks import check_labelled
from chandrop.uncertainty._sums import mean


def negative_log_likelihood(probabilities: mx.array, labels: mx.array) -> mx.array:
    """Returns the mean of ``-log(p)``, where ``p`` is the probability of the label.

    Args:
        probabilities: ``(..., K)``, of ``K`` classes.
        labels: ``(...)``, the true classes, integers from 0 to ``K - 1``.

    Returns:
        One float32 number, in nats, at least 0. It is inf if the probability of a label is 0.

    Raises:
        TypeError: an argument is not a real ``mx.array``; `labels` are not integers.
        ValueError: the shapes do not match; there are no examples, or fewer than two
            classes; a label is out of range; `probabilities` contain nan, are negative or
            do not add up to 1. Values are not checked within ``mx.compile`` and
            ``mx.vmap``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import negative_log_likelihood
        >>> probabilities = mx.array([[0.5, 0.5], [1.0, 0.0]])
        >>> round(negative_log_likelihood(probabilities, mx.array([0, 0])).item(), 4)
        0.3466

    Source: the logarithmic score: Good, "Rational decisions", Journal of the Royal
    Statistical Society B 14, 1952.
    """
    check_labelled(probabilities, labels)
    given = mx.take_along_axis(probabilities, labels[..., None], axis=-1)
    return mean(-mx.log(mx.minimum(given.astype(mx.float32), 1)))


def brier_score(probabilities: mx.array, labels: mx.array) -> mx.array:
    """Returns the mean squared distance between probabilities and one-hot labels.

    The squares are summed over classes. Args and raises as
    :func:`negative_log_likelihood`.

    Returns:
        One float32 number from 0 to 2.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import brier_score
        >>> probabilities = mx.array([[0.5, 0.5], [1.0, 0.0]])
        >>> brier_score(probabilities, mx.array([0, 0])).item()
        0.25

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly
    Weather Review 78, 1950.
    """
    check_labelled(probabilities, labels)
    one_hot = labels[..., None] == mx.arange(probabilities.shape[-1])
    return mean(((probabilities.astype(mx.float32) - one_hot) ** 2).sum(-1))
