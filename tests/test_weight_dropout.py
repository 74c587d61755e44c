"""WeightDropout: dropout of a parameter within a call of any module."""

import copy
import pickle
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same, assert_trees_close, normal

import chandrop
from chandrop.functional import channel_mask
from chandrop.nn import (
    Dropout,
    WeightDropout,
    check_step,
    functional_call,
    get_keys,
    rekey,
    set_keys,
    stack_parameters,
)
from chandrop.random import example_keys, fold_in
from chandrop.thin import ThinDropout, ThinSequential
from chandrop.uncertainty import predict, sample

P = 0.4


@dataclass(frozen=True)
class Case:
    """A module, which of its parameters is dropped, and an input for it."""

    build: Any
    x: mx.array
    name: str = "weight"
    axes: int | tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def layer(self, p=P, key=None):
        mx.random.seed(3)
        key = mx.random.key(7) if key is None else key
        return WeightDropout(self.build(), p, self.axes, name=self.name, key=key)

    def by_hand(self, layer, key):
        """The plain module with the masked parameter in it, multiplied by NumPy."""
        module = layer.module
        weight = module[self.name]
        mask = channel_mask(weight.shape, layer.p, key, self.axes, weight.dtype)
        module[self.name] = mx.array(np.array(weight) * np.array(mask))
        return module


IMAGES = normal((3, 6, 6, 4))
CASES = {
    "DropConnect": Case(lambda: nn.Linear(4, 6), normal((3, 4))),
    "inputs": Case(lambda: nn.Linear(4, 6), normal((3, 4)), axes=0),
    "bias": Case(lambda: nn.Linear(4, 6), normal((3, 4)), "bias"),
    "words": Case(lambda: nn.Embedding(10, 4), mx.array([[1, 2, 9], [2, 2, 0]]), axes=1),
    "LSTM": Case(lambda: nn.LSTM(4, 6), normal((3, 5, 4)), "Wh"),
    "GRU": Case(lambda: nn.GRU(4, 6), normal((3, 5, 4)), "Wh"),
    "RNN": Case(lambda: nn.RNN(4, 6), normal((3, 5, 4)), "Whh"),
    "Bilinear": Case(lambda: nn.Bilinear(4, 4, 5), normal((3, 4))),
    "Conv1d": Case(lambda: nn.Conv1d(4, 8, 3), normal((3, 6, 4))),
    "filters": Case(lambda: nn.Conv2d(4, 8, 3), IMAGES, axes=(1, 2, 3)),
    "groups": Case(lambda: nn.Conv2d(4, 8, 3, groups=2), IMAGES),
    "depthwise": Case(lambda: nn.Conv1d(4, 4, 3, groups=4), normal((3, 6, 4))),
    "transposed": Case(lambda: nn.ConvTranspose2d(4, 8, 3), IMAGES),
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# MLX 0.32.4 has no vmap of an addmm over its bias alone.
each_mapped = pytest.mark.parametrize(
    "case", [case for name, case in CASES.items() if name != "bias"], ids=lambda c: c.name
)
some = pytest.mark.parametrize(
    "case", [CASES[name] for name in ("DropConnect", "words", "LSTM", "groups")]
)
# MLX's own checkpoint takes no integers.
each_but_words = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.axes != 1], ids=lambda c: c.name
)


def called(layer, case, **key):
    """The output, of an LSTM both the states and the cells."""
    x = (case.x, case.x) if isinstance(case.build(), nn.Bilinear) else (case.x,)
    y = layer(*x, **key)
    return mx.stack(y) if isinstance(y, tuple) else y


@each
def test_a_call_uses_the_masked_parameter(case, key):
    layer = case.layer()
    y = called(layer, case, key=key)
    assert_same(y, called(case.by_hand(layer, key), case))
    assert not mx.array_equal(y, called(layer.module, case))
    assert_same(called(layer, case, key=key[None]), y)
    assert_same(layer._key, mx.random.key(7))
    advanced, subkey = mx.random.split(layer._key)
    assert_same(called(layer, case), called(case.by_hand(layer, subkey), case))
    assert_same(layer._key, advanced)


