"""Calibration and classification summaries against torchmetrics, on the same numbers."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)
from torchmetrics.functional.regression import kl_divergence

from chandrop.uncertainty import classify, expected_calibration_error


def labelled(classes, n=2000, seed=0):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(classes, 0.4), size=n).astype(np.float32)
    return probabilities, generator.integers(0, classes, size=n)


@pytest.mark.parametrize("bins", [1, 10, 15, 40])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_expected_calibration_error(classes, bins):
    probabilities, labels = labelled(classes)
    theirs = multiclass_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels), classes, bins, norm="l1"
    )
    ours = expected_calibration_error(mx.array(probabilities), mx.array(labels), bins)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)


def test_confidences_on_edges_are_theirs_in_the_upper_bin():
    """Ours are in the lower one, as Guo et al. define the bins."""
    confidence = np.array([0.5, 0.75, 0.75, 1.0, 0.6], dtype=np.float32)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels, edge = np.array([0, 0, 1, 0, 1]), np.float32(1e-6)

    def theirs(shift):
        shifted = np.stack([confidence + shift, 1 - confidence - shift], axis=1)
        return multiclass_calibration_error(
            torch.tensor(shifted.clip(0, 1)), torch.tensor(labels), 2, 4, norm="l1"
        ).item()

    ours = expected_calibration_error(mx.array(probabilities), mx.array(labels), 4).item()
    assert ours == pytest.approx(theirs(-edge), abs=1e-5)
    assert abs(ours - theirs(0)) > 0.01


def test_of_two_classes_theirs_may_mean_that_of_one():
    """Their binary one is of the probability of class 1, ours of the larger one."""
    probabilities, labels = labelled(2)
    right = probabilities.argmax(-1) == labels
    theirs = binary_calibration_error(
        torch.tensor(probabilities.max(-1)), torch.tensor(right.astype(int)), 15
    )
    ours = expected_calibration_error(mx.array(probabilities), mx.array(labels))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)


def test_mutual_information_is_the_mean_divergence_from_the_mean():
    logits = np.random.default_rng(0).normal(size=(16, 50, 5)).astype(np.float32) * 3
    samples = torch.softmax(torch.tensor(logits), -1)
    theirs = [
        kl_divergence(samples[:, i], samples.mean(0)[i].expand(16, 5)).item()
        for i in range(50)
    ]
    ours = classify(mx.array(logits)).mutual_information
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
