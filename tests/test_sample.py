"""sample: a function, or a model's subnetworks, for every key."""

import copy
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from subjects import assert_same, normal

from chandrop.functional import dropout, dropout2d
from chandrop.nn import Dropout, functional_call
from chandrop.random import fold_in
from chandrop.uncertainty import predict, sample

CHUNKS = [None, 1, 2, 3, 5, 7, 8]


class Output(NamedTuple):
    mean: mx.array
    others: list


def network(key, x, scale):
    y = dropout2d(x, 0.3, key) * scale
    return {"y": y, "more": Output(y.mean(), [y > 0, x, mx.zeros(2)])}


@pytest.mark.parametrize("chunk", CHUNKS)
def test_it_is_the_loop(chunk, key):
    keys, x = mx.random.split(key, 4), normal((2, 3, 3, 8))
    samples = sample(network, keys, x, 2.0, chunk=chunk)
    assert type(samples["more"]) is Output
    for i in range(4):
        one = network(keys[i], x, 2.0)
        assert_same(samples["y"][i], one["y"])
        assert samples["more"].mean[i].item() == pytest.approx(one["more"].mean.item())
        assert mx.array_equal(samples["more"].others[0][i], one["more"].others[0])
        assert_same(samples["more"].others[1][i], x)
        assert samples["more"].others[2].shape == (4, 2)


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_of_a_model_each_key_is_one_subnetwork(chunk, key):
    model = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3), Dropout(0.2))
    model.eval()
    keys, x = mx.random.split(key, 4), mx.broadcast_to(normal((4,)), (6, 4))
    samples = sample(model, keys, x, chunk=chunk)
    assert samples.shape == (4, 6, 3)
    assert mx.allclose(samples, mx.broadcast_to(samples[:, :1], (4, 6, 3)), rtol=1e-5)
    assert not mx.allclose(samples[0], samples[1])
    assert isinstance(model.layers[1], nn.Dropout)
    # The key that chooses a subnetwork is that of functional_call.
    alone = nn.Sequential(nn.Identity(), Dropout(0.5))
    drawn = sample(alone, keys, mx.ones((6, 32)))
    for i in range(4):
        y = functional_call(alone, {}, mx.ones((6, 32)), key=keys[i][None], dropout=True)
        assert_same(drawn[i], y)


def test_chosen_layers(key):
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity(), Dropout(0.5))
    keys, x = mx.random.split(key, 8), mx.ones((1, 64))
    last = sample(model, keys, x, dropout=lambda path, layer: path == "layers.2")
    assert set(last.flatten().tolist()) == {0, 2}
    assert set(sample(model, keys, x).flatten().tolist()) == {0, 4}


@pytest.mark.parametrize("tool", [sample, predict])
def test_arguments_that_choose_no_layers(tool, key):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    keys, x = mx.random.split(key, 8), mx.ones((3, 4))
    with pytest.raises(ValueError, match=r"dropout = False and 8 keys.* the same.*\[:1\]"):
        tool(model, keys, x, dropout=False)
    whole = tool(model, keys[:1], x, dropout=False)
    if tool is sample:
        assert_same(whole[0], model.eval()(x))
    else:
        assert mx.allclose(whole.probabilities, mx.softmax(model.eval()(x), -1), atol=1e-6)
    for function in (
        lambda path: True,
        lambda: True,
        lambda a, b, c: True,
        nn.Dropout(0.5),
    ):
        with pytest.raises(TypeError, match=r"a function of a path.*lambda path, layer"):
            tool(model, keys, x, dropout=function)
    for function in (lambda path, layer, more=0: True, lambda *args: True):
        tool(model, keys, x, dropout=function)
    for kind in (nn.Dropout, Dropout):
        with pytest.raises(TypeError, match=r"Received dropout = <class .*Drop") as error:
            tool(model, keys, x, dropout=kind)
        tool(model, keys, x, dropout=eval(str(error.value).split("dropout=")[1][:-1]))
    with pytest.raises(
        TypeError, match=r"the class Linear.* an instance, Linear\(\.\.\.\)"
    ):
        tool(nn.Linear, keys, x)


