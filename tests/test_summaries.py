"""classify and regress against SciPy and NumPy in float64, and at the edges of float32."""

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy
from scipy.stats import mode as most_frequent

from chandrop.uncertainty import (
    Classification,
    Regression,
    brier_score,
    classify,
    regress,
    risk_coverage_curve,
)


def logits_of(samples, shape, scale=3.0, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(samples, *shape)) * scale).astype(np.float32)


def expected_classification(logits):
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    mean = probabilities.mean(0)
    of_each = entropy(probabilities, axis=-1).mean(0)
    votes = most_frequent(logits.argmax(-1), axis=0).count
    return Classification(
        mean,
        entropy(mean, axis=-1),
        of_each,
        entropy(mean, axis=-1) - of_each,
        1 - votes / len(logits),
    )


@pytest.mark.parametrize("samples", [1, 2, 33])
@pytest.mark.parametrize("shape", [(2,), (5, 10), (2, 3, 4, 3)], ids=str)
@pytest.mark.parametrize("scale", [0.1, 3.0, 50.0])
def test_classify_is_scipys(samples, shape, scale):
    logits = logits_of(samples, shape, scale)
    summary = classify(mx.array(logits))
    for name, expected in expected_classification(logits)._asdict().items():
        array = getattr(summary, name)
        assert array.dtype == mx.float32
        assert array.shape == expected.shape, name
        np.testing.assert_allclose(array, expected, rtol=2e-6, atol=2e-6, err_msg=name)


# ImageNet's classes, and the words of GPT-2 and of Qwen.
MANY_CLASSES = [1000, 50_257, 151_936]


@pytest.mark.parametrize("classes", MANY_CLASSES)
def test_many_equal_classes(classes):
    """Added one after another, in float32, they would be off by up to 1e-2."""
    summary = classify(mx.zeros((4, 1, classes)))
    assert summary.mutual_information.item() == pytest.approx(0, abs=2e-5)
    for name in ("predictive_entropy", "expected_entropy"):
        value = getattr(summary, name).item()
        assert value == pytest.approx(math.log(classes), abs=5e-5), name


@pytest.mark.parametrize("classes", MANY_CLASSES)
def test_many_classes_are_scipys(classes):
    logits = logits_of(4, (2, classes))
    summary = classify(mx.array(logits))
    for name, expected in expected_classification(logits)._asdict().items():
        array = getattr(summary, name)
        np.testing.assert_allclose(array, expected, rtol=3e-6, atol=3e-6, err_msg=name)
    np.testing.assert_allclose(
        np.array(summary.probabilities, dtype=np.float64).sum(-1), 1, rtol=1e-6
    )


@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 10**6))
def test_bounds(samples, classes, seed):
    summary = classify(mx.array(logits_of(samples, (7, classes), 5.0, seed)))
    most = math.log(classes) + 1e-5
    for name in ("predictive_entropy", "expected_entropy", "mutual_information"):
        values = np.array(getattr(summary, name))
        assert (values >= 0).all()
        assert (values <= most).all(), name
    assert (summary.variation_ratio <= 1 - 1 / classes + 1e-6).all()
    np.testing.assert_allclose(summary.probabilities.sum(-1), 1, rtol=1e-5)


def test_samples_that_agree_have_no_mutual_information():
    logits = np.broadcast_to(logits_of(1, (50, 10)), (16, 50, 10))
    summary = classify(mx.array(logits))
    assert summary.mutual_information.max() < 2e-6
    assert not summary.variation_ratio.any()


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_large_logits_do_not_overflow(dtype):
    sure, opposed = [[1e4, -1e4, 0.0]], [[-1e4, 1e4, 0.0]]
    summary = classify(mx.array([sure, opposed]).astype(dtype))
    assert summary.probabilities.tolist() == [[0.5, 0.5, 0.0]]
    assert summary.expected_entropy.item() == 0
    for name in ("predictive_entropy", "mutual_information"):
        assert getattr(summary, name).item() == pytest.approx(math.log(2))


def test_classes_that_are_ruled_out():
    logits = mx.array([[-math.inf, 0.0, 0.0], [-math.inf, 0.0, -math.inf]])
    summary = classify(logits)
    assert summary.probabilities.tolist() == [0.0, 0.75, 0.25]
    assert summary.expected_entropy.item() == pytest.approx(math.log(2) / 2)


def test_low_precision_is_summarised_in_float32():
    logits = mx.array(logits_of(8, (6, 4))).astype(mx.bfloat16)
    summary = classify(logits)
    exact = classify(logits.astype(mx.float32))
    for array, expected in zip(summary, exact, strict=True):
        assert array.dtype == mx.float32
        assert mx.array_equal(array, expected)


