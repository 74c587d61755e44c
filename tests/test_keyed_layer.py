"""A random layer of a user's own: five lines, and every tool works with it."""

import copy
import pickle
import sys

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same, assert_trees_close, normal

import chandrop.nn
from chandrop.nn import (
    ChannelDropout,
    Dropout,
    Dropout2d,
    DropoutLayer,
    DropPath,
    KeyedLayer,
    check_step,
    checkpoint,
    convert,
    functional_call,
    get_keys,
    rekey,
    revert,
    set_keys,
)
from chandrop.random import example_keys, fold_in
from chandrop.thin import ThinDropout, ThinSequential
from chandrop.uncertainty import predict, sample


class Noise(KeyedLayer):
    def draw(self, x, key):
        return x + 0.1 * mx.random.normal(x.shape, key=key)


class Speckle(KeyedLayer):
    """With arguments of its own, one of them a parameter."""

    def __init__(self, channels, rate=0.3, *, key=None):
        super().__init__(key=key)
        self.deviation = mx.full((channels,), 0.5)
        self.rate = rate

    def draw(self, x, key):
        keys = mx.random.split(key)
        kept = mx.random.bernoulli(1 - self.rate, x.shape, key=keys[0])
        noise = mx.random.normal(x.shape[-1:], key=keys[1])
        return x * kept * (1 + self.deviation * noise)


def network(key=None):
    mx.random.seed(3)
    layers = [nn.Linear(6, 8), Noise(), nn.ReLU(), Speckle(8), nn.Linear(8, 2)]
    model = nn.Sequential(*layers)
    return model if key is None else rekey(model, key) or model


X = normal((4, 6))


def test_one_key_draws_once_for_the_whole_batch(key):
    y = Noise()(X, key=key)
    assert_same(y, X + 0.1 * mx.random.normal((4, 6), key=key))
    assert_same(Noise()(X, key=key), y)


def test_keys_for_each_example_draw_for_each_alone(key):
    keys = mx.random.split(key, 4)
    for layer in (Noise(), Speckle(6)):
        y = layer(X, key=keys)
        for i in range(4):
            assert_same(y[i], layer.draw(X[i], keys[i]))
            assert_same(y[i], layer(X[i], key=keys[i]))
        part = layer(X[1:], key=example_keys(key, 3, 1))
        assert_same(layer(X, key=example_keys(key, 4))[1:], part)


def test_a_batch_of_one_key_draws_alike_for_all(key):
    x = mx.ones((4, 6))
    y = Noise()(x, key=key[None])
    assert_same(y, mx.broadcast_to(y[:1], (4, 6)))
    assert_same(y, Noise()(x, key=mx.broadcast_to(key, (4, 2))))
    assert not mx.array_equal(y[0, 0], y[0, 1])


def test_its_own_key_advances_by_a_split(key):
    layer = Noise(key=key)
    for _ in range(3):
        key, sub = mx.random.split(key)
        assert_same(layer(X), layer.draw(X, sub))
        assert_same(layer._key, key)
    layer(X, key=mx.random.key(1))
    assert_same(layer._key, key)


def test_seeds_and_new_layers():
    mx.random.seed(7)
    first, second = Noise(), Noise()
    mx.random.seed(7)
    again = Noise()
    assert_same(first._key, again._key)
    assert not mx.array_equal(first._key, second._key)


def test_eval_mode_returns_the_input_itself(key):
    layer = Noise(key=key).eval()
    assert layer(X) is X
    assert layer(X, key=mx.random.split(key, 4)) is X
    assert_same(layer._key, key)
    assert not mx.array_equal(layer.train()(X), X)


def test_the_key_is_state_and_what_it_sets_are_parameters():
    layer = Speckle(6)
    assert dict(tree_flatten(layer.parameters())).keys() == {"deviation"}
    assert dict(tree_flatten(layer.state)).keys() == {"deviation", "_key"}
    layer.deviation, layer.rate, layer.drop_prob, layer.p = mx.ones((6,)), 0.5, 1, 2
    assert (layer.rate, layer.drop_prob, layer.p) == (0.5, 1, 2)
    assert_same(layer.parameters()["deviation"], mx.ones((6,)))
    with pytest.raises(AttributeError, match=r"A layer's key cannot be set\. .*set_keys"):
        layer.key = mx.random.key(0)


