"""The score of a regression against SciPy in float64."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import scipy.stats
from subjects import normal

from chandrop.uncertainty import gaussian_negative_log_likelihood as score
from chandrop.uncertainty import predict, regress


def predicted(shape=(200,), seed=0):
    generator = np.random.default_rng(seed)
    means, targets = generator.normal(size=(2, *shape)).astype(np.float32)
    return means, generator.gamma(0.5, size=shape).astype(np.float32) + 1e-6, targets


def in_mlx(*arrays):
    return [mx.array(array) for array in arrays]


def exact(means, variances, targets):
    means, variances, targets = np.array([means, variances, targets], dtype=np.float64)
    return -scipy.stats.norm.logpdf(targets, means, variances**0.5)


@pytest.mark.parametrize("shape", [(), (200,), (4, 5, 6)], ids=str)
def test_it_is_scipys(shape, compiles):
    arrays = predicted(shape)
    expected, arguments = exact(*arrays), in_mlx(*arrays)
    values = score(*arguments, reduction="none")
    assert values.shape == shape
    assert values.dtype == mx.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    assert score(*arguments).item() == pytest.approx(expected.mean(), rel=1e-5)
    assert score(*arguments, reduction="mean").item() == score(*arguments).item()
    assert mx.compile(score)(*arguments).item() == pytest.approx(expected.mean(), rel=1e-5)
    if shape:
        mapped = mx.vmap(score)(*arguments)
        means = expected.reshape(shape[0], -1).mean(-1)
        np.testing.assert_allclose(mapped, means, rtol=1e-4, atol=1e-5)


def test_large_and_small_numbers():
    means = np.zeros(5, dtype=np.float32)
    variances = np.array([1e-38, 1e-30, 1e30, 3e38, 1], dtype=np.float32)
    targets = np.array([1e-19, 1e-14, 1e20, 1e19, 1e4], dtype=np.float32)
    values = score(*in_mlx(means, variances, targets), reduction="none")
    np.testing.assert_allclose(values, exact(means, variances, targets), rtol=1e-5)


def test_the_mean_of_many():
    """One after another, in float32, these would be some percent off."""
    n = 3_000_000
    mean = score(mx.zeros(n), mx.full((n,), 0.5), mx.full((n,), 0.25))
    assert mean.item() == pytest.approx(float(exact(0, 0.5, 0.25)), rel=2e-6)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_low_precision(dtype):
    arguments = [mx.maximum(a, 0.01).astype(dtype) for a in in_mlx(*predicted())]
    value = score(*arguments)
    assert value.dtype == mx.float32
    expected = score(*(array.astype(mx.float32) for array in arguments))
    assert value.item() == expected.item()
    whole = score(*(mx.array([1, 2], dtype=mx.int32) for _ in range(3)))
    assert whole.item() == pytest.approx(exact([1, 2], [1, 2], [1, 2]).mean(), rel=1e-6)


def test_of_predictions(key):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    x, targets = normal((6, 4)), normal((6, 1), seed=2)
    summary = predict([model, model], mx.random.split(key, 4), x, "regression")
    value = score(summary.mean, summary.total, targets).item()
    assert value == pytest.approx(
        exact(summary.mean, summary.total, targets).mean(), rel=1e-4
    )
    whole = predict(model, None, x, "regression")
    with pytest.raises(ValueError, match=r"variances that are 0, .* variances \+ 1e-6\."):
        score(whole.mean, whole.total, targets)
    assert mx.isfinite(score(whole.mean, whole.total + 1e-6, targets))


@pytest.mark.parametrize("bad", [0.0, -0.5, math.nan, math.inf])
def test_bad_variances(bad):
    means, variances, targets = in_mlx(*predicted((4, 3)))
    variances[2, 1] = bad
    message = (
        r"Received variances that are 0, negative, nan or inf at index \(2, 1\)\. .* "
        r"mx\.exp\(variances\)\.$"
    )
    for reduction in ("mean", "none"):
        with pytest.raises(ValueError, match=message):
            score(means, variances, targets, reduction=reduction)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("place", "name"), [(0, "means"), (2, "targets")])
def test_means_and_targets_that_are_not_finite(place, name, bad):
    arguments = in_mlx(*predicted())
    arguments[place][17] = bad
    with pytest.raises(ValueError, match=rf"^Received {name} that are nan or inf at .* 17"):
        score(*arguments)


def test_values_in_traces_are_not_checked(compiles):
    arguments = in_mlx(*predicted())
    arguments[1][0] = -1.0
    assert mx.isnan(mx.compile(score)(*arguments))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_shapes_that_differ(place):
    arguments = in_mlx(*predicted((6, 1)))
    arguments[place] = arguments[place].squeeze(-1)
    shape = r".*shape \(6, 1\).*" if place else ""
    with pytest.raises(ValueError, match=rf"{shape}\(6,\).*equal shapes.*\[:, None\]"):
        score(*arguments)
    with pytest.raises(ValueError, match=r"shape \(0,\).*at least one prediction"):
        score(*(mx.zeros(0) for _ in range(3)))


def test_what_is_no_array_of_real_numbers():
    means, variances, targets = in_mlx(*predicted())
    with pytest.raises(TypeError, match=r"Received targets of type ndarray.*mx\.array\(t"):
        score(means, variances, np.array(targets))
    with pytest.raises(TypeError, match=r"Received means of type Regression.*as \.mean\."):
        score(regress(means[None]), variances, targets)
    with pytest.raises(TypeError, match=r"Received variances of dtype .*bool"):
        score(means, variances > 0, targets)
    with pytest.raises(TypeError, match=r"Received means of dtype .*complex64"):
        score(means.astype(mx.complex64), variances, targets)


@pytest.mark.parametrize("reduction", ["sum", None, 0], ids=str)
def test_unknown_reductions(reduction):
    with pytest.raises(
        ValueError, match=r'Received reduction = .*\. Expected "mean", or "none"'
    ):
        score(*in_mlx(*predicted()), reduction=reduction)
