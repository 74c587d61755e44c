"""Law 5 for layers with their own key: member ``i`` is masked by ``fold_in(subkey, i)``.

``subkey`` is what the layer splits off for the call; nested, it is folded once for each
level. The layer's key advances once, and holds nothing of the trace afterwards.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from models import MODELS
from subjects import LAYERS, assert_same, normal

from chandrop import _mlx
from chandrop.nn import Dropout, Dropout2d, functional_call, stack_parameters
from chandrop.random import fold_in
from chandrop.thin import ThinDropout, ThinDropPath, ThinSequential

each = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)


def subkeys(key, members):
    """The layer's next key, and those of the members."""
    advanced, subkey = mx.random.split(key)
    return advanced, [fold_in(subkey, i) for i in range(members)]


@each
def test_over_inputs(layer, key):
    built, xs = layer.build(key), normal((3, *layer.shape))
    ys = mx.vmap(built)(xs)
    advanced, keys = subkeys(key, 3)
    assert_same(built._key, advanced)
    for i in range(3):
        assert_same(ys[i], built(xs[i], key=keys[i]))
    assert not mx.array_equal(ys[0], built(xs[0], key=keys[1]))
    # Nothing of the trace is left, so it goes on as any layer does.
    assert_same(built(xs[0]), layer.build(advanced)(xs[0]))


@each
def test_nested(layer, key):
    built, xs = layer.build(key), normal((2, 3, *layer.shape))
    ys = mx.vmap(mx.vmap(built))(xs)
    advanced, keys = subkeys(key, 2)
    assert_same(built._key, advanced)
    for i in range(2):
        for j in range(3):
            assert_same(ys[i, j], built(xs[i, j], key=fold_in(keys[i], j)))


@each
def test_keys_that_are_given_are_used_as_they_are(layer, key):
    built, x = layer.build(key), normal(layer.shape)
    keys = mx.random.split(mx.random.key(3), 3)
    by_call = mx.vmap(lambda key: built(x, key=key))(keys)
    by_tool = mx.vmap(lambda key: functional_call(built, {}, x, key=key))(keys)
    for i in range(3):
        assert_same(by_call[i], built(x, key=keys[i]))
        assert_same(by_tool[i], functional_call(built, {}, x, key=keys[i]))
    alike = mx.vmap(lambda x: functional_call(built, {}, x, key=key))(mx.stack([x, x]))
    assert_same(alike[0], alike[1])
    assert_same(built._key, key)


