"""Each row of the table of names in docs/uncertainty.md, live, and what is near them.

Both lines of a row get the same numbers under the same names.
"""

import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from peers.without_init import load_without_init
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.text import perplexity

import chandrop.uncertainty
from chandrop.uncertainty import (
    brier_score,
    classify,
    gaussian_negative_log_likelihood,
    negative_log_likelihood,
    predict,
)

PAGE = Path(__file__).parents[2] / "docs" / "uncertainty.md"
CLASSES = 4


def metric(file, name):
    module = load_without_init("torch_uncertainty", f"metrics.classification.{file}")
    return getattr(module, name)


THEIRS = {
    "F": functional,
    "multiclass_calibration_error": multiclass_calibration_error,
    "deep_ensembles": load_without_init(
        "torch_uncertainty", "methods.deep_ensembles"
    ).deep_ensembles,
    "BrierScore": metric("brier_score", "BrierScore"),
    "CategoricalNLL": metric("categorical_nll", "CategoricalNLL"),
    "Entropy": metric("entropy", "Entropy"),
    "MutualInformation": metric("mutual_information", "MutualInformation"),
}
OURS = {name: getattr(chandrop.uncertainty, name) for name in chandrop.uncertainty.__all__}


def table():
    """Returns the rows: (library, theirs) and our line."""
    lines = PAGE.read_text().split("| library |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]
    return {(library, theirs): ours for library, theirs, ours in rows}


ROWS = table()


def pairs(build, n=3):
    """Models of torch, and of mlx.nn with the same weights."""
    theirs = []
    for seed in range(n):
        torch.manual_seed(seed)
        theirs.append(build(torch.nn).eval())
    ours = [build(nn) for _ in theirs]
    for model, other in zip(ours, theirs, strict=True):
        for layer, held in zip(model.layers, other, strict=True):
            if isinstance(held, torch.nn.Linear):
                layer.weight = mx.array(held.weight.detach().numpy())
                layer.bias = mx.array(held.bias.detach().numpy())
    return theirs, ours


def network(library):
    return library.Sequential(
        library.Linear(6, 16), library.ReLU(), library.Dropout(0.5), library.Linear(16, 4)
    )


@pytest.fixture(scope="module")
def names():
    """The same numbers for their lines and for ours."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(3, 50, CLASSES)).astype(np.float32)
    arrays = {
        "x": generator.normal(size=(50, 6)).astype(np.float32),
        "logits": logits,
        "probabilities": np.array(classify(mx.array(logits)).probabilities),
        "labels": generator.integers(0, CLASSES, 50),
        "means": generator.normal(size=50).astype(np.float32),
        "variances": generator.uniform(0.1, 3, 50).astype(np.float32),
        "targets": generator.normal(size=50).astype(np.float32),
    }
    theirs, ours = pairs(network)
    return (
        {**THEIRS, **{name: torch.tensor(a) for name, a in arrays.items()}}
        | {"models": theirs, "samples": torch.tensor(logits).softmax(-1).transpose(0, 1)},
        {**OURS, **{name: mx.array(a) for name, a in arrays.items()}, "models": ours},
    )


@pytest.mark.parametrize(
    ("library", "name"), ROWS, ids=[f"{library}: {name}" for library, name in ROWS]
)
def test_a_row(library, name, names):
    with torch.no_grad():
        theirs = eval(name, names[0]).numpy()
    ours = np.array(eval(ROWS[library, name], names[1]))
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    assert np.abs(ours).max() > 1e-3


def test_every_metric_is_in_a_row():
    used = set(re.findall(r"\w+", " ".join(name for _, name in ROWS)))
    assert THEIRS.keys() <= used


def test_disagreement_of_two_members(names):
    """Theirs is the share of pairs that differ; with two members, twice the ratio."""
    disagreement = metric("disagreement", "Disagreement")("none")
    theirs = disagreement(names[0]["samples"][:, :2])
    ours = classify(names[1]["logits"][:2]).variation_ratio
    np.testing.assert_allclose(2 * ours, theirs)
    assert 0 < theirs.mean() < 1


@pytest.mark.filterwarnings("ignore:Metric `VariationRatio` will save:UserWarning")
def test_variation_ratios_count_votes_for_the_most_frequent_class(names):
    """Theirs are for the class of the mean, which fewer may have voted for."""
    ratio = metric("variation_ratio", "VariationRatio")(False, "none")
    # They take (estimator, example, class).
    ratio.update(names[0]["samples"].transpose(0, 1))
    theirs = ratio.compute().numpy()
    logits = names[1]["logits"]
    ours, votes = np.array(classify(logits).variation_ratio), logits.argmax(-1)
    winner = names[1]["probabilities"].argmax(-1)
    share = np.array((votes == winner).mean(0))
    np.testing.assert_allclose(theirs, 1 - share, atol=1e-6)
    assert (ours <= theirs + 1e-6).all()
    agree = np.isclose(share, np.array([(votes == k).mean(0) for k in range(4)]).max(0))
    np.testing.assert_allclose(ours[agree], theirs[agree], atol=1e-6)
    assert not agree.all()


class Distribution(torch.nn.Module):
    """What their regression ensembles need: a dict of parameters."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        loc, log_variance = self.model(x).split(2, -1)
        return {"loc": loc, "scale": (0.5 * log_variance).exp()}


class MeanAndVariance(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def __call__(self, x):
        mean, log_variance = mx.split(self.model(x), 2, axis=-1)
        return mean, mx.exp(log_variance)


def test_a_regression_is_the_mixture_of_their_ensemble():
    theirs, ours = pairs(network)
    ensemble = THEIRS["deep_ensembles"](
        list(map(Distribution, theirs)), task="regression", probabilistic=True
    )
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    with torch.no_grad():
        parameters = ensemble(torch.tensor(x))
    members = torch.distributions.Normal(
        **{name: a.unflatten(0, (3, -1)).movedim(0, -1) for name, a in parameters.items()}
    )
    weights = torch.distributions.Categorical(torch.ones(20, 2, 3))
    mixture = torch.distributions.MixtureSameFamily(weights, members)
    summary = predict(list(map(MeanAndVariance, ours)), None, mx.array(x), "regression")
    np.testing.assert_allclose(summary.mean, mixture.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(summary.total, mixture.variance, rtol=1e-5)


def test_each_prediction_and_ignored_labels_as_in_torch(names):
    probabilities, labels = names[0]["probabilities"], names[0]["labels"].clone()
    labels[::3] = 255
    arguments = names[1]["probabilities"], mx.array(labels.numpy())
    logarithms = probabilities.log()
    for reduction in ("mean", "none"):
        theirs = functional.cross_entropy(
            logarithms, labels, ignore_index=255, reduction=reduction
        )
        ours = negative_log_likelihood(*arguments, ignore=255, reduction=reduction)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    theirs = perplexity(logarithms[None], labels[None], ignore_index=255).log()
    ours = negative_log_likelihood(*arguments, ignore=255)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    one_hot = functional.one_hot(labels.where(labels != 255, 0), CLASSES)
    distances = functional.mse_loss(probabilities, one_hot.float(), reduction="none")
    theirs = distances.sum(-1) * (labels != 255)
    ours = brier_score(*arguments, ignore=255, reduction="none")
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_gradient_of_a_gaussian_is_torchs(names):
    """They are a loss, too: for means and variances that a network returns."""
    tensors = [names[0][name].clone() for name in ("means", "variances", "targets")]
    means, variances, targets = (tensor.requires_grad_() for tensor in tensors)
    loss = functional.gaussian_nll_loss(means, targets, variances, full=True)
    loss.backward()
    ours = mx.grad(gaussian_negative_log_likelihood, argnums=(0, 1, 2))(
        *(names[1][name] for name in ("means", "variances", "targets"))
    )
    for gradient, tensor in zip(ours, (means, variances, targets), strict=True):
        np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-5, atol=1e-7)