def test_a_copy_draws_on_its_own_and_a_pickle_does_not(key):
    layer = Speckle(6, 0.2, key=key)
    for copied in (copy.copy(layer), copy.deepcopy(layer)):
        assert type(copied) is Speckle
        assert copied.rate == 0.2
        assert not mx.array_equal(copied._key, key)
    deep = copy.deepcopy([layer, layer])
    assert deep[0] is deep[1]
    pickled = pickle.loads(pickle.dumps(layer))
    assert_same(pickled._key, key)
    assert_same(pickled(X), layer(X))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (7, TypeError, r"Received a key of type int\. Expected a key: mx\.random\.key\(7"),
        (mx.array([0, 1]), TypeError, r"Received a key of dtype .*int32\. Expected uint32"),
        (mx.zeros((6,), mx.uint32), ValueError, r"Received a key of shape \(6,\)"),
        (mx.array(1, mx.uint32), ValueError, r"Received a key of shape \(\)"),
    ],
    ids=str,
)
def test_what_is_no_key(given, error, message, training, key):
    layer = Noise(key=key).train(training)
    with pytest.raises(error, match=message):
        layer(X, key=given)
    with pytest.raises(error, match=message):
        Noise(key=given)
    assert_same(layer._key, key)


@pytest.mark.parametrize("shape", [(3, 2), (0, 2), (5, 2), (4, 1, 2)], ids=str)
def test_keys_that_do_not_fit_the_batch(shape):
    keys = mx.zeros(shape, mx.uint32)
    with pytest.raises(
        ValueError, match=r"Received keys of shape .* input of shape \(4, 6"
    ):
        Noise()(X, key=keys)
    with pytest.raises(ValueError, match=r"Received keys of shape .* input of shape \(\)"):
        Noise()(mx.array(1.0), key=keys)
    with pytest.raises(ValueError, match=r"Received keys of shape .*one key"):
        Noise(key=keys)


def test_a_layer_without_a_draw(key):
    class Forgotten(KeyedLayer):
        pass

    with pytest.raises(NotImplementedError, match=r"^Forgotten does not define draw\(x, k"):
        Forgotten()(X)
    with pytest.raises(NotImplementedError, match="Forgotten does not define draw"):
        Forgotten()(X, key=mx.random.split(key, 4))
    assert Forgotten().eval()(X) is X


def test_arguments_that_it_does_not_take():
    with pytest.raises(
        TypeError, match=r"Noise takes no rate=0\.5\. Expected one of key\."
    ):
        Noise(rate=0.5)
    with pytest.raises(
        TypeError, match=r"Speckle takes no p=0\.5\. Expected one of channel"
    ):
        Speckle(6, p=0.5)


# The tools.


def test_keys_of_a_model(key):
    model = network()
    assert list(get_keys(model)) == ["layers.1", "layers.3"]
    rekey(model, key)
    keys = get_keys(model)
    y = model(X)
    assert not mx.array_equal(model(X), y)
    set_keys(model, keys)
    assert_same(model(X), y)
    rekey(model, key)
    assert_same(model(X), y)
    rekey(model, mx.random.split(key, 4))
    y = model(X)
    rekey(model, mx.random.split(key, 4)[2])
    np.testing.assert_allclose(y[2], model(X[2]), rtol=1e-5, atol=1e-6)


def test_a_pure_call(key):
    model = network()
    before = get_keys(model)
    y = functional_call(model, {}, X, key=key)
    assert_same(functional_call(model, {}, X, key=key), y)
    for path, own in get_keys(model).items():
        assert_same(own, before[path])
    rekey(model, key)
    assert_same(model(X), y)
    keys = example_keys(key, 4)
    by_example = functional_call(model, {}, X, key=keys)
    alone = functional_call(model, {}, X[2], key=keys[2])
    np.testing.assert_allclose(by_example[2], alone, rtol=1e-5, atol=1e-6)
    off = functional_call(model, {}, X, dropout=False)
    assert_same(off, model.eval()(X))
    on = functional_call(model, {}, X, key=key, dropout=True)
    assert_same(on, y)
    some = functional_call(model, {}, X, key=key, dropout=lambda path, _: path[-1] == "3")
    assert not mx.array_equal(some, on)
    with pytest.raises(ValueError, match=r'would draw: "layers\.1", "layers\.3"'):
        functional_call(model.train(), {}, X)


def test_gradients_of_a_pure_call(key):
    model = network()

    def loss(parameters):
        return (functional_call(model, parameters, X, key=key) ** 2).sum()

    gradient = mx.grad(loss)(model.trainable_parameters())
    rekey(model, key)
    _, expected = nn.value_and_grad(model, lambda model: (model(X) ** 2).sum())(model)
    assert_trees_close(gradient, expected)
    assert gradient["layers"][3]["deviation"].any()


