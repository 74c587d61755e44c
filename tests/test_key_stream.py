"""KeyStream: keys for what a model draws itself."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from models import Autoencoder
from subjects import assert_same, assert_trees_close, normal

import chandrop
from chandrop.functional import dropout
from chandrop.nn import (
    Dropout,
    KeyStream,
    check_step,
    functional_call,
    get_keys,
    rekey,
    set_keys,
)
from chandrop.random import example_keys, fold_in
from chandrop.uncertainty import predict, sample


class Noise(nn.Module):
    """Adds noise of the input's shape, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.next_key = KeyStream(key=mx.random.key(1))

    def __call__(self, x):
        return x + mx.random.normal(x.shape, key=self.next_key())


def autoencoder():
    mx.random.seed(0)
    return Autoencoder()


def loss_of(model, x):
    return ((model(x) - x) ** 2).mean()


@pytest.mark.parametrize("training", [True, False])
def test_each_call_returns_the_next_key(training, key):
    stream, held = KeyStream(key=key).train(training), key
    for _ in range(3):
        held, expected = mx.random.split(held)
        assert_same(stream(), expected)
        assert_same(stream._key, held)


def test_the_shapes_of_keys(key):
    model = nn.Sequential(KeyStream())
    (stream,) = model.layers
    rekey(model, key[None])
    one = stream()
    rekey(model, key)
    assert_same(one, stream())
    assert one.shape == (2,)
    keys = example_keys(key, 5)
    rekey(model, keys)
    batch = stream()
    assert batch.shape == (5, 2)
    for i in range(5):
        rekey(model, keys[i])
        assert_same(stream(), batch[i])
    rekey(model, keys)
    assert dropout(mx.ones((5, 3)), 0.5, stream()).shape == (5, 3)


def test_keys_are_saved_and_put_back():
    model, x = autoencoder(), normal((4, 6))
    saved = get_keys(model)
    assert list(saved) == ["dropout", "next_key"]
    y = model(x)
    assert not mx.array_equal(model(x), y)
    set_keys(model, saved)
    assert_same(model(x), y)
    stream = KeyStream()
    assert_same(pickle.loads(pickle.dumps(stream))(), KeyStream(key=stream._key)())
    assert not mx.array_equal(copy.deepcopy(stream)._key, stream._key)
    assert stream.parameters() == {}
    assert repr(stream) == "KeyStream()"


# Transforms.


def test_vmap_folds_the_index_into_the_key(key):
    stream = KeyStream(key=key)
    keys = mx.vmap(lambda _: stream())(mx.arange(3))
    held, subkey = mx.random.split(key)
    assert_same(keys, mx.stack([fold_in(subkey, i) for i in range(3)]))
    assert_same(stream._key, held)
    nested = mx.vmap(mx.vmap(lambda _: stream()))(mx.zeros((2, 3)))
    _, subkey = mx.random.split(held)
    assert_same(nested[1, 2], fold_in(fold_in(subkey, 1), 2))


@pytest.mark.parametrize(
    "wrap", [lambda m: nn.utils.checkpoint(m), chandrop.nn.checkpoint], ids=["mlx", "ours"]
)
def test_the_gradient_of_an_autoencoder_under_checkpoint(wrap):
    x, results = normal((4, 6)), []
    for around in (lambda model: model, wrap):
        model = nn.Sequential(autoencoder())

        def loss(model, around=around):
            return loss_of(around(model.layers[0]), x)

        value, gradients = nn.value_and_grad(model, loss)(model)
        results.append([value, gradients, get_keys(model)])
    assert_trees_close(*results)


def test_the_gradient_of_an_autoencoder_under_vmap_equals_the_loop(key):
    model, x, keys = autoencoder(), normal((3, 4, 6)), mx.random.split(key, 3)

    def loss(parameters, x, key):
        return ((functional_call(model, parameters, x, key=key) - x) ** 2).mean()

    def members(parameters):
        return mx.vmap(loss, (None, 0, 0))(parameters, x, keys).sum()

    def loop(parameters):
        return sum(loss(parameters, *each) for each in zip(x, keys, strict=True))

    result = mx.value_and_grad(members)(model.parameters())
    assert_trees_close(result, mx.value_and_grad(loop)(model.parameters()))