def test_vmap_inside_of_a_model_that_is_given_a_key(key):
    """The members inside differ; those outside have the keys that they were given."""

    class OverFrames(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = Dropout()

        def __call__(self, frames):
            return mx.vmap(self.dropout)(frames)

    model, frames = OverFrames(), mx.ones((2, 4, 8))
    y = functional_call(model, {}, frames, key=key)
    assert not mx.array_equal(y[0], y[1])
    keys = mx.random.split(key, 3)
    ys = mx.vmap(lambda key: functional_call(model, {}, frames, key=key))(keys)
    for i in range(3):
        assert_same(ys[i], functional_call(model, {}, frames, key=keys[i]))


@pytest.mark.parametrize("axis", [0, 1, -1, -2, -3, (0,), (-1,)], ids=str)
def test_axes_of_one_argument(axis, key):
    layer, (_, keys) = Dropout(key=key), subkeys(key, 3)
    number = axis[0] if isinstance(axis, tuple) else axis
    xs = mx.moveaxis(normal((3, 4, 5)), 0, number)
    ys = mx.vmap(layer, in_axes=axis, out_axes=number)(xs)
    for i in range(3):
        x = mx.take(xs, i, axis=number)
        assert_same(mx.take(ys, i, axis=number), layer(x, key=keys[i]))


@pytest.mark.parametrize(
    ("in_axes", "arguments"),
    [
        ((0, None), (normal((3, 4)), mx.array(2.0))),
        ((None, 0), (normal((4,)), mx.array([1.0, 2.0, 3.0]))),
        ((None, -1), (normal((4,)), normal((4, 3)))),
        ({"x": 0, "s": None}, ({"x": normal((3, 4)), "s": mx.array(2.0)},)),
        (({"s": 0}, None), ({"s": normal((3, 1))}, normal((4,)))),
        ([None, (0, None)], ([normal((4,)), (normal((3, 1)), mx.array(2.0))],)),
        (0, ([normal((3, 4)), {"s": normal((3, 1))}],)),
        ((None, 1), ((normal((4,)), normal((4, 3))),)),
    ],
    ids=str,
)  # fmt: skip
def test_axes_in_trees(in_axes, arguments, key):
    layer, (_, keys) = Dropout(key=key), subkeys(key, 3)

    def combined(*arguments):
        leaves = []
        tree_map(leaves.append, arguments)
        return sum(leaf * mx.ones(4) for leaf in leaves)

    ys = mx.vmap(lambda *a: layer(combined(*a)), in_axes=in_axes)(*arguments)
    inputs = _mlx.vmap(combined, in_axes=in_axes)(*arguments)
    for i in range(3):
        assert_same(ys[i], layer(inputs[i], key=keys[i]))


def test_only_parameters_are_batched(key):
    """An ensemble with weights of its own, one input for all."""
    members = [nn.Sequential(nn.Linear(4, 8), Dropout(key=key)) for _ in range(3)]
    model, x = members[0], normal((5, 4))

    def member(parameters):
        model.update(parameters)
        return model(x)

    own = model.parameters()
    ys = mx.vmap(member)(stack_parameters(members))
    model.update(own)
    advanced, keys = subkeys(key, 3)
    assert_same(model.layers[1]._key, advanced)
    for i in range(3):
        expected = model.layers[1](members[i].layers[0](x), key=keys[i])
        assert mx.allclose(ys[i], expected, rtol=1e-5)
        assert mx.array_equal(ys[i] == 0, expected == 0)


def test_vmap_of_a_gradient(key):
    layer, xs = Dropout(key=key), normal((3, 4))
    gradients = mx.vmap(mx.grad(lambda x: (layer(x) ** 2).sum()))(xs)
    advanced, keys = subkeys(key, 3)
    assert_same(layer._key, advanced)
    for i in range(3):
        expected = mx.grad(lambda x, k=keys[i]: (layer(x, key=k) ** 2).sum())(xs[i])
        assert_same(gradients[i], expected)


@pytest.mark.parametrize("compile_it", [False, True], ids=["eager", "compiled"])
def test_gradient_of_a_vmap(compile_it, key, request):
    if compile_it:
        request.getfixturevalue("compiles")
    layer, xs = Dropout(key=key), normal((3, 4))

    def function(xs):
        return mx.value_and_grad(lambda xs: (mx.vmap(layer)(xs) ** 2).sum())(xs)

    if compile_it:
        function = mx.compile(function, inputs=layer.state, outputs=layer.state)
    for _ in range(3):
        value, gradients = function(xs)
        key, keys = subkeys(key, 3)
        assert_same(layer._key, key)
        masked = mx.stack([layer(xs[i], key=keys[i]) for i in range(3)])
        assert mx.allclose(value, (masked**2).sum(), rtol=1e-5)
        assert mx.allclose(gradients, 4 * masked, rtol=1e-5)


def test_a_compiled_function_in_a_vmap(compiles, key):
    """Also one whose arguments are not mapped over: MLX would call what it has compiled."""
    layer, x = Dropout(key=key), normal((4,))
    compiled = mx.compile(layer, inputs=layer.state, outputs=layer.state)
    eager = Dropout(key=key)
    for _ in range(3):
        assert_same(compiled(x), eager(x))
    advanced, keys = subkeys(layer._key, 3)
    scales = mx.array([1.0, 2.0, 4.0])
    inside = mx.vmap(lambda scale: scale * compiled(x))(scales)
    assert_same(layer._key, advanced)
    for i in range(3):
        assert_same(inside[i], scales[i] * layer(x, key=keys[i]))
    advanced, keys = subkeys(layer._key, 3)
    outside = mx.vmap(compiled)(mx.stack([x, x, x]))
    for i in range(3):
        assert_same(outside[i], layer(x, key=keys[i]))
    assert_same(compiled(x), Dropout(key=advanced)(x))


def test_a_layer_with_a_key_for_each_example(key):
    layer, xs = Dropout(), normal((3, 4, 5))
    layer._key = mx.random.split(key, 4)
    split = [mx.random.split(layer._key[i]) for i in range(4)]
    ys = mx.vmap(layer)(xs)
    assert_same(layer._key, mx.stack([pair[0] for pair in split]))
    batch = mx.stack([pair[1] for pair in split])
    for i in range(3):
        assert_same(ys[i], layer(xs[i], key=fold_in(batch, i)))


def test_a_layer_that_is_called_twice(key):
    layer, xs = Dropout(key=key), normal((3, 6))
    ys = mx.vmap(lambda x: (layer(x), layer(x)))(xs)
    for y in ys:
        key, keys = subkeys(key, 3)
        for i in range(3):
            assert_same(y[i], layer(xs[i], key=keys[i]))
    assert_same(layer._key, key)


def test_a_thin_chain(key):
    chain = ThinSequential(nn.Linear(6, 8), nn.ReLU(), ThinDropout(0.5), nn.Linear(8, 3))
    dropout, xs = chain.layers[2], normal((3, 4, 6))
    dropout._key = key
    ys = mx.vmap(chain)(xs)
    advanced, keys = subkeys(key, 3)
    assert_same(dropout._key, advanced)
    for i in range(3):
        hidden = dropout(nn.relu(chain.layers[0](xs[i])), key=keys[i])
        np.testing.assert_allclose(ys[i], chain.layers[3](hidden), rtol=1e-4, atol=1e-5)


def test_a_thin_drop_path(key):
    layer, xs = ThinDropPath(0.5, key=key), normal((3, 4, 6))
    ys = mx.vmap(lambda x: layer(x, mx.sin))(xs)
    advanced, keys = subkeys(key, 3)
    assert_same(layer._key, advanced)
    for i in range(3):
        assert_same(ys[i], layer(xs[i], mx.sin, key=keys[i]))
    assert not mx.array_equal(ys[0] == 0, ys[1] == 0)


def test_layers_that_are_off_or_keep_all(key):
    for layer in (Dropout(key=key).eval(), Dropout(0, key=key), Dropout2d(0.0, key=key)):
        xs = normal((3, 4, 5, 6))
        assert_same(mx.vmap(layer)(xs), xs)
        assert_same(layer._key, key)


@pytest.mark.parametrize("subject", MODELS, ids=lambda subject: subject.name)
def test_whole_models(subject):
    """As plain calls of each layer would have it: all members differ."""
    model, x = subject.make(), subject.x()
    xs = mx.stack([x, x, x])
    ys = mx.vmap(model)(xs)
    assert not mx.allclose(ys[0], ys[1], atol=1e-3)
    assert not mx.allclose(ys[1], ys[2], atol=1e-3)
    assert model(x).shape == ys.shape[1:]