def test_vmap(key):
    layer, xs = Noise(key=key), normal((3, 4, 6))
    ys = mx.vmap(layer)(xs)
    advanced, sub = mx.random.split(key)
    assert_same(layer._key, advanced)
    for i in range(3):
        assert_same(ys[i], layer(xs[i], key=fold_in(sub, i)))
    keys = mx.random.split(key, 3)
    ys = mx.vmap(lambda x, key: layer(x, key=key))(xs, keys)
    for i in range(3):
        assert_same(ys[i], layer(xs[i], key=keys[i]))
    model = network()
    members = mx.vmap(lambda key: functional_call(model, {}, X, key=key))(keys)
    for i in range(3):
        expected = functional_call(model, {}, X, key=keys[i])
        np.testing.assert_allclose(members[i], expected, rtol=1e-5, atol=1e-6)


def test_vmap_with_keys_for_each_example(key):
    keys = mx.random.split(key, 12).reshape(3, 4, 2)
    xs = normal((3, 4, 6))
    ys = mx.vmap(lambda x, keys: Noise()(x, key=keys))(xs, keys)
    for i in range(3):
        assert_same(ys[i], Noise()(xs[i], key=keys[i]))


@pytest.mark.parametrize("keys", ["own", "one", "each"])
def test_checkpoint(keys, key):
    def gradients(wrap):
        model = network(example_keys(key, 4) if keys == "each" else key)
        given = None if keys == "own" else (key if keys == "one" else example_keys(key, 4))

        def loss(model, x):
            y = wrap(model)(x)
            return (y**2).sum() + (wrap(Noise(key=key))(y, key=given) ** 2).sum()

        return nn.value_and_grad(model, loss)(model, X), get_keys(model)

    def as_it_is(model):
        return model

    (value, gradient), advanced = gradients(checkpoint)
    (expected_value, expected), expected_keys = gradients(as_it_is)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-5)
    assert_trees_close(gradient, expected)
    assert_trees_close(advanced, expected_keys)


def train(compile_step, key):
    model = network(key)
    optimizer = mlx.optimizers.SGD(0.01)
    state = [model.state, optimizer.state]
    value_and_grad = nn.value_and_grad(model, lambda model, x: (model(x) ** 2).mean())

    def step(x):
        loss, gradients = value_and_grad(model, x)
        optimizer.update(model, gradients)
        return loss

    if compile_step:
        step = mx.compile(step, inputs=state, outputs=state)
    check_step(model, step, X, optimizer=optimizer)
    return [step(X).item() for _ in range(4)], get_keys(model)


def test_a_compiled_training_step(key, compiles):
    losses, keys = train(True, key)
    expected, expected_keys = train(False, key)
    assert losses == pytest.approx(expected, rel=1e-4)
    for path in keys:
        assert_same(keys[path], expected_keys[path])
    assert len(set(losses)) == 4


def test_a_compiled_step_that_does_not_carry_the_keys(key, compiles):
    model = network(key)
    with pytest.raises(ValueError, match=r'draw the same at every step: "layers\.1", "l'):
        check_step(model, mx.compile(lambda x: model(x)), X)


def test_compiled_with_keys_for_each_example(key, compiles):
    layer, keys = Noise(), mx.random.split(key, 4)
    compiled = mx.compile(lambda x, key: layer(x, key=key))
    for given in (keys[0], keys, keys[:1]):
        expected = layer(X, key=given)
        np.testing.assert_allclose(compiled(X, given), expected, rtol=1e-6, atol=1e-6)


def test_samples_and_predictions(key):
    model, keys = network(), mx.random.split(key, 8)
    samples = sample(model, keys, X)
    assert samples.shape == (8, 4, 2)
    for i in (0, 5):
        expected = functional_call(model.eval(), {}, X, key=keys[i][None], dropout=True)
        np.testing.assert_allclose(samples[i], expected, rtol=1e-5, atol=1e-6)
    summary = predict(model, keys, X, "regression", batch_size=3)
    np.testing.assert_allclose(summary.mean, samples.mean(0), rtol=1e-4, atol=1e-5)
    each = predict(model, keys, X, "regression", consistent=False)
    assert not mx.allclose(each.mean, summary.mean)


def test_convert_and_revert_leave_it_alone():
    model = network()
    assert convert(model) is model
    assert isinstance(model.layers[1], Noise)
    with pytest.raises(
        ValueError, match=r'a Noise\(.*\) at "layers\.1", which mlx\.nn does'
    ):
        revert(model)


# In a chain of a thin network, a class says what it does to channels.


class Square(nn.Module):
    on_channels = "keeps zero"

    def __call__(self, x):
        return x * mx.abs(x)


