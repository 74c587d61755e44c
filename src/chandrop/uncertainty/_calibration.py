"""How well predicted probabilities match labels."""

from typing import NamedTuple

import mlx.core as mx

from chandrop._checks import as_integer, as_size
from chandrop.uncertainty._checks import as_array, refuse_where
from chandrop.uncertainty._reduction import Reduction, reduced
from chandrop.uncertainty._sums import count_by_bin, total, total_by_bin


class Reliability(NamedTuple):
    """Confidence and accuracy in each bin; see :func:`reliability_curve`."""

    confidence: mx.array
    accuracy: mx.array
    examples: mx.array


def reliability_curve(
    probabilities: mx.array, labels: mx.array, bins: int = 15, *, ignore: int | None = None
) -> Reliability:
    """Compares confidence, the largest probability, with accuracy in bins of confidence.

    Args:
        probabilities: ``(..., K)``, of ``K`` classes.
        labels: ``(...)``, the true classes, integers from 0 to ``K - 1``.
        bins: the number of bins of equal width from 0 to 1. A confidence on an edge belongs
            to the lower bin. The mean of ``S`` certain samples, ``k / S``, is often on one,
            and other libraries may count it in the upper bin.
        ignore: the label of examples to leave out, such as 255 or -100. Default: none.

    Returns:
        A named tuple of arrays ``(bins,)``: the mean ``confidence`` and the ``accuracy``,
        float32, both nan in an empty bin, and the number of ``examples``, int32.

    Raises:
        TypeError: `probabilities` is not a real ``mx.array``; `labels` is not an array of
            integers; `bins` or `ignore` is not an int.
        ValueError: the shapes do not match; there are no examples, or all are ignored;
            there are fewer than two classes; `bins` is less than 1; a label is out of
            range; probabilities are nan, negative or do not add up to 1. ``mx.compile`` and
            ``mx.vmap`` hide the values from these checks.

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
    confidence, right, examples = _sums_in_bins(probabilities, labels, bins, ignore)
    return Reliability(confidence / examples, right / examples, examples)


def expected_calibration_error(
    probabilities: mx.array, labels: mx.array, bins: int = 15, *, ignore: int | None = None
) -> mx.array:
    """Returns the mean gap between confidence and accuracy over examples in bins.

    The value is a float32 from 0 to 1. Few examples bias it upwards, so compare only values
    of the same examples and bins. Args and raises as :func:`reliability_curve`.

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
    confidence, right, examples = _sums_in_bins(probabilities, labels, bins, ignore)
    return mx.abs(confidence - right).sum() / examples.sum()


def negative_log_likelihood(
    probabilities: mx.array,
    labels: mx.array,
    *,
    ignore: int | None = None,
    reduction: Reduction = "mean",
) -> mx.array:
    """Returns the mean of ``-log(p)``, where ``p`` is the probability of the true class.

    The value is a float32, in nats. Lower is better; inf means that a true class has the
    probability 0. With ``reduction="none"``, the value of each example, of the shape of the
    labels, is returned in place of the mean, and 0 for ignored ones. Args and raises as
    :func:`reliability_curve`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import negative_log_likelihood
        >>> probabilities = mx.array([[0.5, 0.5], [1.0, 0.0]])
        >>> round(negative_log_likelihood(probabilities, mx.array([0, 0])).item(), 4)
        0.3466

    Source: the logarithmic score: Good, "Rational decisions", Journal of the Royal
    Statistical Society B 14, 1952.
    """
    probabilities, labels, kept = _labelled(probabilities, labels, ignore)
    given = mx.take_along_axis(probabilities, labels[..., None], axis=-1).squeeze(-1)
    values = -mx.log(mx.minimum(given.astype(mx.float32), 1))
    return reduced(values, reduction, kept)


