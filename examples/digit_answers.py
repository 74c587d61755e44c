"""The digit network's answers for images, their uncertainty, and their calibration.

Each answer comes twice: from the network with dropout off, and from its subnetworks.
"""

from typing import NamedTuple

import mlx.core as mx
import numpy as np
from digit_network import DigitNetwork, Floats, Labels
from sklearn.metrics import roc_auc_score

from chandrop.uncertainty import (
    Classification,
    brier_score,
    classify,
    expected_calibration_error,
    negative_log_likelihood,
    predict,
)

SUBNETWORKS = 32
BINS = 10
ENTROPY_OFF = "entropy, dropout off"
ENTROPY = "entropy, subnetworks"
MUTUAL_INFORMATION = "mutual information, subnetworks"


class Answers(NamedTuple):
    """Answers for images, and the labels if there are any."""

    name: str
    images: Floats
    labels: mx.array | None
    off: Classification
    subnetworks: Classification

    def uncertainties(self) -> dict[str, mx.array]:
        """Returns three measures of the uncertainty of each answer."""
        return {
            ENTROPY_OFF: self.off.predictive_entropy,
            ENTROPY: self.subnetworks.predictive_entropy,
            MUTUAL_INFORMATION: self.subnetworks.mutual_information,
        }


def ask(
    network: DigitNetwork, name: str, images: Floats, labels: Labels | None = None
) -> Answers:
    """Calls the network, which is in eval mode, and its subnetworks."""
    x = mx.array(images)
    keys = mx.random.split(mx.random.key(1), SUBNETWORKS)
    return Answers(
        name,
        images,
        labels=None if labels is None else mx.array(labels),
        off=classify(network(x)[None]),  # a single sample
        subnetworks=predict(network, keys, x),
    )


def accuracy(answer: Classification, labels: mx.array) -> float:
    return (answer.probabilities.argmax(-1) == labels).astype(mx.float32).mean().item()


def calibration(answer: Classification, labels: mx.array) -> dict[str, float]:
    """Returns three scores; lower is better."""
    probabilities = answer.probabilities
    return {
        "ECE": expected_calibration_error(probabilities, labels, BINS).item(),
        "NLL": negative_log_likelihood(probabilities, labels).item(),
        "Brier": brier_score(probabilities, labels).item(),
    }


def told_apart(known: Answers, unknown: Answers) -> dict[str, float]:
    """Returns each measure's AUROC: how often the unknown image is the more uncertain."""
    is_unknown = np.repeat([0, 1], [len(known.images), len(unknown.images)])
    of_known, of_unknown = known.uncertainties(), unknown.uncertainties()
    return {
        measure: roc_auc_score(
            is_unknown, mx.concatenate([of_known[measure], of_unknown[measure]])
        )
        for measure in of_known
    }