def test_linear_by_numpy(key):
    layer, x = CASES["DropConnect"].layer(), np.array(CASES["DropConnect"].x)
    weight, bias = np.array(layer.weight), np.array(layer.bias)
    mask = np.array(mx.random.bernoulli(1 - P, weight.shape, key=key)) / (1 - P)
    expected = x @ (weight * mask).T + bias
    np.testing.assert_allclose(layer(mx.array(x), key=key), expected, rtol=1e-5, atol=1e-6)

    def loss(layer):
        return (layer(mx.array(x), key=key) * 2).sum()

    _, gradients = nn.value_and_grad(layer, loss)(layer)
    ones = np.full((3, 6), 2.0)
    np.testing.assert_allclose(gradients["weight"], ones.T @ x * mask, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradients["bias"], ones.sum(0), rtol=1e-6)


def test_a_dropped_word_is_dropped_wherever_it_occurs(key):
    layer, words = CASES["words"].layer(), mx.arange(20).reshape(4, 5) % 10
    kept = np.array(channel_mask((10, 4), P, key, 1))[np.array(words)]
    np.testing.assert_allclose(layer(words, key=key), np.array(layer.weight[words]) * kept)
    assert 0 < (kept == 0).sum() < kept.size


@each
def test_eval_mode_and_a_rate_of_zero_are_the_plain_module(case, key):
    expected = called(case.layer().module, case)
    for layer in (case.layer().eval(), case.layer(0)):
        assert_same(called(layer, case), expected)
        assert_same(called(layer, case, key=key), expected)
        assert_same(layer._key, mx.random.key(7))
    assert not mx.array_equal(called(case.layer().eval().train(), case), expected)


@each
def test_parameters_keep_their_names_and_values(case, tmp_path):
    layer = case.layer()
    mx.random.seed(3)
    plain = case.build()
    assert_trees_close(layer.parameters(), plain.parameters(), rtol=0, atol=0)
    called(layer, case)
    assert_trees_close(layer.parameters(), plain.parameters(), rtol=0, atol=0)
    models = nn.Sequential(case.build()), nn.Sequential(case.layer())
    for saved, loaded in (models, models[::-1]):
        saved.save_weights(str(tmp_path / "weights.safetensors"))
        loaded.load_weights(str(tmp_path / "weights.safetensors"), strict=True)
        assert_trees_close(loaded.parameters(), saved.parameters(), rtol=0, atol=0)


def test_what_is_frozen_stays_frozen():
    linear = nn.Linear(4, 6)
    linear.freeze(keys="bias")
    WeightDropout(linear, P).freeze()
    assert list(linear.trainable_parameters()) == ["weight"]
    layer = WeightDropout(linear, P)
    assert list(layer.trainable_parameters()) == ["weight"]
    assert list(layer.module.trainable_parameters()) == ["weight"]
    layer(mx.ones((2, 4)))
    assert list(layer.trainable_parameters()) == ["weight"]
    layer.freeze()
    assert layer.trainable_parameters() == {}
    layer.module.unfreeze()
    assert layer.trainable_parameters() == {}


def test_an_optimizer_trains_the_whole_parameter(key):
    """Dropped entries have no gradient, so they stay as they are."""
    layer, x = CASES["DropConnect"].layer(), CASES["DropConnect"].x
    before, optimizer = np.array(layer.weight), optim.SGD(0.1)
    _, gradients = nn.value_and_grad(layer, lambda m: m(x, key=key).sum())(layer)
    optimizer.update(layer, gradients)
    mask = np.array(channel_mask((6, 4), P, key, ()))
    step = 0.1 * np.array(x).sum(0) * mask
    np.testing.assert_allclose(layer.weight, before - step, rtol=1e-5, atol=1e-6)


def test_an_array_of_rates(key):
    rates = mx.array([0.0, 1.0, 0.5])[:, None]
    layer = WeightDropout(nn.Linear(4, 3), rates)
    weight = layer.draw(layer.module, key).weight
    assert_same(weight[0], layer.weight[0])
    assert mx.all(weight[1] == 0)
    assert "p" not in layer.parameters()
    assert "_p" not in layer.module


