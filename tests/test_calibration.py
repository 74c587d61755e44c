"""Calibration and scores against scikit-learn and NumPy in float64."""

import math

import mlx.core as mx
import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from chandrop.uncertainty import (
    brier_score,
    classify,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
    risk_coverage_curve,
)
from chandrop.uncertainty._sums import cumulative, total

SCORES = [
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_curve,
]
each = pytest.mark.parametrize("score", SCORES, ids=lambda score: score.__name__)


def labelled(shape=(200, 7), seed=0):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(shape[-1], 0.4), size=shape[:-1])
    labels = generator.integers(0, shape[-1], size=shape[:-1])
    return probabilities.astype(np.float32), labels.astype(np.int32)


def in_mlx(*arrays):
    return [mx.array(array) for array in arrays]


@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_scikit_learns(classes):
    probabilities, labels = labelled((300, classes))
    every = range(classes)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(-1, keepdims=True)
    assert negative_log_likelihood(*in_mlx(probabilities, labels)).item() == pytest.approx(
        sklearn.metrics.log_loss(labels, exact, labels=every), rel=1e-5
    )
    if classes > 2:  # for two classes scikit-learn counts one of them
        one_hot = np.eye(classes)[labels]
        expected = sum(
            sklearn.metrics.brier_score_loss(one_hot[:, i], exact[:, i]) for i in every
        )
    else:
        expected = 2 * sklearn.metrics.brier_score_loss(labels, exact[:, 1])
    assert brier_score(*in_mlx(probabilities, labels)).item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_reliability_curve_is_scikit_learns(bins):
    probabilities, labels = labelled()
    curve = reliability_curve(*in_mlx(probabilities, labels), bins=bins)
    right = probabilities.argmax(-1) == labels
    accuracy, confidence = sklearn.calibration.calibration_curve(
        right, probabilities.max(-1), n_bins=bins
    )
    counts = np.array(curve.examples)
    filled = counts > 0
    assert counts.sum() == 200
    assert np.isnan(np.array(curve.accuracy)[~filled]).all()
    np.testing.assert_allclose(np.array(curve.accuracy)[filled], accuracy, rtol=1e-5)
    np.testing.assert_allclose(np.array(curve.confidence)[filled], confidence, rtol=1e-5)
    error = np.abs(accuracy - confidence) @ counts[filled] / 200
    got = expected_calibration_error(*in_mlx(probabilities, labels), bins=bins)
    assert got.item() == pytest.approx(error, rel=1e-4)


def test_a_confidence_between_two_bins_is_in_the_lower_one():
    confidences = [0.5, 0.5001, 0.75, 1.0]
    probabilities = mx.array([[p, 1 - p] for p in confidences])
    curve = reliability_curve(probabilities, mx.zeros(4, dtype=mx.int32), bins=4)
    assert curve.examples.tolist() == [0, 1, 2, 1]


def test_right_and_wrong_for_certain():
    sure = mx.array([[1.0, 0.0], [1.0, 0.0]])
    for labels, error, brier, likelihood in (([0, 0], 0, 0, 0), ([1, 1], 1, 2, math.inf)):
        assert expected_calibration_error(sure, mx.array(labels)).item() == error
        assert brier_score(sure, mx.array(labels)).item() == brier
        assert negative_log_likelihood(sure, mx.array(labels)).item() == likelihood


@each
def test_shape_does_not_matter(score):
    probabilities, labels = labelled((3, 4, 5, 6))
    whole = score(*in_mlx(probabilities, labels))
    flat = score(*in_mlx(probabilities.reshape(-1, 6), labels.flatten()))
    for a, b in zip(
        whole if isinstance(whole, tuple) else [whole],
        flat if isinstance(flat, tuple) else [flat],
        strict=True,
    ):
        assert mx.array_equal(a, b, equal_nan=True)


def leaves(result):
    return result if isinstance(result, tuple) else (result,)


@each
@pytest.mark.parametrize(
    ("ignore", "dtype"), [(255, np.uint8), (-100, np.int32), (-100, np.uint8), (0, np.int8)]
)
def test_ignored_labels(score, ignore, dtype):
    """Of pixels, where a segmentation has no label: those that are kept alone count."""
    probabilities, labels = labelled((4, 6, 5, 7))
    generator = np.random.default_rng(1)
    if ignore != -100 or dtype != np.uint8:
        labels[generator.random(labels.shape) < 0.4] = ignore
    labels = labels.astype(dtype)
    kept = labels != np.int32(ignore)
    probabilities[~kept] = np.nan  # they count neither in checks nor in gradients
    expected = score(*in_mlx(probabilities[kept], labels[kept]))

    def ignoring(probabilities, labels):
        return score(probabilities, labels, ignore=ignore)

    got = ignoring(*in_mlx(probabilities, labels))
    compiled = mx.compile(ignoring)(*in_mlx(probabilities, labels))
    mapped = mx.vmap(ignoring)(*in_mlx(probabilities, labels))
    for i, one in enumerate(in_mlx(*probabilities)):
        alone = ignoring(one, mx.array(labels[i]))
        for a, b in zip(leaves(mapped), leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5)
    for a, b, c in zip(leaves(got), leaves(compiled), leaves(expected), strict=True):
        assert a.dtype == c.dtype
        np.testing.assert_allclose(a, c, rtol=1e-5)
        np.testing.assert_allclose(b, c, rtol=1e-5)
    if score in (negative_log_likelihood, brier_score):
        gradient = np.array(mx.grad(ignoring)(*in_mlx(probabilities, labels)))
        assert np.isfinite(gradient).all()
        assert not gradient[~kept].any()