class Shifted(nn.Module):
    on_channels = "each alone"

    def __call__(self, x):
        return x + 1


class Scale(nn.Module):
    on_channels = "keeps zero"

    def __init__(self, channels):
        super().__init__()
        self.scale = mx.linspace(0.5, 2, channels)
        self.slope = mx.array([0.3])

    def __call__(self, x):
        return x * self.scale + self.slope * mx.minimum(x, 0)


class Multiplying(KeyedLayer):
    on_channels = "multiplies"

    def draw(self, x, key):
        return x * mx.random.uniform(shape=x.shape, key=key)


class MultiplyingForAll(KeyedLayer):
    """It multiplies all channels by one number for each example."""

    on_channels = "multiplies"

    def draw(self, x, key):
        return x * mx.random.uniform(shape=(*x.shape[:-1], 1), key=key)


class Rotated(Scale):
    """It inherits what its base declares, and does something else."""

    def __call__(self, x):
        return mx.roll(super().__call__(x), 1, axis=-1)


class RotatedNoise(Multiplying):
    def draw(self, x, key):
        return mx.roll(super().draw(x, key), 1, axis=-1)


class Seen(nn.Module):
    """It notes how many channels it is called with."""

    on_channels = "keeps zero"

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "channels", [])

    def __call__(self, x):
        self.channels.append(x.shape[-1])
        return x


CHAINS = {
    "an activation": (lambda: [Square()], [6, 6]),
    "a shift": (lambda: [Shifted()], [6, 12]),
    "a scale for each channel": (lambda: [Scale(12)], [6, 6]),
    "a random layer": (lambda: [Multiplying()], [6, 6]),
    "one number for all channels": (lambda: [MultiplyingForAll()], [6, 6]),
    "a random layer that is off": (lambda: [Multiplying().eval()], [6, 6]),
    "all of them": (lambda: [Square(), Scale(12), Multiplying(), Scale(12)], [6, 6]),
    "inherited": (lambda: [Rotated(12)], [12, 12]),
    "inherited, random": (lambda: [RotatedNoise()], [12, 12]),
    "noise, which adds": (lambda: [Noise()], [12, 12]),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("place", [0, 1], ids=["before", "after"])
def test_layers_in_a_chain_of_a_thin_network(name, place, key):
    build, channels = CHAINS[name]
    mx.random.seed(1)
    seen = Seen()
    ends = [seen, ThinDropout(0.5)]
    inner = [ends[place], *build(), ends[1 - place]]
    layers = [nn.Linear(6, 12), *inner, nn.Linear(12, 3)]
    x = normal((5, 6))

    def trained(kind):
        model = kind(*layers)
        rekey(model, key)
        gradient = nn.value_and_grad(model, lambda model: (model(x) ** 2).sum())
        seen.channels.clear()
        value, gradients = gradient(model)
        rekey(model, key)
        return value, model(x), gradients, seen.channels[0]

    value, y, gradients, thin_channels = trained(ThinSequential)
    expected_value, expected, expected_gradients, dense_channels = trained(nn.Sequential)
    assert (thin_channels, dense_channels) == (channels[place], 12)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-4)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert_trees_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


class Noisy(Noise):
    """Fewer channels would be another draw."""

    on_channels = "keeps zero"


class Misspelt(nn.Identity):
    on_channels = "keep zero"


class Factors(nn.Identity):
    on_channels = "multiplies"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Noisy, "'multiplies'"),
        (Misspelt, "'keeps zero' or 'each alone'"),
        (Factors, "'keeps zero' or 'each alone'"),
    ],
)
def test_a_wrong_declaration(layer, expected):
    chain = ThinSequential(nn.Linear(6, 12), ThinDropout(0.5), layer())
    message = (
        rf"Received on_channels = .* of class {layer.__name__}\. Expected {expected}\."
    )
    with pytest.raises(ValueError, match=message):
        chain(X)


def test_a_declaration_of_a_layer_that_holds_others():
    class Block(nn.Module):
        on_channels = "each alone"

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm(12)

        def __call__(self, x):
            return self.norm(x)

    chain = ThinSequential(nn.Linear(6, 12), Block(), ThinDropout(0.5))
    with pytest.raises(ValueError, match="a Block that declares on_channels and holds"):
        chain(X)


# Layers that hold others, or arrays that they change.


class Gate(KeyedLayer):
    def __init__(self, *, key=None):
        super().__init__(key=key)
        self.dropout = Dropout(0.5)

    def draw(self, x, key):
        noise = mx.random.normal(x.shape, key=key)
        return self.dropout(x, key=fold_in(key, 1)) + noise