def test_a_rate_that_changes_in_a_compiled_step(compiles):
    layer, traces = WeightDropout(nn.Linear(4, 6), mx.array(0.5), key=mx.random.key(0)), []
    x = mx.ones((2, 4))

    def step(x):
        traces.append(x)
        return layer(x)

    step = mx.compile(step, inputs=layer.state, outputs=layer.state)
    for _ in range(2):
        mx.eval(step(x))
    traces.clear()
    for rate in (0.0, 1.0):
        layer.p = mx.array(rate)
        expected = x @ layer.weight.T * (1 - rate) + layer.bias
        np.testing.assert_allclose(step(x), expected, rtol=1e-5, atol=1e-6)
    assert not traces


@pytest.mark.parametrize("eval_mode", [False, True])
def test_a_key_for_each_example_is_refused(eval_mode, key):
    layer = CASES["DropConnect"].layer().train(not eval_mode)
    x, keys = CASES["DropConnect"].x, example_keys(key, 3)
    refused = r"keys of shape \(3, 2\).*all examples of a call share one weight"
    with pytest.raises(ValueError, match=refused):
        layer(x, key=keys)
    with pytest.raises(ValueError, match=r"keys of shape \(1, 1, 2\)"):
        layer(x, key=key[None, None])
    with pytest.raises(TypeError, match="a key of type int"):
        layer(x, key=0)
    if not eval_mode:
        with pytest.raises(ValueError, match=rf'In the layer at "layers\.0": .*{refused}'):
            functional_call(nn.Sequential(layer), {}, x, key=keys)


# Transforms.


@each_mapped
def test_vmap_over_keys_equals_the_loop(case, key):
    layer, keys = case.layer(), mx.random.split(key, 4)
    loop = mx.stack([called(layer, case, key=key) for key in keys])
    members = mx.vmap(lambda key: called(layer, case, key=key))(keys)
    np.testing.assert_allclose(members, loop, rtol=1e-5, atol=1e-6)
    batches = mx.vmap(
        lambda key: functional_call(nn.Sequential(layer), {}, case.x, key=key)
    )
    if not isinstance(case.build(), (nn.LSTM, nn.Bilinear)):
        nested = mx.vmap(mx.vmap(lambda key: layer(case.x, key=key[None])))
        np.testing.assert_allclose(
            nested(keys.reshape(2, 2, 2)).flatten(0, 1), loop, rtol=1e-5, atol=1e-6
        )
        assert batches(keys[:, None]).shape == loop.shape


@each_mapped
def test_vmap_folds_the_index_into_its_own_key(case):
    layer = case.layer()
    advanced, subkey = mx.random.split(layer._key)
    members = mx.vmap(lambda _: called(layer, case))(mx.arange(3))
    for i in range(3):
        expected = called(layer, case, key=fold_in(subkey, i))
        np.testing.assert_allclose(members[i], expected, rtol=1e-5, atol=1e-6)
    assert_same(layer._key, advanced)
    nested = mx.vmap(mx.vmap(lambda _: called(layer, case)))(mx.zeros((2, 3)))
    _, subkey = mx.random.split(advanced)
    expected = called(layer, case, key=fold_in(fold_in(subkey, 1), 2))
    np.testing.assert_allclose(nested[1, 2], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [CASES["groups"], CASES["depthwise"]])
def test_an_input_by_keyword_is_right_for_grouped_convolutions(case, key):
    layer, keys = case.layer(), mx.random.split(key, 3)
    members = mx.vmap(lambda key: layer(x=case.x, key=key))(keys)
    loop = mx.stack([layer(case.x, key=key) for key in keys])
    np.testing.assert_allclose(members, loop, rtol=1e-5, atol=1e-6)


@some
def test_vmap_over_parameters_and_keys(case, key):
    members, keys = (
        [WeightDropout(case.build(), P, case.axes, name=case.name) for _ in range(3)],
        mx.random.split(key, 3),
    )

    def call(parameters, key):
        y = functional_call(members[0], parameters, case.x, key=key)
        return y[0] if isinstance(y, tuple) else y

    stacked = mx.vmap(call)(stack_parameters(members), keys)
    loop = [call(m.parameters(), key) for m, key in zip(members, keys, strict=True)]
    np.testing.assert_allclose(stacked, mx.stack(loop), rtol=1e-5, atol=1e-6)