def test_ignored_labels_in_numpy():
    probabilities, labels = labelled((300, 7))
    labels[::3] = 255
    exact, kept = probabilities.astype(np.float64), labels != 255
    given = exact[kept, labels[kept]]
    distances = ((exact[kept] - np.eye(7)[labels[kept]]) ** 2).sum(-1)
    arguments = in_mlx(probabilities, labels)
    value = negative_log_likelihood(*arguments, ignore=255).item()
    assert value == pytest.approx(-np.log(given).mean(), rel=1e-6)
    value = brier_score(*arguments, ignore=255).item()
    assert value == pytest.approx(distances.mean(), rel=1e-6)
    right = exact[kept].argmax(-1) == labels[kept]
    gap = abs(exact[kept].max(-1).mean() - right.mean())
    value = expected_calibration_error(*arguments, bins=1, ignore=255).item()
    assert value == pytest.approx(gap, rel=1e-5)
    curve = reliability_curve(*arguments, ignore=255)
    assert curve.examples.sum().item() == kept.sum()


def exact_values(score, probabilities, labels):
    """The values of each example, in NumPy and float64."""
    exact = probabilities.astype(np.float64)
    if score is negative_log_likelihood:
        return -np.log(np.take_along_axis(exact, labels[..., None], -1)[..., 0])
    return ((exact - np.eye(exact.shape[-1])[labels]) ** 2).sum(-1)


each_sum = pytest.mark.parametrize("score", [negative_log_likelihood, brier_score])


@each_sum
@pytest.mark.parametrize("shape", [(6,), (200, 7), (4, 6, 5, 7)], ids=str)
@pytest.mark.parametrize("ignore", [None, 255, -100])
def test_the_value_of_each_example(score, shape, ignore, compiles):
    probabilities, labels = labelled(shape)
    exact, kept = exact_values(score, probabilities, labels), np.ones(labels.shape)
    if ignore is not None and labels.ndim:
        kept = np.random.default_rng(1).random(labels.shape) < 0.6
        labels[~kept], probabilities[~kept] = ignore, np.nan
    arguments = in_mlx(probabilities, labels)

    def of_each(probabilities, labels):
        return score(probabilities, labels, ignore=ignore, reduction="none")

    values = of_each(*arguments)
    assert values.shape == labels.shape
    assert values.dtype == mx.float32
    np.testing.assert_allclose(values, np.where(kept, exact, 0), rtol=2e-6, atol=1e-6)
    assert not np.array(values)[kept == 0].any()
    np.testing.assert_allclose(mx.compile(of_each)(*arguments), values, rtol=1e-5)
    mean = score(*arguments, ignore=ignore)
    assert mean.item() == pytest.approx(exact[kept != 0].mean(), rel=1e-5)
    assert score(*arguments, ignore=ignore, reduction="mean").item() == mean.item()
    if labels.ndim:
        np.testing.assert_allclose(mx.vmap(of_each)(*arguments), values, rtol=1e-5)
    sums = mx.grad(lambda *a: of_each(*a).sum() / kept.sum())(*arguments)
    means = mx.grad(lambda *a: score(*a, ignore=ignore))(*arguments)
    np.testing.assert_allclose(sums, means, rtol=1e-4, atol=1e-7)
    assert not np.array(sums)[kept == 0].any()


@each_sum
@pytest.mark.parametrize("reduction", ["sum", None, "None", 1, mx.array(0)], ids=str)
def test_unknown_reductions(score, reduction):
    with pytest.raises(
        ValueError, match=r'Received reduction = .*\. Expected "mean", or "none"'
    ):
        score(*in_mlx(*labelled()), reduction=reduction)