@pytest.mark.parametrize("tool", [sample, predict])
@pytest.mark.parametrize("flag", [1, 0, "no", None, mx.array(True)])
def test_flags_that_are_no_bools(tool, flag, key):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    keys, x = mx.random.split(key, 8), mx.ones((3, 4))
    for name in ["progress"] + ["consistent"] * (tool is predict):
        with pytest.raises(TypeError, match=rf"Received {name} = .*Expected True or False"):
            tool(model, keys, x, **{name: flag})


SWAPPED = {
    "draws": lambda x, key: dropout(x, 0.5, key),
    "draws with MLX": lambda x, k: x * mx.random.bernoulli(0.5, x.shape, key=k),
    "multiplies first": lambda x, key: x @ mx.ones((4, 3)),
    "returns it": lambda x, key: x * 1.0,
}


@pytest.mark.parametrize("name", SWAPPED)
@pytest.mark.parametrize("tool", [sample, predict])
@pytest.mark.parametrize("chunk", [None, 1])
def test_functions_that_take_the_key_last(tool, name, chunk, key):
    keys, x = mx.random.split(key, 8), mx.ones((3, 4))
    if tool is sample and name == "returns it":
        return  # which is what was asked for
    with pytest.raises(TypeError, match=r"The key comes first: lambda key, x: \.\.\., not"):
        tool(SWAPPED[name], keys, x, chunk=chunk)


def test_functions_of_keys_that_are_not_random(key):
    def attention(rng, query, key):
        return dropout(query @ key.T, 0.5, rng)

    keys, x = mx.random.split(key, 8), mx.ones((3, 4))
    assert sample(attention, keys, x, x).shape == (8, 3, 3)


class Mixture(nn.Module):
    """Chooses one of the experts for each token, as mlx-lm's layers do."""

    def __init__(self):
        super().__init__()
        self.weight = normal((2, 8, 3))

    def __call__(self, x):
        experts = (x.sum(-1) > 0).astype(mx.uint32)[:, None]
        return mx.gather_mm(x[:, None, None], self.weight, rhs_indices=experts)[:, 0, 0]


class Pooling(nn.Module):
    def __call__(self, x):
        return nn.MaxPool1d(3, stride=1)(x[..., None])[..., 0]


def unmapped(name):
    last = {
        "QuantizedMatmul": lambda: nn.Linear(32, 3).to_quantized(group_size=32, bits=4),
        "GatherMM": Mixture,
        "AsStrided": Pooling,
    }[name]()
    width = 32 if name == "QuantizedMatmul" else 8
    return nn.Sequential(nn.Linear(4, width), nn.Dropout(0.5), last)


UNMAPPED = ["QuantizedMatmul", "GatherMM", "AsStrided"]


@pytest.mark.parametrize("name", UNMAPPED)
@pytest.mark.parametrize("tool", [sample, predict])
@pytest.mark.parametrize("chunk", [None, 3])
def test_models_that_mlx_cannot_vmap(tool, name, chunk, key):
    model, keys, x = unmapped(name), mx.random.split(key, 7), normal((5, 4))
    one_by_one = tool(model, keys, x, chunk=1)
    cut = {} if tool is sample else {"batch_size": 2}
    with pytest.warns(UserWarning, match=rf"vmap {name}.*chunk=1") as warned:
        one_by_itself = tool(model, keys, x, chunk=chunk, **cut)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    pairs = [(one_by_itself, one_by_one)]
    if tool is predict:
        pairs = zip(one_by_itself, one_by_one, strict=True)
    for a, b in pairs:
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-5)
    assert isinstance(model.layers[1], nn.Dropout)


@pytest.mark.parametrize("name", UNMAPPED)
def test_models_that_mlx_cannot_vmap_within_compile(name, key, compiles):
    model, keys, x = unmapped(name), mx.random.split(key, 3), normal((5, 4))
    expected = sample(model, keys, x, chunk=1)
    compiled = mx.compile(lambda keys, x: sample(model, keys, x))
    with pytest.warns(UserWarning, match=rf"vmap {name}") as warned:
        compiled(keys, x)
    assert len(warned) == 1
    got = compiled(keys, x)
    assert mx.allclose(got, expected, rtol=1e-5, atol=1e-5)