class OwnKeys(Gate):
    def draw(self, x, key):
        return self.dropout(x) + mx.random.normal(x.shape, key=key)


class Statistics(KeyedLayer):
    def __init__(self):
        super().__init__()
        self._mean = mx.zeros(())

    def draw(self, x, key):
        self._mean = x.mean()
        return x


def test_a_layer_that_holds_another_and_gives_it_a_key(key):
    layer, x, keys = Gate(), normal((6, 6)), mx.random.split(key, 6)
    y = layer(x, key=keys)
    for i in range(6):
        assert_same(y[i], layer.draw(x[i], keys[i]))
    model = nn.Sequential(nn.Linear(6, 6), layer)
    samples = sample(model, keys, x)
    for i in range(6):
        expected = functional_call(model, {}, x, key=keys[i : i + 1], dropout=True)
        np.testing.assert_allclose(samples[i], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", [OwnKeys, Statistics])
def test_what_changes_in_a_draw_of_each_example(build, key):
    """With one key it may; with a key for each example it would be lost, or repeated."""
    layer, x = build(), normal((6, 6))
    assert layer(x).shape == layer(x, key=key).shape == (6, 6)
    before = dict(tree_flatten(layer.state))
    for keys in (mx.random.split(key, 6), key[None]):
        with pytest.raises(ValueError, match=rf"A {build.__name__} with a key for each"):
            layer(x, key=keys)
    for name, array in tree_flatten(layer.state):
        assert_same(array, before[name])


def test_no_examples(key):
    y = Noise()(mx.zeros((0, 4)), key=mx.zeros((0, 2), mx.uint32))
    assert y.shape == (0, 4)


def test_a_subclass_of_a_layer_may_draw_otherwise(key):
    class Hundredfold(Dropout):
        def draw(self, x, key):
            return super().draw(x, key) * 100

    x = normal((4, 6))
    for keys in (key, mx.random.split(key, 4)):
        assert_same(Hundredfold(0.5)(x, key=keys), Dropout(0.5)(x, key=keys) * 100)


class OwnError(ValueError):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def test_an_error_of_its_own_is_raised_as_it_is(key):
    class Failing(KeyedLayer):
        def draw(self, x, key):
            raise OwnError("one", "two")

    with pytest.raises(OwnError, match="one two"):
        functional_call(nn.Sequential(Failing()), {}, mx.ones((2, 3)), key=key)


def test_a_subclass_of_a_layer_may_hold_what_it_likes():
    layer = Dropout(0.5)
    layer.dropout = layer.function = nn.ReLU()
    layer.check = True
    assert layer.dropout is layer.function
    for name in ("groups", "rate", "key"):
        with pytest.raises(AttributeError, match=name):
            setattr(layer, name, 2)


# How many calls of Python there are from a layer to MLX.


def frames_to_draws(call, monkeypatch):
    """How many frames there are from a layer's ``__call__`` to each caller of mx.random.

    Both ends are counted.
    """
    counted = []

    def counting(draw):
        def count(*args, **kwargs):
            frame, names = sys._getframe(1), []
            while "__call__" not in names:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            counted.append(len(names))
            return draw(*args, **kwargs)

        return count

    for name in ("split", "bernoulli", "uniform", "normal", "randint"):
        monkeypatch.setattr(mx.random, name, counting(getattr(mx.random, name)))
    call()
    return counted


@pytest.mark.parametrize("given", ["its own key", "one key", "a batch of keys"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Dropout2d(0.5), (4, 3, 3, 6)),
        (Dropout(0.5), (4, 6)),
        (ChannelDropout(0.5, (2, 3)), (4, 6, 3, 3)),
        (DropPath(0.5), (4, 3, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@pytest.mark.parametrize("rate", [0.5, 0.3, "array"])
def test_few_calls_of_python(layer, shape, given, rate, key, monkeypatch):
    """What a call costs before MLX has anything to do."""
    layer.p = mx.array(0.3) if rate == "array" else rate
    x = mx.ones(shape)
    keys = {"its own key": None, "one key": key, "a batch of keys": mx.random.split(key, 4)}
    frames = frames_to_draws(lambda: layer(x, key=keys[given]), monkeypatch)
    assert len(frames) == (2 if given == "its own key" else 1)
    assert 1 < min(frames) <= max(frames) <= (7 if given == "a batch of keys" else 6)


def test_its_place_among_the_layers():
    assert issubclass(DropoutLayer, KeyedLayer)
    for name in chandrop.nn.__all__:
        member = getattr(chandrop.nn, name)
        if isinstance(member, type) and member is not chandrop.nn.MultiHeadAttention:
            assert issubclass(member, KeyedLayer)