@each
def test_bad_labels_to_ignore(score):
    probabilities, labels = in_mlx(*labelled())
    with pytest.raises(ValueError, match=r"Received labels that are all 255, which is ign"):
        score(probabilities, mx.full(labels.shape, 255), ignore=255)
    for ignore in (255.0, True, "255"):
        with pytest.raises(TypeError, match=r"Received ignore of type"):
            score(probabilities, labels, ignore=ignore)
    labels[17] = 255
    with pytest.raises(ValueError, match=r"at index 17\..*has no label.*: ignore=255\."):
        score(probabilities, labels)
    with pytest.raises(ValueError, match=r"a label outside \[0, 7\) at index 17\."):
        score(probabilities, labels, ignore=254)


@each
def test_more_classes_than_a_byte_counts(score):
    probabilities, _ = in_mlx(*labelled((200, 300)))
    labels = mx.arange(200)
    bytes_of_labels = labels.astype(mx.uint8)
    for a, b in zip(
        leaves(score(probabilities, labels)),
        leaves(score(probabilities, bytes_of_labels)),
        strict=True,
    ):
        assert mx.array_equal(a, b, equal_nan=True)


@each
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_low_precision(score, dtype):
    probabilities, labels = in_mlx(*labelled((200, 100)))
    close = score(mx.softmax(mx.log(probabilities).astype(dtype), axis=-1), labels)
    value = close[0] if isinstance(close, tuple) else close
    assert value.dtype == mx.float32


def test_within_transforms():
    probabilities, labels = in_mlx(*labelled())
    for score in (brier_score, expected_calibration_error, negative_log_likelihood):
        expected = score(probabilities, labels).item()
        compiled = mx.compile(score)(probabilities, labels)
        assert compiled.item() == pytest.approx(expected, rel=1e-5)
        mapped = mx.vmap(score)(mx.stack([probabilities] * 2), mx.stack([labels, labels]))
        assert mapped.tolist() == pytest.approx([expected] * 2, rel=1e-5)
    gradient = mx.grad(negative_log_likelihood)(probabilities, labels)
    assert mx.isfinite(gradient).all()
    uncertainty = probabilities.max(-1)
    curve = risk_coverage_curve(labels, uncertainty)
    compiled = mx.compile(risk_coverage_curve)(labels, uncertainty)
    for a, b in zip(curve, compiled, strict=True):
        assert mx.allclose(a, b, rtol=1e-6)


@given(
    st.lists(
        st.tuples(st.floats(-3, 3, width=16), st.integers(0, 2)), min_size=1, max_size=9
    )
)
def test_risk_against_coverage(examples):
    errors, uncertainty = np.array(examples, dtype=np.float32).T
    curve = risk_coverage_curve(*in_mlx(errors, uncertainty))
    np.testing.assert_array_equal(curve.threshold, np.sort(uncertainty))
    for coverage, risk, threshold in zip(*map(np.array, curve), strict=True):
        accepted = uncertainty <= threshold
        assert coverage == pytest.approx(accepted.mean())
        assert risk == pytest.approx(errors[accepted].mean(), abs=1e-5)


def test_risk_of_right_and_wrong_guesses():
    generator = np.random.default_rng(0)
    wrong, uncertainty = generator.random(5000) < 0.2, generator.random(5000)
    curve = risk_coverage_curve(*in_mlx(wrong, uncertainty))
    exact = np.cumsum(wrong[np.argsort(uncertainty)]) / np.arange(1, 5001)
    np.testing.assert_allclose(curve.risk, exact, rtol=1e-5, atol=1e-7)
    assert curve.risk[-1].item() == pytest.approx(wrong.mean())
    useless = risk_coverage_curve(mx.array(wrong), mx.zeros(5000))
    np.testing.assert_allclose(useless.risk, wrong.mean(), rtol=1e-5)


@pytest.mark.parametrize("classes", [1000, 50_257, 151_936])
def test_many_classes(classes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes), 3)
    probabilities = probabilities.astype(np.float32)
    probabilities[0] = 1 / classes
    labels = np.array([0, 1, classes - 1])
    exact = probabilities.astype(np.float64)
    distances = (exact**2).sum(-1) - 2 * exact[range(3), labels] + 1
    for i in range(3):
        value = brier_score(*in_mlx(probabilities[i : i + 1], labels[i : i + 1])).item()
        assert value == pytest.approx(distances[i], rel=1e-6)
    for score in SCORES:
        score(mx.full((1, 2_000_000), 5e-7), mx.array([0]))


def test_the_examples_of_a_bin_are_counted_exactly():
    n = 2**24 + 1  # the first integer that float32 has not
    probabilities = mx.broadcast_to(mx.array([1.0, 0.0]), (n, 2))
    curve = reliability_curve(probabilities, mx.zeros(n, dtype=mx.int32), bins=1)
    assert curve.examples.item() == n
    assert curve.accuracy.item() == 1


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 1025])
def test_sums_along_an_axis(axis, n):
    shape = [2, 3, 4]
    shape[axis] = n
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(
        total(mx.array(values), axis), values.sum(axis, dtype=np.float64), atol=1e-4
    )


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1024, 1025, 70_000, 3_000_000])
def test_sums_of_many(n):
    """One after another, in float32, these would be some percent off."""
    values = mx.full((n,), 0.1)
    assert total(values).item() == pytest.approx(n * 0.1, rel=2e-6)
    sums = np.array(cumulative(values))
    np.testing.assert_allclose(sums, np.arange(1, n + 1) * 0.1, rtol=2e-6)


