"""sample: a function, or a model's subnetworks, for every key."""

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from subjects import assert_same, normal

from chandrop.functional import dropout, dropout2d
from chandrop.nn import Dropout, functional_call
from chandrop.random import fold_in
from chandrop.uncertainty import sample

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
    assert_same(sample(model, keys, x, dropout=False), mx.ones((8, 1, 64)))


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
    with pytest.raises(TypeError, match=r"Received a key of dtype .*float32"):
        sample(lambda key: key, mx.ones((3, 2)))


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
    with pytest.raises(TypeError, match=r"Received fn .*array.*\. Expected a model, or"):
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