@some
def test_the_key_has_no_gradient(case, key):
    layer = case.layer()
    gradient = mx.grad(lambda key: called(layer, case, key=key).sum())(key)
    assert_same(gradient, mx.zeros_like(key))


@some
def test_compiled_equals_eager(case, compiles):
    eager, layer = case.layer(), case.layer()
    step = mx.compile(lambda: called(layer, case), inputs=layer.state, outputs=layer.state)
    for _ in range(3):
        np.testing.assert_allclose(step(), called(eager, case), rtol=1e-5, atol=1e-6)
        assert_same(layer._key, eager._key)
    forgetful = mx.compile(lambda x: layer(x))
    with pytest.raises(ValueError, match=r"keys of its random layers, WeightDropout\("):
        forgetful(case.x)


@each_but_words
@pytest.mark.parametrize(
    "wrap", [lambda m: nn.utils.checkpoint(m), chandrop.nn.checkpoint], ids=["mlx", "ours"]
)
def test_checkpoint(case, wrap):
    results = []
    for around in (lambda m: m, wrap):
        model = nn.Sequential(nn.Identity(), case.layer())

        def loss(model, around=around):
            y = called(around(model.layers[1]), case)
            return (y * mx.sin(y)).sum()

        value, gradients = nn.value_and_grad(model, loss)(model)
        keys = {"key": get_keys(model)["layers.1"]}
        results.append({"value": value, **dict(tree_flatten(gradients)), **keys})
        assert_trees_close(model.parameters(), {"layers": [{}, case.layer().parameters()]})
    assert_trees_close(*results)


def test_export_with_the_key_as_an_input(key, get_key, tmp_path):
    case = CASES["DropConnect"]
    layer, path = case.layer(), str(tmp_path / "layer.mlxfn")
    mx.export_function(path, lambda x, key: layer(x, key=key), case.x, key)
    imported = mx.import_function(path)
    for _ in range(2):
        key = get_key()
        (y,) = imported(case.x, key)
        np.testing.assert_allclose(y, layer(case.x, key=key), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"keys of its random layers, WeightDropout\("):
        mx.export_function(path, lambda x: layer(x), case.x)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_dtypes(dtype, key):
    case = CASES["DropConnect"]
    layer = case.layer()
    wide = layer.draw(layer.module, key).weight
    layer.set_dtype(dtype)
    narrow = layer.draw(layer.module, key).weight
    assert layer(case.x.astype(dtype), key=key).dtype == narrow.dtype == dtype
    assert mx.array_equal(narrow == 0, wide == 0)


# Tools for whole models.


def network():
    mx.random.seed(0)
    return nn.Sequential(
        WeightDropout(nn.Linear(4, 7), P), nn.ReLU(), WeightDropout(nn.Linear(7, 3), P)
    )


def test_predict_equals_the_loop(key):
    """For 4 examples, though the axis 0 of a weight has another length: it warns not."""
    model, x, keys = network().eval(), normal((4, 4)), mx.random.split(key, 5)
    before = {path: np.array(key) for path, key in get_keys(model).items()}
    loop = [functional_call(model, {}, x, key=key, dropout=True) for key in keys]
    np.testing.assert_allclose(sample(model, keys, x), mx.stack(loop), rtol=1e-5, atol=1e-6)
    expected = mx.softmax(mx.stack(loop), axis=-1).mean(0)
    for batch_size in (None, 3):
        probabilities = predict(model, keys, x, batch_size=batch_size).probabilities
        np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-6)
    assert not model.training
    for path, key in get_keys(model).items():
        np.testing.assert_array_equal(key, before[path])


def test_weights_of_convolutions_are_taken_key_by_key(key):
    """MLX has no vmap over the weights of volumes, and would warn."""
    model = nn.Sequential(
        WeightDropout(nn.Conv3d(2, 4, 2), P), lambda y: y.mean((1, 2, 3))
    ).eval()
    x, keys = normal((2, 3, 3, 3, 2)), mx.random.split(key, 3)
    loop = [functional_call(model, {}, x, key=key, dropout=True) for key in keys]
    np.testing.assert_allclose(sample(model, keys, x), mx.stack(loop), rtol=1e-5, atol=1e-6)
    assert model.layers[0]._weight_choosers == [model.layers[0]]
    assert WeightDropout(nn.Conv3d(2, 4, 2), P, name="bias")._weight_choosers == []
    assert WeightDropout(nn.Linear(2, 4), P)._weight_choosers == []