def test_the_gradient_of_an_autoencoder_that_draws_by_its_own_keys_under_vmap():
    """The members' keys are those of ``fold_in``, by hand here."""
    model, x = autoencoder().eval(), normal((3, 4, 6))
    _, subkey = mx.random.split(model.next_key._key)

    def members(model):
        return mx.vmap(lambda x: loss_of(model, x))(x).sum()

    def by_hand(model):
        total = mx.array(0.0)
        for i in range(3):
            mean, log = mx.split(mx.tanh(model.encoder(x[i])), 2, axis=-1)
            noise = mx.random.normal(mean.shape, key=fold_in(subkey, i))
            y = model.decoder(mean + mx.exp(log) * noise)
            total = total + ((y - x[i]) ** 2).mean()
        return total

    expected = nn.value_and_grad(model, by_hand)(model)
    assert_trees_close(nn.value_and_grad(model, members)(model), expected)


def test_compiled_steps_draw_what_eager_ones_do(compiles):
    eager, model = Noise(), Noise()
    step = mx.compile(lambda x: model(x), inputs=model.state, outputs=model.state)
    for _ in range(3):
        # Before MLX 0.32.4, compiled arithmetic rounds otherwise.
        np.testing.assert_allclose(
            step(mx.zeros((2, 3))), eager(mx.zeros((2, 3))), rtol=1e-5
        )
    assert_same(model.next_key._key, eager.next_key._key)
    forgetful = mx.compile(lambda x: model(x))
    with pytest.raises(ValueError, match=r"its random layers, KeyStream\(\), so every"):
        forgetful(mx.zeros((2, 3)))


def test_export(key, get_key, tmp_path):
    model, path, x = Noise(), str(tmp_path / "noise.mlxfn"), mx.zeros((2, 3))

    def call(x, key):
        return functional_call(model, {}, x, key=key)

    mx.export_function(path, call, x, key)
    imported = mx.import_function(path)
    for _ in range(2):
        key = get_key()
        assert_same(imported(x, key)[0], call(x, key))
    with pytest.raises(ValueError, match=r"keys of its random layers, KeyStream\(\)"):
        mx.export_function(path, lambda x: model(x), x)


# Tools for whole models.


@pytest.mark.parametrize("dropout", [None, False, True])
def test_a_call_without_a_key_is_refused(dropout):
    """Nothing turns a stream off, so the message does not say that."""
    with pytest.raises(ValueError, match=r'would draw: "next_key"\.') as error:
        functional_call(Noise(), {}, mx.ones(3), dropout=dropout)
    assert "would drop" not in str(error.value)
    assert str(error.value).endswith("Give key=mx.random.key(0).")
    with pytest.raises(ValueError, match=r'would draw: "dropout", "next_key"\.') as error:
        functional_call(autoencoder(), {}, mx.ones((2, 6)))
    assert "dropout=False" not in str(error.value)


def test_dropout_does_not_turn_it_off(key):
    model, x = Noise().eval(), mx.zeros((2, 3))
    draws = [functional_call(model, {}, x, key=key, dropout=d) for d in (None, False, True)]
    for y in draws:
        assert_same(y, draws[0])
        assert y.any()


def test_it_is_not_among_the_layers_to_choose_from(key):
    model, x = autoencoder().eval(), normal((4, 6))
    for choice in (lambda path, layer: path == "next_key", lambda path, layer: False):
        with pytest.raises(ValueError, match=r'chose no layer.*from are: "dropout"'):
            functional_call(model, {}, x, key=key, dropout=choice)
    chosen = functional_call(model, {}, x, key=key, dropout=lambda *_: True)
    assert_same(chosen, functional_call(model, {}, x, key=key, dropout=True))
    with pytest.raises(ValueError, match=r"choose from are: none\."):
        functional_call(Noise(), {}, x, key=key, dropout=lambda path, layer: True)