def brier_score(
    probabilities: mx.array,
    labels: mx.array,
    *,
    ignore: int | None = None,
    reduction: Reduction = "mean",
) -> mx.array:
    """Returns the mean over examples of the squared distance to the one-hot label.

    The value is a float32 from 0 to 2. Lower is better. Args and raises as
    :func:`negative_log_likelihood`.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import brier_score
        >>> probabilities = mx.array([[0.5, 0.5], [1.0, 0.0]])
        >>> brier_score(probabilities, mx.array([0, 0])).item()
        0.25

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly
    Weather Review 78, 1950.
    """
    probabilities, labels, kept = _labelled(probabilities, labels, ignore)
    one_hot = labels[..., None] == mx.arange(probabilities.shape[-1])
    values = total((probabilities.astype(mx.float32) - one_hot) ** 2, -1)
    return reduced(values, reduction, kept)


def _sums_in_bins(
    probabilities: mx.array, labels: mx.array, bins: int, ignore: int | None
) -> tuple[mx.array, mx.array, mx.array]:
    """Returns the sums of confidences, right predictions and examples in each bin."""
    probabilities, labels, kept = _labelled(probabilities, labels, ignore)
    bins = as_size(bins, "bins")
    confidence = probabilities.max(-1).flatten().astype(mx.float32)
    right = (probabilities.argmax(-1) == labels).flatten()
    bin_of_each = (confidence[:, None] > mx.arange(1, bins) / bins).sum(1)
    # Not mx.ones_like: under mx.vmap, MLX adds what is no batch at wrong places.
    counted = bin_of_each >= 0 if kept is None else kept.flatten()
    return (
        total_by_bin(confidence * counted, bin_of_each, bins),
        count_by_bin(right & counted, bin_of_each, bins),
        count_by_bin(counted, bin_of_each, bins),
    )


def _labelled(
    probabilities: mx.array, labels: mx.array, ignore: int | None
) -> tuple[mx.array, mx.array, mx.array | None]:
    """Checks probabilities and labels; the third array is false for ignored examples.

    What is ignored gets a label and probabilities that no function makes nan or inf.
    """
    probabilities = as_array(probabilities, "probabilities")
    labels = as_array(labels, "labels", bools=True)
    if not mx.issubdtype(labels.dtype, mx.integer):
        raise TypeError(
            f"Received labels of dtype {labels.dtype}. Expected integers: "
            "labels.astype(mx.int32), or mx.argmax(labels, axis=-1) for one-hot labels."
        )
    classes = probabilities.shape[-1] if probabilities.ndim else 0
    if classes < 2 or labels.shape != probabilities.shape[:-1] or labels.size == 0:
        raise ValueError(
            f"Received probabilities of shape {probabilities.shape} and labels of shape "
            f"{labels.shape}. Expected (..., K) and (...), for K >= 2 classes and at least "
            "one example. For one probability p: mx.stack([1 - p, p], axis=-1); for "
            "one-hot labels: mx.argmax(labels, axis=-1)."
        )
    # An array of uint8 cannot be compared with 300, or with -100.
    labels = labels.astype(mx.int64)
    kept = None
    if ignore is not None:
        ignore = as_integer(ignore, "ignore")
        kept = labels != ignore
        what = f"labels that are all {ignore}, which is ignored"
        refuse_where(~kept.any(), what, "Expected at least one other.")
        labels = mx.where(kept, labels, 0)
        probabilities = mx.where(kept[..., None], probabilities, 1 / classes)
    refuse_where(
        (labels < 0) | (labels >= classes),
        f"a label outside [0, {classes})",
        "If labels count from 1: labels - 1. To leave out what has no label, but 255: "
        "ignore=255.",
    )
    # Comparisons with nan are false, so test for what is right.
    sums = total(probabilities.astype(mx.float32), -1)
    rounding = 1e-2 if probabilities.dtype == mx.float32 else 1e-1
    right = (probabilities >= 0).all(-1) & (mx.abs(sums - 1) < rounding)
    refuse_where(
        ~right,
        "probabilities that are nan, negative or do not add up to 1",
        "If they are logits: mx.softmax(logits.astype(mx.float32), axis=-1).",
    )
    return probabilities, labels, kept
