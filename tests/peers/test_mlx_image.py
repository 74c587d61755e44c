"""Models that others wrote, from mlx-image, converted: they are what they were, with keys.

In training mode mlx-image draws its stochastic depth by hand, from the global stream, and
Swin's dropout of attention fails. So these models are in eval mode here, where
``dropout=True`` turns chandrop's layers on.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlxim.model.efficientnet._factory import efficientnet_b0
from mlxim.model.swin_transformer.swin_transformer import SwinTransformer
from mlxim.model.vit.vit import VisionTransformer
from subjects import assert_same

import chandrop
from chandrop.nn import convert, functional_call, get_keys, revert
from chandrop.random import example_keys


def efficientnet():
    return efficientnet_b0(num_classes=10)


def swin():
    return SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], dropout=0.2, num_classes=10)


def vit():
    return VisionTransformer(32, 8, 2, 2, 16, 32, dropout=0.1, num_classes=10)


# The dropout layers of each, counted in its source.
LAYERS = {efficientnet: 1, swin: 8, vit: 7}

X = mx.random.normal((3, 32, 32, 3), key=mx.random.key(1))


@pytest.fixture(params=LAYERS, ids=lambda build: build.__name__)
def build(request):
    return request.param


@pytest.fixture
def model(build):
    mx.random.seed(0)
    model = build()
    if build is efficientnet:
        # Without statistics of its own BatchNorm lets the features vanish.
        for _ in range(20):
            mx.eval(model(X), model.state)
    return model.eval()


def output(y):
    """Of the logits and the attention that some give, the logits."""
    return y[0] if isinstance(y, tuple) else y


def described(model):
    return {path: (id(m), m.training) for path, m in model.named_modules()}


def test_convert(build, model, tmp_path):
    path = str(tmp_path / "weights.safetensors")
    model.save_weights(path)
    expected, before = output(model(X)), described(model)
    theirs = [p for p, m in model.named_modules() if isinstance(m, nn.Dropout)]
    assert convert(model) is model
    assert sorted(get_keys(model)) == sorted(theirs)
    assert len(theirs) == LAYERS[build]
    assert described(model) == before
    model.load_weights(path, strict=True)
    assert_same(output(model(X)), expected)
    for path, layer in model.named_modules():
        if path in theirs:
            assert type(layer) is chandrop.nn.Dropout
    revert(model)
    assert_same(output(model(X)), expected)
    assert described(model) == before


def test_pure_in_the_key(model, key):
    convert(model)
    plain = output(model(X))

    def call(key):
        return output(functional_call(model, {}, X, key=key, dropout=True))

    keys = mx.random.split(key, 2)
    one, other = call(keys[0]), call(keys[1])
    assert_same(call(keys[0]), one)
    assert not mx.allclose(one, other)
    np.testing.assert_allclose(
        mx.vmap(call)(keys), mx.stack([one, other]), rtol=1e-4, atol=1e-5
    )
    assert_same(output(model(X)), plain)


def test_cut_batch_and_gradients(model, key):
    convert(model)
    # Swin keeps integer indices among its parameters, of which MLX takes no gradient.
    model.freeze(keys="relative_position_index")

    def loss(parameters, x, offset):
        keys = example_keys(key, len(x), offset)
        y = output(functional_call(model, parameters, x, key=keys, dropout=True))
        return (y**2).sum()

    def gradients(start, stop):
        gradient = mx.grad(loss)(model.trainable_parameters(), X[start:stop], start)
        return dict(tree_flatten(gradient))

    whole, parts = gradients(0, 3), (gradients(0, 2), gradients(2, 3))
    for name, gradient in whole.items():
        np.testing.assert_allclose(
            parts[0][name] + parts[1][name],
            gradient,
            rtol=1e-3,
            atol=1e-4 * max(1.0, mx.abs(gradient).max().item()),
            err_msg=name,
        )