@pytest.mark.parametrize("samples", [1, 2, 33])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)], ids=str)
def test_regress_is_numpys(samples, shape):
    means = logits_of(samples, shape)
    variances = np.exp(logits_of(samples, shape, 0.5, seed=1))
    alone = regress(mx.array(means))
    assert mx.array_equal(alone.total, alone.epistemic)
    assert not alone.aleatoric.any()
    together = regress(mx.array(means), mx.array(variances))
    epistemic = means.astype(np.float64).var(0)
    aleatoric = variances.astype(np.float64).mean(0)
    expected = Regression(means.mean(0), epistemic, aleatoric, epistemic + aleatoric)
    for name, value in expected._asdict().items():
        assert getattr(together, name).shape == shape
        close = {"rtol": 3e-6, "atol": 3e-6, "err_msg": name}
        np.testing.assert_allclose(getattr(together, name), value, **close)
    assert mx.array_equal(alone.epistemic, together.epistemic)


def test_total_is_the_variance_of_the_mixture():
    """The law of total variance, against draws from the mixture that the samples are."""
    generator = np.random.default_rng(0)
    means, variances = generator.normal(size=5), generator.uniform(0.5, 2, size=5)
    draws = generator.normal(means, np.sqrt(variances), size=(200_000, 5))
    summary = regress(
        mx.array(means.astype(np.float32)), mx.array(variances.astype(np.float32))
    )
    assert summary.total.item() == pytest.approx(draws.var(), rel=0.01)


def test_a_mean_of_a_million_deviations():
    samples = (1e6 + logits_of(10_000, (7,), 1.0)).astype(np.float32)
    exact = samples.astype(np.float64)
    summary = regress(mx.array(samples))
    np.testing.assert_allclose(summary.mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(summary.epistemic, exact.var(0), rtol=5e-5)


@pytest.mark.parametrize("samples", [10_000, 300_000])
def test_many_samples_in_one_chunk(samples):
    """Added one after another, in float32, they would be up to a percent off."""
    tenths = mx.full((samples,), 0.1)
    assert regress(tenths, tenths).aleatoric.item() == pytest.approx(0.1, rel=1e-6)
    logits = mx.broadcast_to(mx.array([2.0, 0.0]), (samples, 2))
    one = classify(logits[:1])
    for array, expected in zip(classify(logits), one, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-6)


def test_within_transforms():
    logits = mx.array(logits_of(6, (3, 4)))
    eager = classify(logits)
    compiled = mx.compile(classify)(logits)
    mapped = mx.vmap(classify, in_axes=1)(logits)
    for a, b, c in zip(eager, compiled, mapped, strict=True):
        assert mx.allclose(a, b, atol=1e-6)
        assert mx.allclose(a, c, atol=1e-6)
    for sure in ([[200.0, 0, 0]], [[-math.inf, 0, 1]]):
        for name in ("mutual_information", "predictive_entropy"):
            of_sure = mx.grad(lambda x, name=name: getattr(classify(x), name).sum())
            assert mx.isfinite(of_sure(mx.array([sure, sure]))).all()
    gradient = mx.grad(lambda logits: classify(logits).mutual_information.sum())(logits)
    step = 1e-2 * gradient
    rises = [
        classify(logits + sign * step).mutual_information.sum().item() for sign in (1, -1)
    ]
    slope = (rises[0] - rises[1]) / 2
    assert slope == pytest.approx((gradient * step).sum().item(), rel=0.02)
    assert mx.vmap(regress, in_axes=1)(logits).mean.shape == (3, 4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_sample_that_is_not_finite_is_named(value):
    logits = mx.zeros((4, 5, 3))
    logits[2, 3, 1] = value
    message = r"Received logits that are nan, inf or all -inf in sample 2 at index 3\."
    with pytest.raises(ValueError, match=message):
        classify(logits)
    message = r"Received means that are nan or inf in sample 2 at index \(3, 1\)\."
    with pytest.raises(ValueError, match=message):
        regress(logits)
    message = (
        r"Received variances that are negative, nan or inf in sample 2 at index \(3, 1\)\."
    )
    with pytest.raises(ValueError, match=message):
        regress(mx.zeros_like(logits), logits)
    with pytest.raises(ValueError, match=r"nan or inf in sample 1\.$"):
        regress(mx.array([0.0, value]))


def test_a_sample_that_rules_all_classes_out():
    logits = mx.zeros((2, 3))
    logits[1] = -math.inf
    with pytest.raises(ValueError, match=r"all -inf in sample 1\.$"):
        classify(logits)


DTYPES = [mx.float32, mx.float16, mx.bfloat16]
REFUSED = r"Received logits that all .* add up to 1.*mx\.log\(probabilities\)"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 32_000, 151_936])
@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_probabilities_in_place_of_logits(dtype, classes, precise, scale):
    logits = mx.array(logits_of(2, (2, classes), scale)).astype(dtype)
    probabilities = mx.softmax(logits, axis=-1, precise=precise)
    with pytest.raises(ValueError, match=REFUSED):
        classify(probabilities)
    # One that is none, in any sample and at any example, is enough.
    probabilities[1, 1] = logits[1, 1] - 1
    classify(probabilities)
    classify(logits)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_that_look_like_probabilities(dtype):
    one_hot = mx.eye(3, dtype=dtype)[None]
    with pytest.raises(ValueError, match=REFUSED):
        classify(one_hot)
    with pytest.raises(ValueError, match=REFUSED):
        classify(mx.full((2, 2, 2), 0.5, dtype=dtype))
    others = mx.array([[[0, 2, 1], [1, 0, 1], [0, 0, 0]]]).astype(dtype)
    for axis in (0, 1):
        logits = mx.concatenate([one_hot, others], axis=axis)
        summary = classify(logits)
        expected = expected_classification(np.array(logits.astype(mx.float32)))
        np.testing.assert_allclose(summary.probabilities, expected.probabilities, rtol=1e-5)
    for classes in (2, 1000, 32_000):
        generator = np.random.default_rng(0)
        for values in (
            np.zeros((2, 5, classes)),
            generator.uniform(size=(2, 5, classes)),
            np.maximum(generator.normal(size=(2, 5, classes)), 0),
            np.eye(5, classes)[None] * 5,
        ):
            classify(mx.array(values.astype(np.float32)).astype(dtype))


