from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx

from chandrop.uncertainty._checks import at, check_samples, refuse_where
from chandrop.uncertainty._running import RunningMean


class Classification(NamedTuple):
    """What the samples of a classifier say together; see :func:`classify`."""

    probabilities: mx.array
    predictive_entropy: mx.array
    expected_entropy: mx.array
    mutual_information: mx.array
    variation_ratio: mx.array


def classify(logits: mx.array) -> Classification:
    """Summarises samples of logits: the mean prediction, and how uncertain it is and why.

    Args:
        logits: ``(S, ..., K)``: for each of ``S`` samples, such as the subnetworks that
            keys choose, the logits of ``K`` classes. They may be as large as the dtype
            allows, and ``-inf`` is a class that is ruled out. One sample is
            ``logits[None]``, such as that of the whole network, with dropout off.

    Returns:
        A named tuple of float32 arrays. Entropies are in nats, from 0 to ``log(K)``;
        below about 1e-5 they are rounding.

        * ``probabilities`` ``(..., K)``: the mean of the samples' softmax.
        * ``predictive_entropy`` ``(...)``: that of ``probabilities``, the whole
          uncertainty.
        * ``expected_entropy`` ``(...)``: the mean of the samples' entropies: what each of
          them is unsure of (aleatoric), as more training data would leave it.
        * ``mutual_information`` ``(...)``: the difference of these two, also called BALD:
          where samples disagree (epistemic), as they do on what they were not trained on.
        * ``variation_ratio`` ``(...)``: the share of samples whose most likely class is
          not that of most samples, from 0 to ``1 - 1/K``.

    Raises:
        TypeError: `logits` is not an ``mx.array`` of numbers.
        ValueError: there are no samples, or fewer than two classes; a sample's logits hold
            nan or ``inf``, or rule out all classes, or are probabilities (values are not
            checked within ``mx.compile`` and ``mx.vmap``, where they are not known).

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.uncertainty import classify
        >>> agreed = mx.array([[4.0, 0.0], [4.0, 0.0]])  # 2 samples, 2 classes
        >>> disagreed = mx.array([[4.0, 0.0], [0.0, 4.0]])
        >>> round(classify(agreed).mutual_information.item(), 3)
        0.0
        >>> round(classify(disagreed).mutual_information.item(), 3)
        0.603
        >>> classify(disagreed).variation_ratio.item()
        0.5

    Source: Houlsby, Huszar, Ghahramani and Lengyel, "Bayesian active learning for
    classification and preference learning", 2011; variation ratio: Gal, "Uncertainty in
    deep learning", 2016, section 3.3.1.
    """
    RunningClassification.check(logits)
    running = RunningClassification()
    running.add(logits)
    return running.result()


class RunningClassification:
    """Summarises samples in one pass: it holds means and votes, never the samples."""

    # The last axes of a sample that belong to one prediction: its classes.
    own_axes = 1

    def __init__(self, name: Callable[[tuple[int, ...]], str] = at) -> None:
        self._name = name
        self._probabilities = RunningMean()
        self._entropy = RunningMean()
        self._votes: Any = 0

    @staticmethod
    def check(logits: Any) -> None:
        """Raises unless these are samples ``(S, ..., K)`` of at least two classes."""
        if isinstance(logits, (tuple, list)):
            raise TypeError(
                f"Received {len(logits)} outputs. Expected one array of logits; a pair of "
                'means and variances is for task="regression".'
            )
        check_samples(logits, "logits", "(S, ..., K)", least_ndim=2)
        classes = logits.shape[-1]
        if classes < 2:
            raise ValueError(
                f"Received logits of shape {logits.shape}, for {classes} class. Expected "
                "(S, ..., K) for K >= 2 classes. Logits of one class against the rest "
                "become two by mx.concatenate([mx.zeros_like(logits), logits], axis=-1)."
            )

    def add(self, logits: mx.array) -> None:
        """Takes samples in that :meth:`check` has let pass."""
        logits = logits.astype(mx.float32)
        if self._entropy.samples == 0:
            _refuse_probabilities(logits)
        # The logarithms of softmax up to a constant, the logarithm of the normalizer.
        logarithms = logits - logits.max(-1, keepdims=True)
        weights = mx.exp(logarithms)
        normalizer = weights.sum(-1, keepdims=True)
        refuse_where(
            ~mx.isfinite(normalizer.squeeze(-1)),
            lambda index: (
                "Received logits that are nan, inf or all -inf in sample "
                f"{self._entropy.samples + index[0]}{self._name(index[1:])}."
            ),
        )
        probabilities = weights / normalizer
        self._probabilities.add(probabilities)
        log_normalizer = mx.log(normalizer.squeeze(-1))
        self._entropy.add(log_normalizer + _entropy(probabilities, logarithms))
        winners = mx.argmax(logits, axis=-1, keepdims=True)
        self._votes += (winners == mx.arange(logits.shape[-1])).sum(0)

    def arrays(self) -> list[mx.array]:
        """Gives what is held."""
        return [self._probabilities.mean, self._entropy.mean, self._votes]

    def result(self) -> Classification:
        """Gives the summary of all samples."""
        probabilities = self._probabilities.mean
        expected_entropy = self._entropy.mean
        logarithms = mx.log(mx.where(probabilities > 0, probabilities, 1))
        predictive_entropy = _entropy(probabilities, logarithms)
        return Classification(
            probabilities,
            predictive_entropy,
            expected_entropy,
            # A difference of rounded sums may be just below 0, which it never is.
            mx.maximum(predictive_entropy - expected_entropy, 0),
            1 - self._votes.max(-1) / self._entropy.samples,
        )


def _entropy(probabilities: mx.array, logarithms: mx.array) -> mx.array:
    """Gives the mean of ``-logarithms`` over the classes."""
    # 0 * log(0) is 0 here, where arithmetic says nan.
    logarithms = mx.where(probabilities > 0, logarithms, 0)
    return -(probabilities * logarithms).sum(-1)


def _refuse_probabilities(logits: mx.array) -> None:
    add_up = (mx.abs(logits.sum(-1) - 1) < 1e-5).all()
    refuse_where(
        add_up & (logits >= 0).all(),
        lambda index: (
            "Received logits that are at least 0 and add up to 1, as probabilities do. "
            "Leave out the network's last softmax, or give mx.log(probabilities)."
        ),
    )
