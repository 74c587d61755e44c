from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import Index, as_array, in_sample, is_true, refuse_where
from chandrop.uncertainty._sums import RunningMean, total


class Classification(NamedTuple):
    """The summary of a classifier's samples; see :func:`classify`."""

    probabilities: mx.array
    predictive_entropy: mx.array
    expected_entropy: mx.array
    mutual_information: mx.array
    variation_ratio: mx.array


def classify(logits: mx.array) -> Classification:
    """Averages a classifier's samples, and measures their uncertainty.

    Args:
        logits: ``(S, ..., K)``, of ``K`` classes from ``S`` samples, such as subnetworks.
            ``-inf`` rules a class out. For a single sample: ``logits[None]``. Integers are
            numbers like others, bools are not.

    Returns:
        A named tuple of float32 arrays. Entropies are in nats, from 0 to ``log(K)``, with
        rounding errors of about 1e-5.

        * ``probabilities`` ``(..., K)``: the mean of the samples' softmax.
        * ``predictive_entropy`` ``(...)``: the entropy of ``probabilities``, the total
          uncertainty.
        * ``expected_entropy`` ``(...)``: the mean of the samples' entropies. It is the
          aleatoric part, which more training data would not reduce.
        * ``mutual_information`` ``(...)``: the difference of the two, or BALD. It is the
          epistemic part: high where samples disagree, as on unfamiliar inputs.
        * ``variation_ratio`` ``(...)``: the share of samples that do not predict the most
          frequent class, from 0 to ``1 - 1/K``.

    Raises:
        TypeError: `logits` is not a real ``mx.array``.
        ValueError: there are no samples, or fewer than two classes; the logits of a sample
            contain nan or inf, or rule out all classes; all logits of all samples are
            probabilities. Traces of ``mx.compile`` and ``mx.vmap`` do not check values.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import classify
        >>> disagreeing = mx.array([[4.0, 0.0], [0.0, 4.0]])  # 2 samples, 2 classes
        >>> summary = classify(disagreeing)
        >>> summary.probabilities.tolist(), round(summary.mutual_information.item(), 3)
        ([0.5, 0.5], 0.603)

    Source: Houlsby, Huszar, Ghahramani and Lengyel, "Bayesian active learning for
    classification and preference learning", 2011; variation ratio: Gal, "Uncertainty in
    deep learning", 2016, section 3.3.1.
    """
    RunningClassification.check(logits)
    running = RunningClassification()
    running.add(logits)
    running.refuse(running.suspects(logits))
    return running.result()


class RunningClassification:
    """Summarises samples in one pass, without keeping them."""

    # How many of the last axes belong to one prediction: one, of its classes.
    own_axes = 1

    def __init__(self) -> None:
        self._probabilities = RunningMean()
        self._entropy = RunningMean()
        self._votes = mx.array(0)

    @staticmethod
    def check(*outputs: object) -> None:
        if len(outputs) != 1:
            raise TypeError(
                f"Received {len(outputs)} outputs. Expected one array of logits. For means "
                'and variances: task="regression".'
            )
        logits = as_array(outputs[0], "logits")
        if logits.ndim < 2 or len(logits) == 0 or logits.shape[-1] < 2:
            raise ValueError(
                f"Received logits of shape {logits.shape}. Expected (S, ..., K) for S >= 1 "
                "samples and K >= 2 classes. For one class against the rest: "
                "mx.concatenate([mx.zeros_like(logits), logits], axis=-1)."
            )

    def add(self, logits: mx.array, name: Callable[[Index], str] = in_sample) -> None:
        """Adds checked samples; `name` describes an index in them for an error message."""
        logits = logits.astype(mx.float32)
        # The log-probabilities, but for the logarithm of the normalizer.
        logarithms = logits - logits.max(-1, keepdims=True)
        weights = mx.exp(logarithms)
        normalizer = total(weights, -1)
        what = "logits that are nan, inf or all -inf"
        refuse_where(~mx.isfinite(normalizer), what, name=name)
        probabilities = weights / normalizer[..., None]
        self._probabilities.add(probabilities)
        self._entropy.add(mx.log(normalizer) + _cross_entropy(probabilities, logarithms))
        winners = mx.argmax(logits, axis=-1, keepdims=True)
        self._votes = self._votes + (winners == mx.arange(logits.shape[-1])).sum(0)

    @staticmethod
    def suspects(logits: mx.array) -> bool:
        """Whether all logits may be probabilities."""
        return is_true(_may_be_probabilities(logits))

    @staticmethod
    def refuse(suspicious: bool) -> None:
        """Raises if all logits of a network, of every sample and example, are suspects."""
        if suspicious:
            raise ValueError(
                "Received logits that all are not negative and add up to 1, as "
                "probabilities do. Leave out the network's last softmax, or pass "
                "mx.log(probabilities)."
            )

    def arrays(self) -> list[mx.array]:
        return [self._probabilities.mean, self._entropy.mean, self._votes]

    def result(self) -> Classification:
        probabilities, expected_entropy = self._probabilities.mean, self._entropy.mean
        logarithms = mx.log(mx.where(probabilities > 0, probabilities, 1))
        predictive_entropy = _cross_entropy(probabilities, logarithms)
        # Rounding can make the difference negative.
        difference = mx.maximum(predictive_entropy - expected_entropy, 0)
        ratio = 1 - self._votes.max(-1) / self._entropy.samples
        return Classification(
            probabilities, predictive_entropy, expected_entropy, difference, ratio
        )


def _may_be_probabilities(logits: mx.array) -> mx.array:
    """Whether all are what a softmax of their dtype may return."""
    if not mx.issubdtype(logits.dtype, mx.floating):
        eps = 0.0
    else:
        eps = mx.finfo(logits.dtype).eps
    # On the CPU, MLX's softmax adds one class after another in this dtype.
    rounding = 1e-5 + (logits.shape[-1] + 4) * eps
    logits = logits.astype(mx.float32)
    sums = total(logits, -1)
    add_up = (mx.abs(sums - 1) < rounding) & (sums > 0.5)
    in_range = (logits >= 0) & (logits <= 1 + 1e-5)
    return add_up.all() & in_range.all()


def _cross_entropy(probabilities: mx.array, logarithms: mx.array) -> mx.array:
    # 0 * log(0) counts as 0, not nan.
    logarithms = mx.where(probabilities > 0, logarithms, 0)
    return -total(probabilities * logarithms, -1)