def test_a_volume_of_voxels():
    probabilities = mx.broadcast_to(mx.array([0.1, 0.9]), (128, 128, 128, 2))
    labels = mx.ones((128, 128, 128), dtype=mx.int32)
    assert expected_calibration_error(probabilities, labels).item() == pytest.approx(
        0.1, rel=1e-5
    )
    assert brier_score(probabilities, labels).item() == pytest.approx(0.02, rel=1e-5)


@each
@pytest.mark.parametrize("label", [-1, 7])
def test_a_label_that_is_out_of_range(score, label):
    probabilities, labels = in_mlx(*labelled())
    labels[17] = label
    with pytest.raises(
        ValueError, match=r"Received a label outside \[0, 7\) at index 17\."
    ):
        score(probabilities, labels)


@each
def test_labels_of_other_shapes_and_dtypes(score):
    probabilities, labels = in_mlx(*labelled())
    with pytest.raises(
        ValueError,
        match=r"labels of shape \(199,\)\. Expected \(\.\.\., K\) and \(\.\.\.\)",
    ):
        score(probabilities, labels[1:])
    with pytest.raises(TypeError, match=r"Received labels of dtype .*float32.*argmax"):
        score(probabilities, labels.astype(mx.float32))
    one_hot = mx.zeros_like(probabilities).astype(mx.int32)
    with pytest.raises(
        ValueError, match=r"for one-hot labels: mx\.argmax\(labels, axis=-1\)"
    ):
        score(probabilities, one_hot)
    summary = classify(mx.log(probabilities)[None])
    with pytest.raises(TypeError, match=r"of type Classification.*such as \.probabilities"):
        score(summary, labels)
    with pytest.raises(TypeError, match=r"Received labels of type ndarray"):
        score(probabilities, np.array(labels))


@each
@pytest.mark.parametrize("shift", [1.0, math.nan, -2.0])
def test_what_is_no_probability(score, shift):
    probabilities, labels = in_mlx(*labelled())
    probabilities[5, 2] += shift
    with pytest.raises(ValueError, match=r"do not add up to 1 at index 5.*mx\.softmax\("):
        score(probabilities, labels)


@each
def test_negative_probabilities_that_add_up_to_one(score):
    with pytest.raises(ValueError, match="negative"):
        score(mx.array([[1.5, -0.5]]), mx.array([0]))


@each
def test_one_class_and_no_examples(score):
    with pytest.raises(
        ValueError, match=r"K >= 2 classes.*mx\.stack\(\[1 - p, p\], axis=-1\)"
    ):
        score(mx.ones((4, 1)), mx.zeros(4, dtype=mx.int32))
    with pytest.raises(ValueError, match=r"labels of shape \(0,\).*at least one example"):
        score(mx.ones((0, 2)), mx.zeros(0, dtype=mx.int32))


@pytest.mark.parametrize("score", [reliability_curve, expected_calibration_error])
def test_bins(score):
    probabilities, labels = in_mlx(*labelled())
    with pytest.raises(ValueError, match=r"Received bins = 0\. Expected at least 1"):
        score(probabilities, labels, bins=0)
    with pytest.raises(TypeError, match="Received bins of type float"):
        score(probabilities, labels, bins=15.0)


def test_bad_input_of_the_risk():
    with pytest.raises(ValueError, match=r"Received nan in uncertainty at index 1\."):
        risk_coverage_curve(mx.zeros(2), mx.array([0, math.nan]))
    with pytest.raises(ValueError, match=r"Received nan in errors at index \(0, 1\)\."):
        risk_coverage_curve(mx.array([[0, math.nan]]), mx.zeros((1, 2)))
    for errors, uncertainty in (((3,), (4,)), ((0,), (0,))):
        with pytest.raises(ValueError, match=r"Received errors of shape"):
            risk_coverage_curve(mx.zeros(errors), mx.zeros(uncertainty))
    with pytest.raises(TypeError, match=r"Received errors of type list"):
        risk_coverage_curve([0.0], mx.zeros(1))


def test_errors_and_uncertainty_in_another_order():
    wrong, uncertainty = mx.array([True, False]), mx.array([0.9, 0.1])
    with pytest.raises(TypeError, match=r"Received uncertainty of dtype mlx\.core\.bool"):
        risk_coverage_curve(uncertainty, wrong)
