"""Calibration: 80 % of the predictions with a confidence of 0.8 should be right."""

from typing import NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import as_count, check_labelled
from chandrop.uncertainty._sums import total_by_bin


class Reliability(NamedTuple):
    """Confidence and accuracy in each bin; see :func:`reliability_curve`."""

    confidence: mx.array
    accuracy: mx.array
    examples: mx.array


def reliability_curve(
    probabilities: mx.array, labels: mx.array, bins: int = 15
) -> Reliability:
    """Compares confidence, the largest probability, with accuracy in bins of confidence.

    Args:
        probabilities: as for :func:`negative_log_likelihood`, and so are `labels`.
        labels: the true classes.
        bins: the number of bins of equal width from 0 to 1. A confidence on an edge belongs
            to the lower bin.

    Returns:
        A named tuple of arrays ``(bins,)``: the mean ``confidence`` and the ``accuracy``,
        float32, and the number of ``examples``, int32. In an empty bin the first two are
        nan, which plots leave out.

    Raises:
        TypeError: `bins` is not an int; see :func:`negative_log_likelihood`.
        ValueError: `bins` is less than 1; see :func:`negative_log_likelihood`.

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
    """Returns the mean gap between confidence and accuracy, weighted by examples per bin.

    Args and raises as :func:`reliability_curve`.

    Returns:
        One float32 number from 0 to 1. Few examples bias it upwards, so compare only values
        for the same examples and bins.

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
    """Returns the sum of confidences, of right predictions and of examples in each bin."""
    check_labelled(probabilities, labels)
    bins = as_count(bins, "bins")
    confidence = probabilities.max(-1).flatten().astype(mx.float32)
    right = (probabilities.argmax(-1) == labels).flatten()
    bin_of_each = (confidence[:, None] > mx.arange(1, bins) / bins).sum(1)
    values = mx.stack([confidence, right, mx.ones_like(confidence)], axis=1)
    sums = total_by_bin(values, bin_of_each, bins)
    return sums[:, 0], sums[:, 1], sums[:, 2]