def test_keys_by_path(key):
    model, x = network(), normal((4, 4))
    rekey(model, key)
    saved, y = get_keys(model), model(x)
    assert list(saved) == ["layers.0", "layers.2"]
    assert not mx.array_equal(model(x), y)
    set_keys(model, saved)
    assert_same(model(x), y)


def test_check_step(compiles):
    model, optimizer = network(), optim.SGD(0.1)
    state = [model.state, optimizer.state]

    def train(x):
        loss, gradients = nn.value_and_grad(model, lambda m: m(x).square().mean())(model)
        optimizer.update(model, gradients)
        return loss

    carried = mx.compile(train, inputs=state, outputs=state)
    check_step(model, carried, normal((4, 4)), optimizer=optimizer)
    with pytest.raises(ValueError, match=r'draw the same.*"layers\.0", "layers\.2"'):
        check_step(model, mx.compile(lambda x: model(x)), normal((4, 4)))


def test_copies_and_pickles():
    case = CASES["LSTM"]
    layer = case.layer()
    pickled = pickle.loads(pickle.dumps(layer))
    assert_same(called(pickled, case), called(layer, case))
    for copied in (copy.copy(layer), copy.deepcopy(layer)):
        assert_trees_close(copied.parameters(), layer.parameters(), rtol=0, atol=0)
        assert not mx.array_equal(copied._key, layer._key)
        assert repr(copied) == repr(layer)
        copied.freeze()
        copied.hidden_size = 1
        assert layer.trainable_parameters()
        assert layer.hidden_size == 6


def test_a_thin_chain_takes_it_as_dense(key):
    mx.random.seed(0)
    dropped = WeightDropout(nn.Linear(8, 8), P)
    chain = ThinSequential(nn.Linear(4, 8), ThinDropout(0.5), dropped, nn.Linear(8, 2))
    plain = nn.Sequential(*chain.layers)
    x = normal((3, 4))
    y = functional_call(chain, {}, x, key=key)
    expected = functional_call(plain, {}, x, key=key)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


# The module within.


class Counting(nn.Module):
    """It changes its arrays and attributes in each call, but not its weight."""

    def __init__(self):
        super().__init__()
        self.weight = mx.ones(6)
        self.norm = nn.BatchNorm(6)
        self.calls, self.last, self.notes = 0, mx.zeros(6), [mx.zeros(())]
        self.cache = None

    def begin(self, last):
        self.calls, self.last = -1, last

    def __call__(self, x):
        self.calls += 1
        self.notes.append(mx.ones(()))
        if self.calls == 1:
            self.cache = x
        else:
            self.cache = None
            del self.last
        return self.norm(x * self.weight)


@pytest.mark.parametrize("training", [True, False])
def test_what_a_module_changes_is_kept_but_the_parameter(training):
    plain, layer = Counting(), WeightDropout(Counting(), P)
    layer.train(training)
    plain.train(training)
    x = normal((4, 6))
    for calls in (1, 2):
        layer(x)
        plain(x)
        assert layer.calls == plain.calls == calls
        assert layer.keys() - {"_key"} == plain.keys()
        assert (layer.cache is None) == (calls == 2)
    assert len(layer.notes) == 3
    assert_same(layer.weight, mx.ones(6))
    is_new = not mx.array_equal(layer.norm.running_mean, mx.zeros(6))
    assert is_new == training
    assert set(dict(tree_flatten(layer.parameters()))) == set(
        dict(tree_flatten(plain.parameters()))
    )


def test_running_statistics():
    norm, x = nn.BatchNorm(6), normal((4, 6))
    layer = WeightDropout(nn.BatchNorm(6), P)
    layer(x)
    norm(x)
    assert_same(layer.running_mean, norm.running_mean)
    assert list(layer.trainable_parameters()) == ["weight", "bias"]


def test_a_call_by_a_tool_changes_nothing(key):
    layer = WeightDropout(Counting(), P).eval()
    functional_call(layer, {}, normal((4, 6)), key=key, dropout=True)
    assert layer.calls == 0
    assert len(layer.notes) == 1
    assert_same(layer.norm.running_mean, mx.zeros(6))