def test_bools_are_no_numbers():
    bools = mx.array([[True, False], [False, True]])
    for call, name in (
        (lambda: classify(bools), "logits"),
        (lambda: regress(bools), "means"),
        (lambda: regress(mx.zeros((2, 2)), bools), "variances"),
        (lambda: brier_score(bools, mx.array([0, 1])), "probabilities"),
    ):
        with pytest.raises(TypeError, match=rf"Received {name} of dtype .*bool.* real num"):
            call()
    with pytest.raises(TypeError, match=r"Received labels of dtype .*bool.* integers"):
        brier_score(mx.full((2, 2), 0.5), bools[0])
    # Whether a prediction is wrong is an error of 0 or 1.
    risk_coverage_curve(bools, mx.zeros((2, 2)))


def test_integers_are_numbers():
    integers = mx.array([[4, 0, -2], [1, 7, 3]])
    for call in (classify, regress):
        for a, b in zip(call(integers), call(integers.astype(mx.float32)), strict=True):
            assert mx.array_equal(a, b)


def test_negative_variances():
    message = r"that are negative, nan or inf in sample 1 at index 0\..*mx\.exp"
    with pytest.raises(ValueError, match=message):
        regress(mx.zeros((2, 3)), mx.array([[1.0, 1, 1], [-1, 1, 1]]))


@pytest.mark.parametrize("shape", [(3, 5, 1), (3, 0)], ids=str)
def test_one_class(shape):
    with pytest.raises(
        ValueError, match=r"Expected \(S, \.\.\., K\) .* K >= 2 classes"
    ) as error:
        classify(mx.zeros(shape))
    assert "mx.concatenate([mx.zeros_like(logits), logits], axis=-1)" in str(error.value)


def test_the_advice_for_one_class():
    logits = mx.array(logits_of(4, (5, 1)))
    advised = mx.concatenate([mx.zeros_like(logits), logits], axis=-1)
    np.testing.assert_allclose(
        classify(advised).probabilities[:, 1:], mx.sigmoid(logits).mean(0), rtol=1e-6
    )


def test_no_samples():
    for shape in ((0, 3, 2), (2,), ()):
        with pytest.raises(ValueError, match=r"Received logits of shape .* S >= 1 samples"):
            classify(mx.zeros(shape))
    for shape in ((0, 3), ()):
        with pytest.raises(ValueError, match=r"Received means of shape .* S >= 1 samples"):
            regress(mx.zeros(shape))


def test_what_is_no_array_of_real_numbers():
    with pytest.raises(
        TypeError, match=r"Received logits of type ndarray.*mx\.array\(logits\)"
    ):
        classify(np.zeros((2, 3)))
    with pytest.raises(TypeError, match=r"Received means of type tuple"):
        regress((mx.zeros(2), mx.zeros(2)))
    with pytest.raises(TypeError, match=r"Received means of dtype .*complex64.*real"):
        regress(mx.zeros((2, 3), dtype=mx.complex64))
    with pytest.raises(
        ValueError, match=r"Received variances of shape \(2,\).* the means, \(2, 3\)"
    ):
        regress(mx.zeros((2, 3)), mx.zeros(2))