@pytest.mark.parametrize("build", [autoencoder, lambda: nn.Sequential(Noise())])
def test_predict_equals_the_loop(build, key):
    model, x, keys = build().eval(), normal((4, 6)), mx.random.split(key, 5)
    loop = [functional_call(model, {}, x, key=key[None], dropout=True) for key in keys]
    np.testing.assert_allclose(sample(model, keys, x), mx.stack(loop), rtol=1e-5, atol=1e-6)
    means = predict(model, keys, x, "regression").mean
    np.testing.assert_allclose(means, mx.stack(loop).mean(0), rtol=1e-5, atol=1e-6)


def test_predict_in_batches_warns(key):
    model, keys, x = Noise(), mx.random.split(key, 3), normal((4, 6))
    message = r'The KeyStream at "next_key" returns the same key for each batch\. .*'
    with pytest.warns(UserWarning, match=f"{message}Give no batch_size") as warned:
        predict(model, keys, x, "regression", batch_size=2)
    assert len(warned) == 1
    predict(model, keys, x, "regression", batch_size=4)


def test_a_key_for_each_example_where_mlx_takes_one(key):
    keys, x = mx.random.split(key, 3), normal((4, 6))
    with pytest.raises(ValueError, match=r"gave each example its own key.*mx\.vmap\(lam"):
        predict(Noise(), keys, x, "regression", consistent=False)


def test_it_does_not_hide_dropout_that_is_not_called(key):
    class InTrainingAlone(nn.Module):
        def __init__(self):
            super().__init__()
            self.noise, self.dropout = Noise(), Dropout(0.5)

        def __call__(self, x):
            x = self.noise(x)
            return self.dropout(x) if self.training else x

    with pytest.raises(ValueError, match=r'no random layer drew with it: "dropout"\. Are'):
        predict(InTrainingAlone(), mx.random.split(key, 3), normal((4, 6)))


def test_predict_of_a_model_whose_dropout_has_a_rate_of_zero(key):
    model = autoencoder().eval()
    model.dropout.p = 0.0
    keys, x = mx.random.split(key, 3), normal((4, 6))
    first = sample(model, keys, x)
    assert not mx.allclose(first[0], first[1])
    chosen = sample(model, keys, x, dropout=lambda path, layer: True)
    assert_same(chosen, first)


def test_keys_for_each_example_do_not_depend_on_the_cut(key):
    model, x = autoencoder(), normal((5, 6))
    whole = functional_call(model, {}, x, key=example_keys(key, 5))
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        keys = example_keys(key, stop - start, start)
        part = functional_call(model, {}, x[start:stop], key=keys)
        np.testing.assert_allclose(part, whole[start:stop], rtol=1e-5, atol=1e-6)


def test_check_step(compiles):
    model, optimizer, x = (
        nn.Sequential(nn.Linear(3, 3), Noise()),
        optim.SGD(0.1),
        normal((2, 3)),
    )
    state = [model.state, optimizer.state]

    def train(x):
        loss, gradients = nn.value_and_grad(model, lambda m: m(x).square().mean())(model)
        optimizer.update(model, gradients)
        return loss

    check_step(
        model, mx.compile(train, inputs=state, outputs=state), x, optimizer=optimizer
    )
    path = r"layers\.1\.next_key"
    with pytest.raises(ValueError, match=f'These layers draw the same at.*"{path}"'):
        check_step(model, mx.compile(lambda x: model(x)), x)
    model.layers.append(Noise())
    with pytest.raises(ValueError, match="hold the same key, so they draw the same"):
        check_step(model, train, x, optimizer=optimizer)


def test_bad_input():
    with pytest.raises(TypeError, match=r"1 arguments for KeyStream by position"):
        KeyStream(0)
    with pytest.raises(ValueError, match=r"keys of shape \(3, 2\)\. Expected one key"):
        KeyStream(key=mx.zeros((3, 2), mx.uint32))
    stream = KeyStream()
    hidden = nn.Sequential(Dropout(0.5), lambda x: x + stream()[0])
    with pytest.raises(ValueError, match="A KeyStream draws by its own key, but is not in"):
        functional_call(hidden, {}, mx.ones(3), key=mx.random.key(0))