class Depthwise(nn.Module):
    """Drops weights of a grouped convolution, and layers before and after it."""

    def __init__(self, axes, before):
        super().__init__()
        self.convolution = (nn.Conv1d if axes == 1 else nn.Conv2d)(4, 8, 3, groups=2)
        self.before = Dropout(0.5) if before else nn.Identity()
        self.weights, self.after = Dropout(0.5), Dropout(0.5)

    def __call__(self, x):
        part = copy.copy(self.convolution)
        part.weight = self.weights(part.weight)
        return self.after(part(self.before(x)))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("axes", [1, 2])
def test_grouped_convolutions_whose_weights_are_drawn(axes, before, key):
    """MLX takes wrong groups for a batch of weights and an input that is none."""
    model, keys = Depthwise(axes, before), mx.random.split(key, 3)
    x, convolutions = normal((2, *[6] * axes, 4)), (mx.conv1d, mx.conv2d, mx.conv_general)
    one_by_one = sample(model, keys, x, chunk=1)
    assert mx.allclose(sample(model, keys, x), one_by_one, rtol=1e-5, atol=1e-5)
    summaries = [predict(model, keys, x, "regression", chunk=chunk) for chunk in (1, 3)]
    for a, b in zip(*summaries, strict=True):
        assert mx.allclose(a, b, rtol=1e-5, atol=1e-5)
    xs = normal((2, *x.shape))
    mapped = mx.vmap(lambda x: sample(model, keys, x))(xs)
    for i in range(2):
        expected = sample(model, keys, xs[i], chunk=1)
        assert mx.allclose(mapped[i], expected, rtol=1e-5, atol=1e-5)
    assert convolutions == (mx.conv1d, mx.conv2d, mx.conv_general)


def test_grouped_convolutions_of_functions(key):
    weight, x = normal((8, 3, 3, 2)), normal((2, 6, 6, 4))
    keys = mx.random.split(key, 3)
    for convolve in (
        lambda w: mx.conv2d(x, w, groups=2),
        lambda w: mx.conv_general(x, w, 1, 0, 1, 1, 2),
        lambda w: mx.conv2d(x, w, 1, 0, 1, 2),
    ):

        def network(key, convolve=convolve):
            return convolve(dropout(weight, 0.5, key))

        expected = mx.stack([network(key) for key in keys])
        assert mx.allclose(sample(network, keys), expected, rtol=1e-5, atol=1e-5)


def test_3d_convolutions_whose_weights_are_drawn(key):
    weight, x = normal((4, 3, 3, 3, 2)), normal((2, 5, 5, 5, 2))

    def network(key, x):
        x = dropout(x, 0.5, fold_in(key, 0))
        return mx.conv3d(x, dropout(weight, 0.5, fold_in(key, 1)))

    keys = mx.random.split(key, 3)
    with pytest.warns(UserWarning, match=r"the weights of a 3D convolution"):
        got = sample(network, keys, x)
    assert mx.allclose(got, sample(network, keys, x, chunk=1), rtol=1e-5, atol=1e-5)


def test_what_mlx_cannot_vmap_for_one_key_either(key):
    """An mx.vmap of the function's own fails, and there is nothing to warn of."""
    layer = nn.Linear(32, 3).to_quantized(group_size=32, bits=4)

    def network(key, x):
        return mx.vmap(layer)(dropout(x, 0.5, key))

    for keys in (mx.random.split(key, 3), mx.random.split(key, 1)):
        with pytest.raises(RuntimeError, match=r"QuantizedMatmul::vmap"):
            sample(network, keys, mx.ones((2, 5, 32)))


class Held:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("chunk", [None, 1])
def test_outputs_that_are_no_trees_of_arrays(chunk, key):
    keys, x = mx.random.split(key, 3), normal((5, 4))
    inner = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    model = nn.Sequential(inner, Held)
    with pytest.raises(TypeError, match=r"Received an output with a Held\.") as error:
        sample(model, keys, x, chunk=chunk)
    advice = str(error.value).split("it holds: ")[1].rstrip(".")
    names = {"nn": nn, "sample": sample, "model": model, "keys": keys, "x": x}
    assert eval(advice, names).shape == (3, 5, 3)
    with pytest.raises(TypeError, match=r"Received an output with a NoneType"):
        sample(lambda key: {"y": [key, None]}, keys, chunk=chunk)


