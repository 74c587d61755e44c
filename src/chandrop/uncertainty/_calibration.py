"""Calibration: of what is predicted with confidence 0.8, 80 % should be right."""

from typing import NamedTuple

import mlx.core as mx

from chandrop._checks import as_integer
from chandrop.uncertainty._checks import check_labelled
from chandrop.uncertainty._sums import total_by_place


class Reliability(NamedTuple):
    """Confidence and accuracy in each bin; see :func:`reliability_curve`."""

    confidence: mx.array
    accuracy: mx.array
    examples: mx.array


def reliability_curve(
    probabilities: mx.array, labels: mx.array, bins: int = 15
) -> Reliability:
    """Compares confidence, the largest probability, with how often it is right, in bins.

    Args:
        probabilities: ``(..., K)``, for ``K`` classes.
        labels: ``(...)``, the numbers of the true classes, integers from 0 to ``K - 1``.
        bins: how many bins of equal width the confidences from 0 to 1 are put in. A
            confidence between two bins is in the lower one.

    Returns:
        A named tuple of arrays ``(bins,)``: the mean ``confidence`` and the ``accuracy``,
        float32, and how many ``examples`` there are, int32. The first two are nan in a bin
        that is empty, which plots leave out.

    Raises:
        TypeError: an argument is not an ``mx.array``, `labels` are not integers, or `bins`
            is not an int.
        ValueError: there are no bins; else see :func:`negative_log_likelihood`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import reliability_curve
        >>> probabilities = mx.array([[0.75, 0.25], [0.75, 0.25], [0.0, 1.0]])
        >>> curve = reliability_curve(probabilities, mx.array([0, 1, 1]), bins=2)
        >>> [round(array[1].item(), 3) for array in curve]
        [0.833, 0.667, 3]

    Source: DeGroot and Fienberg, "The comparison and evaluation of forecasters", The
    Statistician 32, 1983.
    """
    confidence, right, examples = _sums_in_bins(probabilities, labels, bins)
    return Reliability(confidence / examples, right / examples, examples.astype(mx.int32))


def expected_calibration_error(
    probabilities: mx.array, labels: mx.array, bins: int = 15
) -> mx.array:
    """Gives the mean gap between confidence and accuracy, over examples in bins.

    Args:
        probabilities: ``(..., K)``, for ``K`` classes.
        labels: ``(...)``, the numbers of the true classes, integers from 0 to ``K - 1``.
        bins: as for :func:`reliability_curve`.

    Returns:
        One float32 number, of shape ``()``, from 0 to 1: the gaps' absolute values in the
        bins, weighted by their numbers of examples. With few examples it is too large, so
        compare only what was predicted for the same ones, with the same bins.

    Raises:
        TypeError: see :func:`reliability_curve`.
        ValueError: see :func:`reliability_curve`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import expected_calibration_error
        >>> probabilities = mx.array([[0.75, 0.25], [0.75, 0.25], [0.0, 1.0]])
        >>> labels = mx.array([0, 1, 1])
        >>> round(expected_calibration_error(probabilities, labels).item(), 4)
        0.1667

    Source: Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks",
    ICML 2017, equation 3.
    """
    confidence, right, examples = _sums_in_bins(probabilities, labels, bins)
    return mx.abs(confidence - right).sum() / examples.sum()


def _sums_in_bins(
    probabilities: mx.array, labels: mx.array, bins: int
) -> tuple[mx.array, mx.array, mx.array]:
    """Gives for each bin its sum of confidences, right guesses and examples."""
    check_labelled(probabilities, labels)
    bins = as_integer(bins, "bins")
    if bins < 1:
        raise ValueError(f"Received {bins} bins. Expected at least one.")
    confidence = probabilities.max(-1).flatten().astype(mx.float32)
    right = (probabilities.argmax(-1) == labels).flatten()
    bin_of_each = (confidence[:, None] > mx.arange(1, bins) / bins).sum(1)
    values = mx.stack([confidence, right, mx.ones_like(confidence)], axis=1)
    sums = total_by_place(values, bin_of_each, bins)
    return sums[:, 0], sums[:, 1], sums[:, 2]
