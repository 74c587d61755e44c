from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import Index, as_samples, in_sample, refuse_where
from chandrop.uncertainty._running import RunningMean


class Classification(NamedTuple):
    """The summary of a classifier's samples; see :func:`classify`."""

    probabilities: mx.array
    predictive_entropy: mx.array
    expected_entropy: mx.array
    mutual_information: mx.array
    variation_ratio: mx.array


def classify(logits: mx.array) -> Classification:
    """Averages a classifier's samples and measures their uncertainty.

    Args:
        logits: ``(S, ..., K)``: the logits of ``K`` classes from ``S`` samples, such as the
            subnetworks of ``S`` keys. ``-inf`` rules a class out. For a single sample:
            ``logits[None]``.

    Returns:
        A named tuple of float32 arrays. Entropies are in nats, from 0 to ``log(K)``; values
        below about 1e-5 are rounding errors.

        * ``probabilities`` ``(..., K)``: the mean of the samples' softmax.
        * ``predictive_entropy`` ``(...)``: the entropy of ``probabilities``, the total
          uncertainty.
        * ``expected_entropy`` ``(...)``: the mean of the samples' entropies. This is the
          aleatoric part, which more training data would not reduce.
        * ``mutual_information`` ``(...)``: the difference of the two, also called BALD.
          This is the epistemic part: it is high where the samples disagree, as they do on
          inputs unlike the training data.
        * ``variation_ratio`` ``(...)``: the share of samples that do not predict the most
          frequently predicted class, from 0 to ``1 - 1/K``.

    Raises:
        TypeError: `logits` is not a real ``mx.array``.
        ValueError: there are no samples, or fewer than two classes; the logits of a sample
            contain nan or ``inf``, rule out all classes, or are probabilities. Values are
            not checked within ``mx.compile`` and ``mx.vmap``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import classify
        >>> agreeing = mx.array([[4.0, 0.0], [4.0, 0.0]])  # 2 samples, 2 classes
        >>> disagreeing = mx.array([[4.0, 0.0], [0.0, 4.0]])
        >>> round(classify(agreeing).mutual_information.item(), 3)
        0.0
        >>> round(classify(disagreeing).mutual_information.item(), 3)
        0.603

    Source: Houlsby, Huszar, Ghahramani and Lengyel, "Bayesian active learning for
    classification and preference learning", 2011; variation ratio: Gal, "Uncertainty in
    deep learning", 2016, section 3.3.1.
    """
    RunningClassification.check(logits)
    running = RunningClassification()
    running.add(logits)
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
                f"Received {len(outputs)} outputs. Expected one array of logits; for a "
                'pair of means and variances: task="regression".'
            )
        logits = as_samples(outputs[0], "logits", "(S, ..., K)", min_ndim=2)
        if logits.shape[-1] < 2:
            raise ValueError(
                f"Received logits of shape {logits.shape}. Expected (S, ..., K) with "
                "K >= 2 classes; for the logits of one class against the rest: "
                "mx.concatenate([mx.zeros_like(logits), logits], axis=-1)."
            )

    def add(self, logits: mx.array, name: Callable[[Index], str] = in_sample) -> None:
        """Adds checked samples; `name` describes an index in them for an error message."""
        logits = logits.astype(mx.float32)
        if self._entropy.samples == 0:
            add_up = (mx.abs(logits.sum(-1) - 1) < 1e-5).all()
            what = "logits that are not negative and add up to 1, as probabilities do"
            fix = "Leave out the network's last softmax, or pass mx.log(probabilities)."
            refuse_where(add_up & (logits >= 0).all(), what, fix)
        # The log-probabilities, but for the logarithm of the normalizer.
        logarithms = logits - logits.max(-1, keepdims=True)
        weights = mx.exp(logarithms)
        normalizer = weights.sum(-1, keepdims=True)
        is_finite = mx.isfinite(normalizer.squeeze(-1))
        refuse_where(~is_finite, "logits that are nan, inf or all -inf", name=name)
        probabilities = weights / normalizer
        self._probabilities.add(probabilities)
        log_normalizer = mx.log(normalizer.squeeze(-1))
        self._entropy.add(log_normalizer + _cross_entropy(probabilities, logarithms))
        winners = mx.argmax(logits, axis=-1, keepdims=True)
        self._votes = self._votes + (winners == mx.arange(logits.shape[-1])).sum(0)

    def arrays(self) -> list[mx.array]:
        return [self._probabilities.mean, self._entropy.mean, self._votes]

    def result(self) -> Classification:
        probabilities = self._probabilities.mean
        expected_entropy = self._entropy.mean
        logarithms = mx.log(mx.where(probabilities > 0, probabilities, 1))
        predictive_entropy = _cross_entropy(probabilities, logarithms)
        return Classification(
            probabilities,
            predictive_entropy,
            expected_entropy,
            # Rounding can make the difference negative.
            mx.maximum(predictive_entropy - expected_entropy, 0),
            1 - self._votes.max(-1) / self._entropy.samples,
        )


def _cross_entropy(probabilities: mx.array, logarithms: mx.array) -> mx.array:
    # 0 * log(0) counts as 0, not nan.
    logarithms = mx.where(probabilities > 0, logarithms, 0)
    return -(probabilities * logarithms).sum(-1)
