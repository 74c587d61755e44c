"""Thin stochastic depth: the masked branch, computed for the examples that are kept."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same, assert_trees_close, normal

from chandrop.nn import Dropout, checkpoint, functional_call, get_keys, rekey
from chandrop.random import example_keys
from chandrop.thin import ThinDropPath, keep_channels, thin_drop_path, thin_dropout_channels
from chandrop.uncertainty import predict, sample

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def masked(x, p, key, branch):
    """The branch for all examples, masked: the dense counterpart."""
    y = branch(x)
    return thin_dropout_channels(y, p, key, range(1, y.ndim))


class Block(nn.Module):
    """A residual block, thin or masked; the branch may have any output for an example."""

    def __init__(self, function, p=0.4):
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 6)
        self.drop_path = ThinDropPath(p)
        self.function = function

    def branch(self, x):
        return self.second(mx.tanh(self.first(x)))

    def __call__(self, x):
        if self.function == "thin":
            return x + self.drop_path(x, self.branch)
        self.drop_path._key, key = mx.random.split(self.drop_path._key)
        return x + masked(x, 0.4, key, self.branch)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(10, 6), (7, 3, 6), (1, 6), (5, 2, 3, 6)], ids=str)
def test_it_is_the_masked_branch(shape, p, key):
    linear = nn.Linear(6, 4)
    x, cotangent = normal(shape), normal((*shape[:-1], 4), seed=2)

    def loss(call):
        def loss(x, parameters):
            linear.update(parameters)
            return (call(x, p, key, lambda x: mx.tanh(linear(x))) * cotangent).sum()

        return loss

    parameters = linear.parameters()
    thin = mx.value_and_grad(loss(thin_drop_path), argnums=(0, 1))(x, parameters)
    dense = mx.value_and_grad(loss(masked), argnums=(0, 1))(x, parameters)
    np.testing.assert_allclose(thin[0], dense[0], **TOLERANCE)
    np.testing.assert_allclose(thin[1][0], dense[1][0], **TOLERANCE)
    assert_trees_close(thin[1][1], dense[1][1], **TOLERANCE)


@pytest.mark.parametrize("examples", [1, 2, 7, 10])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.4, 0.75])
def test_the_branch_gets_the_kept_examples_alone(examples, p, key):
    x, seen = normal((examples, 3)), []

    def branch(x):
        seen.append(x)
        return x * 10

    y = thin_drop_path(x, p, key, branch)
    kept = np.array(keep_channels(key, examples, p)).astype(int)
    assert len(kept) == max(1, round((1 - p) * examples))
    np.testing.assert_array_equal(seen[0], np.array(x)[kept])
    expected = np.zeros((examples, 3), np.float32)
    expected[kept] = np.array(x)[kept] * 10 * examples / len(kept)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_what_else_the_branch_takes_of_each_example(key):
    x, scale, shift = normal((6, 3)), normal((6, 1), seed=2), normal((6, 3), seed=3)

    def branch(x, scale, shift):
        return mx.tanh(x * scale) + shift

    expected = masked(x, 0.5, key, lambda x: branch(x, scale, shift))
    y = thin_drop_path(x, 0.5, key, branch, scale, shift)
    np.testing.assert_allclose(y, expected, **TOLERANCE)
    layer = ThinDropPath(0.5)
    assert_same(layer(x, branch, scale, shift, key=key), y)
    assert_same(layer.eval()(x, branch, scale, shift), branch(x, scale, shift))
    with pytest.raises(ValueError, match=r"inputs of 6, 6, 5 examples\. Expected equal"):
        thin_drop_path(x, 0.5, key, branch, scale, shift[:5])
    with pytest.raises(TypeError, match=r"Expected an mx\.array"):
        layer(x, branch, scale, 1.0)

    def masked_if_given(x, mask):
        return x if mask is None else x * mask

    expected = masked(x, 0.5, key, mx.array)
    y = ThinDropPath(0.5)(x, masked_if_given, None, key=key)
    np.testing.assert_allclose(y, expected, **TOLERANCE)


def test_derivatives_of_second_order_and_forward(key):
    def call(x):
        return thin_drop_path(x, 0.5, key, lambda x: x**3)

    x, tangent = normal((6, 3)), normal((6, 3), seed=2)
    mask = thin_dropout_channels(mx.ones((6, 3)), 0.5, key, 1)
    _, (forward,) = mx.jvp(call, [x], [tangent])
    np.testing.assert_allclose(forward, mask * 3 * x**2 * tangent, **TOLERANCE)
    second = mx.grad(lambda x: (mx.grad(lambda x: call(x).sum())(x) * tangent).sum())(x)
    np.testing.assert_allclose(second, mask * 6 * x * tangent, **TOLERANCE)


def test_it_is_no_subnetwork(key):
    """Which examples are kept depends on the batch."""
    model, keys = Block("thin"), mx.random.split(key, 2)
    for function in (predict, sample):
        with pytest.raises(ValueError, match=r'ThinDropPath at "drop_path"\. Which'):
            function(model, keys, normal((4, 6)))
    model = nn.Sequential(model, Dropout(0.5))
    model.layers[0].drop_path.p = 0
    predict(model, keys, normal((4, 6)))
    model.layers[0].drop_path.p = 0.5

    def others(path, layer):
        return not isinstance(layer, ThinDropPath)

    summary = predict(model, keys, normal((4, 6)), dropout=others)
    assert summary.probabilities.shape == (4, 6)


def test_vmap(get_key):
    keys = mx.stack([get_key() for _ in range(4)])
    x, linear = normal((6, 3)), nn.Linear(3, 3)
    together = mx.vmap(lambda key: thin_drop_path(x, 0.5, key, linear))(keys)
    for i, key in enumerate(keys):
        one = thin_drop_path(x, 0.5, key, linear)
        np.testing.assert_allclose(together[i], one, **TOLERANCE)


def test_checkpoint_and_export(key, tmp_path):
    def call(x, key):
        return thin_drop_path(x, 0.5, key, mx.tanh)

    x = normal((6, 3))
    gradient = mx.grad(lambda x: (call(x, key) ** 2).sum())(x)
    again = mx.grad(lambda x: (mx.checkpoint(call)(x, key) ** 2).sum())(x)
    assert_same(again, gradient)
    path = str(tmp_path / "path.mlxfn")
    mx.export_function(path, call, x, mx.random.key(99))
    assert_same(mx.import_function(path)(x, key)[0], call(x, key))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.complex64], ids=str)
def test_dtypes(dtype, key):
    y = thin_drop_path(normal((4, 3)).astype(dtype), 0.5, key, lambda x: x * 2)
    assert y.dtype == dtype


def test_any_input_with_a_batch(key):
    """Also tokens, which are no floating-point numbers."""
    embedding = nn.Embedding(10, 4)
    tokens = mx.array([[1, 2], [3, 4], [5, 6]])
    y = thin_drop_path(tokens, 1 / 3, key, embedding)
    expected = masked(tokens, 1 / 3, key, embedding)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_empty_batch(key):
    assert thin_drop_path(mx.zeros((0, 3)), 0.5, key, lambda x: x * 2).shape == (0, 3)
    assert ThinDropPath(0.5)(mx.zeros((0, 3)), lambda x: x * 2).shape == (0, 3)


def test_the_layer_trains_as_the_masked_block(compiles, key):
    """Compiled steps, each with its own choice; keys and parameters agree."""

    def train(function):
        mx.random.seed(3)
        model = Block(function)
        rekey(model, key)
        optimizer = mlx.optimizers.SGD(0.1)
        optimizer.init(model.trainable_parameters())
        state, traces = [model.state, optimizer.state], []

        def step(x):
            traces.append(x)
            loss, gradient = nn.value_and_grad(model, lambda m, x: (m(x) ** 2).mean())(
                model, x
            )
            optimizer.update(model, gradient)
            return loss

        # The masked one eagerly, since every kernel takes a second to compile.
        if function == "thin":
            step = mx.compile(step, inputs=state, outputs=state)
        losses = [step(normal((10, 6), seed=i)).item() for i in range(4)]
        assert len(traces) <= 2 or function == "masked"
        return losses, model

    thin, dense = train("thin"), train("masked")
    np.testing.assert_allclose(thin[0], dense[0], **TOLERANCE)
    assert_trees_close(thin[1].parameters(), dense[1].parameters(), **TOLERANCE)
    assert_same(*(get_keys(model)["drop_path"] for _, model in (thin, dense)))


def test_tools_for_whole_models(key):
    model = Block("thin").eval()
    x = normal((10, 6))
    np.testing.assert_allclose(model(x), x + model.branch(x), rtol=1e-6)
    y = functional_call(model, {}, x, key=key, dropout=True)
    changed = np.array((y != x).any(1))
    assert changed.sum() == 6
    model.train()
    rekey(model, key)
    np.testing.assert_allclose(checkpoint(model)(x), y, rtol=1e-6)
    assert [name for name, _ in tree_flatten(model.parameters())] == [
        "first.weight",
        "first.bias",
        "second.weight",
        "second.bias",
    ]
    with pytest.raises(ValueError, match=r'layer at "drop_path": Received keys of shape'):
        functional_call(model, {}, x, key=example_keys(key, 10))


def test_errors_of_the_branch_are_its_own(key):
    def branch(x):
        raise ValueError("as it was")

    with pytest.raises(ValueError, match=r"^as it was$"):
        functional_call(nn.Sequential(ThinPath(branch)), {}, mx.ones((4, 2)), key=key)


class ThinPath(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.drop_path, self.branch = ThinDropPath(0.5), branch

    def __call__(self, x):
        return self.drop_path(x, self.branch)


@pytest.mark.parametrize("examples", [0, 4])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("training", [True, False])
def test_what_a_branch_returns_is_checked_also_where_all_is_kept(
    examples, p, training, key
):
    x, layer = mx.ones((examples, 3)), ThinDropPath(p).train(training)
    for call in (layer, lambda x, branch: thin_drop_path(x, p, key, branch)):
        with pytest.raises(TypeError, match=r"branch that returns tuple\. Expected one"):
            call(x, lambda x: (x, x))
        with pytest.raises(ValueError, match=r"Expected one output for each of them"):
            call(x, lambda x: mx.ones((5, 3)))


def test_statistics_are_those_of_the_kept_examples(key):
    x, norm = normal((8, 3)), nn.BatchNorm(3, momentum=1.0)
    thin_drop_path(x, 0.5, key, norm)
    kept = mx.take(x, keep_channels(key, 8, 0.5), axis=0)
    np.testing.assert_allclose(norm.running_mean, kept.mean(0), rtol=1e-5)


def test_bad_inputs(key):
    x, layer = mx.ones((4, 3)), ThinDropPath(0.5)
    with pytest.raises(TypeError, match=r"branch of type array\. .*not its output"):
        layer(x, x)
    with pytest.raises(
        TypeError, match=r"NoneType\. .* x \+ drop_path\(x, branch\), where"
    ):
        layer(x)
    with pytest.raises(TypeError, match=r"branch of type array\. .*not its output"):
        thin_drop_path(x, 0.5, key, x)
    for call in (layer, lambda x, branch: thin_drop_path(x, 0.5, key, branch)):
        with pytest.raises(ValueError, match=r"shape \(3,\) for 2 examples\. Expected one"):
            call(x, lambda x: x.sum(0))
        with pytest.raises(
            TypeError, match=r"branch that returns list\. Expected one mx\.ar"
        ):
            call(x, lambda x: [1.0])
        with pytest.raises(
            TypeError, match=r"branch that returns mlx\.core\.bool\. Expected"
        ):
            call(x, lambda x: x > 0)
        with pytest.raises(ValueError, match=r"Received a scalar"):
            call(mx.array(1.0), lambda x: x)
        with pytest.raises(TypeError, match=r"Expected an mx\.array"):
            call([1.0], lambda x: x)
        with pytest.raises(TypeError, match="a branch that is the class Linear itself"):
            call(x, nn.Linear)
    for keys in (example_keys(key, 4), example_keys(key, 3)):
        with pytest.raises(ValueError, match=r"keys of shape .*Expected one key"):
            layer(x, mx.tanh, key=keys)
    for p, error in ((1, ValueError), (mx.array(0.5), TypeError), (-1, ValueError)):
        with pytest.raises(error):
            ThinDropPath(p)
        with pytest.raises(error):
            thin_drop_path(x, p, key, mx.tanh)