def test_modules_within_keep_their_modes_in_a_call_by_a_tool(key):
    """BatchNorm in eval mode leaves its input as it is here, but for epsilon."""
    layer = WeightDropout(Counting(), 0.0).eval()
    x = normal((4, 6))
    y = functional_call(layer, {}, x, key=key, dropout=lambda path, layer: True)
    np.testing.assert_allclose(y, x, rtol=1e-4)


def test_a_module_keeps_its_mode_in_a_call_by_a_tool(key):
    layer, x = WeightDropout(nn.BatchNorm(6), 0.0).eval(), normal((4, 6))
    y = functional_call(layer, {}, x, key=key, dropout=True)
    np.testing.assert_allclose(y, x, rtol=1e-4)
    assert_same(layer.running_mean, mx.zeros(6))
    model = nn.Sequential(WeightDropout(nn.BatchNorm(6), P), nn.Linear(6, 3))
    keys = mx.random.split(key, 3)
    whole, cut = (predict(model, keys, x, batch_size=n).probabilities for n in (4, 2))
    np.testing.assert_allclose(whole, cut, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_a_module_that_changes_its_parameter(training):
    class Doubling(nn.Linear):
        def __call__(self, x):
            self.weight = self.weight * 2
            return super().__call__(x)

    layer = WeightDropout(Doubling(6, 6), P).train(training)
    weight = layer.weight
    with pytest.raises(ValueError, match='The Doubling changes its "weight" in a call'):
        layer(normal((4, 6)))
    assert layer.weight is weight
    norm = WeightDropout(nn.BatchNorm(6), P, name="running_mean")
    with pytest.raises(ValueError, match='The BatchNorm changes its "running_mean"'):
        norm(normal((4, 6)))


def test_a_module_that_holds_a_method_of_its_own():
    class Bound(nn.Linear):
        def __init__(self):
            super().__init__(6, 6)
            self.forward = self.project

        def project(self, x):
            return x @ self.weight

    with pytest.raises(
        ValueError, match="The Bound holds a method of its own as 'forward'"
    ):
        WeightDropout(Bound(), P)


def test_a_method_sees_the_whole_parameter():
    layer, x = CASES["words"].layer(), normal((3, 4))
    np.testing.assert_allclose(layer.as_linear(x), x @ layer.weight.T, rtol=1e-5, atol=1e-6)
    convolution = CASES["groups"].layer()
    assert (convolution.stride, convolution.groups) == ((1, 1), 2)
    convolution.stride = (2, 2)
    assert convolution(IMAGES).shape == (3, 2, 2, 8)
    with pytest.raises(AttributeError, match="'Conv2d' object has no attribute 'strides'"):
        _ = convolution.strides
    assert not hasattr(layer, "_anything")


def test_a_method_that_is_kept_sees_what_the_layer_holds_then():
    layer, x = CASES["words"].layer(), normal((3, 4))
    decoder = layer.as_linear
    layer.update({"weight": mx.ones((10, 4))})
    np.testing.assert_allclose(decoder(x), x @ mx.ones((4, 10)), rtol=1e-5, atol=1e-6)


def test_what_a_method_changes_is_kept():
    layer = WeightDropout(Counting(), P)
    layer.begin(mx.ones(6))
    assert layer.calls == -1
    assert_same(layer.last, mx.ones(6))
    assert_same(layer.module.last, mx.ones(6))


def test_quantize_leaves_it():
    model = nn.Sequential(WeightDropout(nn.Linear(64, 64), P), nn.Linear(64, 64))
    nn.quantize(model)
    assert type(model.layers[0]) is WeightDropout
    assert type(model.layers[1]) is nn.QuantizedLinear


def test_lora_leaves_it():
    class Fused(nn.Linear):
        def to_lora(self):
            return nn.Linear(4, 4)

    layer = WeightDropout(Fused(4, 4), P)
    assert not hasattr(layer, "to_lora")
    assert hasattr(layer.module, "to_lora")


def test_module_unwraps():
    linear = nn.Linear(4, 6)
    layer = WeightDropout(linear, mx.array(P)).eval()
    module = layer.module
    assert type(module) is nn.Linear
    assert module.keys() == linear.keys()
    assert vars(module).keys() == vars(linear).keys()
    assert module.weight is linear.weight
    assert not module.training
    assert layer.train().module.training
    module.weight = mx.zeros((6, 4))
    assert_same(layer.weight, linear.weight)
    assert WeightDropout(nn.Linear(4, 6).eval(), P).training is False


def test_repr():
    layer = WeightDropout(nn.LSTM(4, 6), 0.5, name="Wh")
    inner = "LSTM(input_dims=4, hidden_size=6, bias=True)"
    assert repr(layer) == f'WeightDropout({inner}, p=0.5, name="Wh")'
    layer = WeightDropout(nn.Embedding(10, 4), 0.1, 1)
    assert repr(layer) == "WeightDropout(Embedding(10, 4), p=0.1, spatial_axes=(1,))"
    assert "(norm): BatchNorm(6" in repr(WeightDropout(Counting(), 0.5))


# Bad input.


class Taken(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self._key = mx.zeros(2)


def inner():
    return nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: WeightDropout(nn.Linear, P), TypeError, "that is the class Linear itself"),
        (lambda: WeightDropout(mx.ones(2), P), TypeError, "of type array.*a plain mlx"),
        (lambda: WeightDropout(Dropout(P), P), TypeError, "a module of type Dropout"),
        (
            lambda: WeightDropout(WeightDropout(nn.Linear(2, 2), P), P, name="bias"),
            TypeError,
            "a module of type WeightDropout",
        ),
        (lambda: WeightDropout(nn.ReLU(), P), ValueError, "The ReLU has no parameters"),
        (
            lambda: WeightDropout(nn.LSTM(2, 2), P),
            ValueError,
            "The LSTM has no parameter 'weight'.*name='Wx', name='Wh', name='bias'",
        ),
        (
            lambda: WeightDropout(nn.Linear(2, 2), P, name=["Wh"]),
            TypeError,
            "name of type list",
        ),
        (
            lambda: WeightDropout(inner(), P, name="layers.0.weight"),
            ValueError,
            r"Wrap that module: model\.layers\[0\] = "
            r'WeightDropout\(model\.layers\[0\], p, name="weight"\)',
        ),
        (
            lambda: WeightDropout(inner(), P),
            ValueError,
            r"Sequential has no.*layers\.0\.weight",
        ),
        (
            lambda: WeightDropout(nn.Linear(64, 64).to_quantized(), P),
            TypeError,
            '"weight" is mlx.core.uint32, as if quantised',
        ),
        (lambda: WeightDropout(Taken(), P), ValueError, "a Taken with attributes _key"),
        (
            lambda: WeightDropout(nn.Linear(2, 2), P, 2),
            ValueError,
            'the parameter "weight": Received spatial axis 2',
        ),
        (lambda: WeightDropout(nn.Linear(2, 2), P, "a"), TypeError, "spatial axes such as"),
        (lambda: WeightDropout(nn.Linear(2, 2), 2), ValueError, "probability 2 is not in"),
        (
            lambda: WeightDropout(nn.Linear(2, 2), rate=P),
            TypeError,
            r"takes no rate=0.4. Expected p: WeightDropout\(module, p=0.4\)",
        ),
        (
            lambda: WeightDropout(nn.Linear(2, 2), P, key=mx.zeros((3, 2), mx.uint32)),
            ValueError,
            "Expected one key",
        ),
        (
            lambda: WeightDropout(nn.Linear(2, 2), mx.ones(3))(mx.ones((2, 2))),
            ValueError,
            "p of shape .3,., which does not broadcast",
        ),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_names_of_the_rate_are_the_modules_if_it_has_them():
    linear = nn.Linear(2, 2)
    linear.dropout = 0.3
    layer = WeightDropout(linear, P)
    layer.dropout = 0.2
    assert (layer.module.dropout, layer.p) == (0.2, P)
    with pytest.raises(AttributeError, match="Received rate for a WeightDropout"):
        layer.rate = 0.2


def test_the_name_cannot_be_set():
    layer = CASES["LSTM"].layer()
    for name in ("name", "spatial_axes"):
        with pytest.raises(AttributeError, match=f"A layer's {name} cannot be set"):
            setattr(layer, name, 1)