def test_composes_with_transforms(key, compiles):
    keys, x = mx.random.split(key, 4), normal((3, 8))

    def mean(x, keys):
        return sample(lambda key, x: dropout(mx.sin(x), 0.5, key), keys, x).mean(0)

    assert mx.allclose(mx.compile(mean)(x, keys), mean(x, keys), rtol=1e-6)
    gradient = mx.grad(lambda x: mean(x, keys).sum())(x)
    masks = mx.stack([dropout(mx.ones((3, 8)), 0.5, key) for key in keys])
    assert mx.allclose(gradient, masks.mean(0) * mx.cos(x), rtol=1e-5)
    nested = mx.vmap(mean, in_axes=(None, 0))(x, mx.random.split(key, 12).reshape(3, 4, 2))
    assert nested.shape == (3, 3, 8)


def test_evaluates_chunk_by_chunk(key):
    """Each chunk's intermediate arrays are freed before the next is begun."""
    keys, x = mx.random.split(key, 16), normal((1 << 16,))

    def peak(chunk):
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(sample(lambda key, x: dropout(x, 0.5, key).sum(), keys, x, chunk=chunk))
        return mx.get_peak_memory() - before

    assert peak(2) < peak(16) / 4


def test_progress(key, capsys):
    keys = mx.random.split(key, 5)
    sample(lambda key: dropout(mx.ones(3), 0.5, key), keys, chunk=2, progress=True)
    assert "5/5" in capsys.readouterr().err
    sample(lambda key: dropout(mx.ones(3), 0.5, key), keys, chunk=2)
    assert not capsys.readouterr().err


def test_progress_without_tqdm(key, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"progress=True needs tqdm: pip install tqdm"):
        sample(lambda key: key, mx.random.split(key, 2), progress=True)


@pytest.mark.parametrize("shape", [(2,), (0, 2), (3, 1, 2)], ids=str)
def test_keys_that_are_not_one_for_each_sample(shape):
    keys = mx.zeros(shape, dtype=mx.uint32)
    with pytest.raises(ValueError, match=r"Received keys of shape .*S >= 1 samples") as e:
        sample(lambda key: key, keys)
    assert eval(str(e.value).split("samples: ")[1][:-1]).shape == (32, 2)


def test_keys_that_are_none(key):
    with pytest.raises(TypeError, match=r"mx\.random\.split\(mx\.random\.key\(0\), 32\)"):
        sample(lambda key: key, 0)
    with pytest.raises(TypeError, match=r"Received keys of type list.*: mx\.stack\(keys\)"):
        sample(lambda key: key, [key, key])
    with pytest.raises(
        TypeError, match=r"keys before the input: predict\(model, keys, x\)"
    ):
        sample(lambda key: key, mx.ones((3, 2)))
    with pytest.raises(TypeError, match=r"Received a key of dtype .*int32"):
        sample(lambda key: key, mx.ones((3, 2), mx.int32))


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunks_of_none(chunk, key):
    with pytest.raises(
        ValueError, match=rf"Received chunk = {chunk}\. Expected at least 1"
    ):
        sample(lambda key: key, mx.random.split(key, 2), chunk=chunk)


def test_other_arguments_of_wrong_types(key):
    keys = mx.random.split(key, 2)
    with pytest.raises(TypeError, match=r"Received chunk of type float"):
        sample(lambda key: key, keys, chunk=2.0)
    with pytest.raises(TypeError, match=r"a network of type array\. Expected a model, or"):
        sample(keys, keys)
    with pytest.raises(TypeError, match=r"Received the class Linear\. Expected a model"):
        sample(nn.Linear, keys)
    with pytest.raises(ValueError, match=r"Received dropout for a function"):
        sample(lambda key: key, keys, dropout=True)


def test_keys_for_more_layers_are_folded_in(key):
    def two_layers(key, x):
        x = dropout(x, 0.5, fold_in(key, 0))
        return dropout(x, 0.5, fold_in(key, 1))

    samples = sample(two_layers, mx.random.split(key, 64), mx.ones(256))
    kept = np.array(samples != 0).mean()
    assert 0.2 < kept < 0.3
