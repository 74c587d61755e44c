"""ThinSequential against nn.Sequential of the same layers: the same, but not computed."""

import itertools
import operator
from contextlib import contextmanager
from unittest import mock
from zlib import crc32

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from subjects import assert_same, assert_trees_close, normal

from chandrop import nn as layers
from chandrop.nn import (
    Dropout,
    Dropout2d,
    checkpoint,
    convert,
    functional_call,
    get_keys,
    rekey,
    revert,
    set_keys,
    stack_parameters,
)
from chandrop.random import example_keys, fold_in
from chandrop.thin import ThinDropout, ThinSequential, keep_channels
from chandrop.uncertainty import predict, sample

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(autouse=True)
def uncompiled(request):
    """Saves the second that each of mlx.nn's activations takes to be compiled."""
    if "compiles" in request.fixturenames:
        yield
        return
    mx.disable_compile()
    yield
    mx.enable_compile()


class Mixing(nn.Module):
    """A user's module, of which nothing is known."""

    def __init__(self, channels):
        super().__init__()
        self.weight = mx.random.normal((channels, channels))

    def __call__(self, x):
        return mx.tanh(x @ self.weight + 1)


class Shifted(nn.ReLU):
    """It inherits from a known layer, and does otherwise."""

    def __call__(self, x):
        return super().__call__(x) + x.mean(-1, keepdims=True)


def between(*inner, channels=12, p=0.5):
    """Layers between two linear ones, on tokens."""
    return (nn.Linear(6, channels), *inner, nn.Linear(channels, 4)), (5, 3, 6)


def convolutions(kind, rank, *, side=6, **options):
    return (
        (
            kind(3, 8, 3, padding=1, **options),
            nn.ReLU(),
            ThinDropout(0.5),
            kind(8, 12, 3, bias=False, **options),
            nn.Tanh(),
            ThinDropout(0.25),
            kind(12, 2, 2, stride=2, **options),
        ),
        (2, *(side,) * rank, 3),
    )


def images(*inner):
    """Layers between two convolutions, on images."""
    return (
        (nn.Conv2d(3, 8, 3, padding=1), *inner, nn.Conv2d(8, 4, 3, padding=1)),
        (2, 6, 6, 3),
    )


def thinned_images(*inner):
    return images(nn.ReLU(), ThinDropout(0.5), *inner)


NETWORKS = {
    "linear, one axis": lambda: (
        (nn.Linear(6, 16), nn.ReLU(), ThinDropout(0.5), nn.Linear(16, 4)),
        (5, 6),
    ),
    "linear, tokens": lambda: between(nn.GELU(), ThinDropout(0.3)),
    "linear, no bias": lambda: (
        (nn.Linear(6, 8, bias=False), ThinDropout(0.5), nn.Linear(8, 4, bias=False)),
        (5, 6),
    ),
    "one channel is kept": lambda: between(nn.ReLU(), ThinDropout(0.99)),
    "nothing is dropped": lambda: between(nn.ReLU(), ThinDropout(0.01)),
    "conv1d": lambda: convolutions(nn.Conv1d, 1),
    "conv2d": lambda: convolutions(nn.Conv2d, 2),
    "conv2d, dilation": lambda: convolutions(nn.Conv2d, 2, side=9, dilation=2),
    "conv3d": lambda: convolutions(nn.Conv3d, 3),
    "transposed conv1d": lambda: convolutions(nn.ConvTranspose1d, 1),
    "transposed conv2d": lambda: convolutions(nn.ConvTranspose2d, 2, side=4),
    "transposed conv3d": lambda: convolutions(nn.ConvTranspose3d, 3, side=3),
    "batch norm": lambda: images(nn.BatchNorm(8), nn.ReLU(), ThinDropout(0.5)),
    "batch norm without arrays": lambda: images(
        nn.BatchNorm(8, affine=False, track_running_stats=False), ThinDropout(0.5)
    ),
    "batch norm after": lambda: thinned_images(nn.BatchNorm(8), nn.ReLU()),
    "batch norm first": lambda: (
        (nn.BatchNorm(8), nn.ReLU(), ThinDropout(0.5), nn.Conv2d(8, 4, 3)),
        (2, 6, 6, 8),
    ),
    "batch norm behind groups": lambda: images(
        nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm(8), nn.ReLU(), ThinDropout(0.5)
    ),
    "instance norm": lambda: images(
        nn.InstanceNorm(8, affine=True), nn.ReLU(), ThinDropout(0.5)
    ),
    "instance norm after": lambda: thinned_images(nn.InstanceNorm(8, affine=True)),
    "pooling before": lambda: images(
        nn.MaxPool2d(2), nn.AvgPool2d(2, 1), nn.Upsample(3.0), ThinDropout(0.5)
    ),
    "pooling after": lambda: thinned_images(
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1, 1), nn.Upsample(2.0, mode="linear")
    ),
    "pooling 1d": lambda: (
        (
            nn.Conv1d(3, 8, 3),
            ThinDropout(0.5),
            nn.MaxPool1d(2),
            nn.AvgPool1d(2, 1),
            nn.Conv1d(8, 2, 1),
        ),
        (2, 12, 3),
    ),
    "grouped": lambda: images(
        ThinDropout(0.5), nn.Conv2d(8, 8, 3, padding=1, groups=4), ThinDropout(0.5)
    ),
    "layer norm": lambda: between(
        nn.ReLU(), ThinDropout(0.5), nn.LayerNorm(12), ThinDropout(0.5)
    ),
    "group norm": lambda: thinned_images(nn.GroupNorm(2, 8)),
    "a user's module": lambda: between(
        ThinDropout(0.5), Mixing(12), nn.ReLU(), ThinDropout(0.5)
    ),
    "a lambda": lambda: between(ThinDropout(0.5), lambda x: x + 1, ThinDropout(0.5)),
    "a class that inherits": lambda: between(Shifted(), ThinDropout(0.5), Shifted()),
    "softmax and glu": lambda: between(
        nn.Softmax(), ThinDropout(0.5), nn.LogSoftmax(), nn.Linear(12, 24), nn.GLU()
    ),
    "not 0 of 0": lambda: between(
        nn.Sigmoid(),
        nn.Softplus(),
        mx.sigmoid,
        nn.LogSigmoid(),
        ThinDropout(0.5),
        nn.Step(-1.0),
        nn.Softplus(),
        mx.sigmoid,
    ),
    "functions": lambda: between(nn.relu, ThinDropout(0.5), mx.tanh, nn.silu),
    "one slope": lambda: between(nn.PReLU(), ThinDropout(0.5), nn.PReLU()),
    "slopes with more axes": lambda: between(
        slopes(12, (1, 1, 12)), ThinDropout(0.5), slopes(12, (1, 12))
    ),
    "a slope for each channel": lambda: between(slopes(12), ThinDropout(0.5), slopes(12)),
    "twice in a row": lambda: between(
        nn.ReLU(), ThinDropout(0.5), nn.ReLU(), ThinDropout(0.25)
    ),
    "first": lambda: ((ThinDropout(0.5), nn.Linear(6, 4), nn.ReLU()), (5, 6)),
    "last": lambda: ((nn.Linear(6, 10), nn.ReLU(), ThinDropout(0.5)), (5, 3, 6)),
    "alone": lambda: ((ThinDropout(0.5),), (5, 6)),
    "nested": lambda: (
        (
            nn.Sequential(nn.Linear(6, 12), nn.BatchNorm(12), nn.ReLU()),
            ThinSequential(nn.Tanh(), ThinDropout(0.5), nn.Sequential(nn.Linear(12, 8))),
            ThinDropout(0.5),
            nn.Linear(8, 2),
        ),
        (5, 6),
    ),
    "other dropouts before": lambda: images(
        nn.ReLU(),
        layers.Dropout(0.2),
        layers.Dropout2d(0.2),
        layers.DropPath(0.3),
        layers.GaussianDropout(0.2, (1, 2)),
        layers.DropBlock(0.2, 2, (1, 2)),
        ThinDropout(0.5),
    ),
    "other dropouts after": lambda: thinned_images(
        layers.Dropout(0.2),
        layers.Dropout2d(0.2, groups=4),
        layers.ChannelDropout(0.3, (2, 3)),
        layers.ConcreteDropout(0.3, (1, 2)),
        layers.DropPath(0.3),
        layers.GaussianDropout(mx.linspace(0, 0.5, 8), (1, 2)),
        layers.DropBlock(0.2, 2, (1, 2)),
        layers.Dropout2d(0.0),
        layers.Dropout2d(0.5).eval(),
    ),
    "alpha dropout": lambda: thinned_images(
        layers.AlphaDropout(0.2, (1, 2)), ThinDropout(0.5), nn.SELU()
    ),
    "one dropout at two places": lambda: twice(ThinDropout(0.5)),
    "off in part": lambda: (
        (
            nn.Linear(6, 12),
            ThinDropout(0.5).eval(),
            nn.Linear(12, 8),
            ThinDropout(0.0),
            nn.ReLU(),
            ThinDropout(0.5),
            ThinDropout(0.0),
            ThinDropout(0.5).eval(),
            nn.Linear(8, 2),
        ),
        (5, 6),
    ),
}


def slopes(channels, shape=(-1,)):
    layer = nn.PReLU(channels)
    layer.weight = mx.linspace(0.1, 0.5, channels).reshape(shape)
    return layer


def twice(dropout):
    return (nn.Linear(6, 8), dropout, nn.Linear(8, 8), dropout, nn.Linear(8, 2)), (5, 6)


each = pytest.mark.parametrize("name", NETWORKS)


def both(name):
    """The thin network and the dense one, of the same arrays and keys, and an input."""
    networks = []
    for kind in (ThinSequential, nn.Sequential):
        mx.random.seed(11)
        chain, shape = NETWORKS[name]()
        networks.append(kind(*chain))
        rekey(networks[-1], mx.random.key(5))
    return *networks, normal(shape)


def value_and_grads(module, x):
    """The loss, the gradients of parameters and input, and the output."""

    def loss(parameters, x):
        y, state = functional_call(module, parameters, x, key=KEY, return_state=True)
        return (y * mx.cos(mx.arange(y.size).reshape(y.shape))).sum(), y, state

    parameters = module.trainable_parameters()
    (value, y, _), gradients = mx.value_and_grad(loss, argnums=(0, 1))(parameters, x)
    return value, y, gradients


KEY = mx.random.key(20261123)


@each
def test_outputs_and_gradients_are_the_dense_ones(name):
    thin, dense, x = both(name)
    value, y, (parameters, over_x) = value_and_grads(thin, x)
    dense_value, dense_y, (dense_parameters, dense_over_x) = value_and_grads(dense, x)
    np.testing.assert_allclose(value, dense_value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y, dense_y, **TOLERANCE)
    np.testing.assert_allclose(over_x, dense_over_x, **TOLERANCE)
    assert_trees_close(parameters, dense_parameters, **TOLERANCE)
    assert y.shape == dense_y.shape


@each
def test_keys_advance_as_the_dense_ones(name):
    thin, dense, x = both(name)
    for _ in range(2):
        np.testing.assert_allclose(thin(x), dense(x), **TOLERANCE)
    keys, dense_keys = get_keys(thin), get_keys(dense)
    assert keys.keys() == dense_keys.keys()
    for path in keys:
        np.testing.assert_array_equal(keys[path], dense_keys[path])


@each
def test_in_eval_mode_it_is_sequential(name):
    thin, dense, x = both(name)
    assert_same(thin.eval()(x), dense.eval()(x))
    names = [(path, array.shape) for path, array in tree_flatten(thin.parameters())]
    assert names == [(path, a.shape) for path, a in tree_flatten(dense.parameters())]


@pytest.mark.parametrize(
    "name", ["batch norm", "nested", "batch norm first", "batch norm behind groups"]
)
def test_running_statistics(name):
    """Those of kept channels are the dense ones; those of dropped channels stay."""
    thin, dense, x = both(name)
    norms = [
        next(m for m in module.modules() if isinstance(m, nn.BatchNorm))
        for module in (thin, dense)
    ]
    before = dict(norms[0])
    thin(x), dense(x)
    channels = norms[0].num_features
    updated = np.array(norms[0].running_mean != before["running_mean"])
    assert updated.sum() == channels // 2
    for statistic in ("running_mean", "running_var"):
        expected = np.where(updated, norms[1][statistic], before[statistic])
        np.testing.assert_allclose(norms[0][statistic], expected, rtol=1e-5, atol=1e-7)


@contextmanager
def weights_of_convolutions():
    """Records the shapes of the weights that mx.conv2d is given."""
    shapes, conv2d = [], mx.conv2d

    def recording(x, weight, *args, **kwargs):
        shapes.append(weight.shape)
        return conv2d(x, weight, *args, **kwargs)

    with mock.patch.object(mx, "conv2d", recording):
        yield shapes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("conv2d", [(4, 3, 3, 3), (9, 3, 3, 4), (2, 2, 2, 9)]),
        ("batch norm", [(4, 3, 3, 3), (4, 3, 3, 4)]),
        ("batch norm first", [(4, 3, 3, 4)]),
        ("batch norm behind groups", [(8, 3, 3, 3), (8, 3, 3, 4), (4, 3, 3, 4)]),
        ("instance norm", [(4, 3, 3, 3), (4, 3, 3, 4)]),
        ("pooling before", [(4, 3, 3, 3), (4, 3, 3, 4)]),
        ("pooling after", [(4, 3, 3, 3), (4, 3, 3, 4)]),
        ("other dropouts before", [(4, 3, 3, 3), (4, 3, 3, 4)]),
        ("other dropouts after", [(4, 3, 3, 3), (4, 3, 3, 4)]),
        ("grouped", [(4, 3, 3, 3), (8, 3, 3, 2), (4, 3, 3, 4)]),
        ("batch norm after", [(4, 3, 3, 3), (4, 3, 3, 8)]),
        ("group norm", [(4, 3, 3, 3), (4, 3, 3, 8)]),
    ],
)
def test_what_is_dropped_is_not_computed(name, expected):
    thin, _, x = both(name)
    with weights_of_convolutions() as shapes:
        thin(x)
    assert shapes == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear, tokens", [(8, 6), (4, 8)]),
        ("nested", [(6, 6), (4, 6), (2, 4)]),
        ("functions", [(6, 6), (4, 6)]),
        ("one slope", [(6, 6), (4, 6)]),
        ("a slope for each channel", [(6, 6), (4, 6)]),
        ("not 0 of 0", [(6, 6), (4, 12)]),
        ("first", [(4, 3)]),
        ("last", [(5, 6)]),
        ("twice in a row", [(6, 6), (4, 6)]),
        ("a user's module", [(6, 6), (4, 6)]),
        ("layer norm", [(6, 6), (4, 6)]),
    ],
)
def test_what_is_dropped_is_not_computed_by_linear_layers(name, expected):
    thin, _, x = both(name)
    shapes, call = [], nn.Linear.__call__

    def recording(layer, x):
        shapes.append(layer.weight.shape)
        return call(layer, x)

    with mock.patch.object(nn.Linear, "__call__", recording):
        thin(x)
    assert shapes == expected


def network(kind, p=0.5):
    mx.random.seed(4)
    return kind(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm(8),
        nn.ReLU(),
        ThinDropout(p),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        ThinDropout(p),
        nn.Conv2d(8, 2, 3, padding=1),
    )


IMAGES = (3, 5, 6, 2)


def test_training_compiled_is_training_dense(compiles, key):
    """Without a retrace for a new key; parameters, statistics of kept channels and keys."""

    def train(kind):
        model = network(kind)
        rekey(model, key)
        optimizer = mlx.optimizers.SGD(0.05)
        optimizer.init(model.trainable_parameters())
        state, traces = [model.state, optimizer.state], []

        def step(x):
            traces.append(x)
            loss, gradient = nn.value_and_grad(model, lambda m, x: (m(x) ** 2).mean())(
                model, x
            )
            optimizer.update(model, gradient)
            return loss

        # The dense one eagerly, since every kernel takes a second to compile.
        if kind is ThinSequential:
            step = mx.compile(step, inputs=state, outputs=state)
        losses = [step(normal(IMAGES, seed=i)).item() for i in range(4)]
        assert len(traces) <= 2 or kind is nn.Sequential
        return losses, model

    (losses, thin), (dense_losses, dense) = train(ThinSequential), train(nn.Sequential)
    np.testing.assert_allclose(losses, dense_losses, rtol=1e-4)
    assert_trees_close(
        thin.trainable_parameters(), dense.trainable_parameters(), **TOLERANCE
    )
    for path, own in get_keys(thin).items():
        assert mx.array_equal(own, get_keys(dense)[path])


def test_vmap_over_keys(key):
    model, x, keys = network(ThinSequential).eval(), normal(IMAGES), mx.random.split(key, 3)

    def call(parameters, key):
        return functional_call(model, parameters, x, key=key, dropout=True)

    def losses(parameters):
        y = mx.vmap(call, in_axes=(None, 0))(parameters, keys)
        return (y**2).sum((1, 2, 3, 4))

    def one_by_one(parameters):
        return mx.stack([(call(parameters, key) ** 2).sum() for key in keys])

    parameters = model.trainable_parameters()
    np.testing.assert_allclose(losses(parameters), one_by_one(parameters), **TOLERANCE)
    together = mx.grad(lambda p: losses(p).sum())(parameters)
    expected = mx.grad(lambda p: one_by_one(p).sum())(parameters)
    assert_trees_close(together, expected, **TOLERANCE)


def test_checkpoint(key):
    """Loss, gradients, statistics and keys are those without it."""

    def step(call):
        model = network(ThinSequential)
        rekey(model, key)
        loss, gradient = nn.value_and_grad(model, lambda m, x: (call(m)(x) ** 2).mean())(
            model, normal(IMAGES)
        )
        return loss, gradient, model.state

    plain, again = step(lambda m: m), step(checkpoint)
    np.testing.assert_allclose(again[0], plain[0], rtol=1e-6)
    assert_trees_close(again[1], plain[1])
    assert_trees_close(again[2], plain[2])


def test_the_mode_is_that_of_the_dropouts(key):
    model, x = network(ThinSequential).eval(), normal(IMAGES)
    dense = network(nn.Sequential).eval()
    y = functional_call(model, {}, x, key=key, dropout=True)
    np.testing.assert_allclose(
        y, functional_call(dense, {}, x, key=key, dropout=True), **TOLERANCE
    )
    assert not mx.array_equal(y, model(x))
    with weights_of_convolutions() as shapes:
        functional_call(model, {}, x, key=key, dropout=True)
        model(x)
        functional_call(
            model, {}, x, key=key, dropout=lambda path, layer: path == "layers.6"
        )
    thin = [(4, 3, 3, 2), (4, 3, 3, 4), (2, 3, 3, 4)]
    whole = [(8, 3, 3, 2), (8, 3, 3, 8), (2, 3, 3, 8)]
    assert shapes == [*thin, *whole, (8, 3, 3, 2), (4, 3, 3, 8), (2, 3, 3, 4)]


def test_what_is_kept_is_what_keep_channels_gives(key):
    model, x = ThinSequential(ThinDropout(0.5)), normal((3, 10))
    y = functional_call(model, {}, x, key=key)
    layer_key = fold_in(key, crc32(b"layers.0"))
    kept = keep_channels(mx.random.split(layer_key)[1], 10, 0.5)
    np.testing.assert_array_equal(np.flatnonzero(np.array(y[0])), kept)


def test_weights_files_and_resuming(tmp_path, key):
    model, dense = network(ThinSequential), network(nn.Sequential)
    path = str(tmp_path / "weights.safetensors")
    dense.save_weights(path)
    model.load_weights(path, strict=True)
    model.save_weights(path)
    dense.load_weights(path, strict=True)
    rekey(model, key)
    x = normal(IMAGES)
    keys, first = get_keys(model), model(x)
    set_keys(model, keys)
    assert_same(model(x), first)


def test_convert_and_revert():
    """Other dropouts in the chain are converted; ThinDropout has no counterpart."""
    model = ThinSequential(nn.Linear(4, 8), nn.Dropout(0.2), ThinDropout(0.5))
    thin = model.layers[2]
    convert(model)
    assert isinstance(model.layers[1], Dropout)
    assert model.layers[2] is thin
    with pytest.raises(ValueError, match=r'ThinDropout\(p=0\.5\) at "layers\.2"'):
        revert(model)


def test_in_a_residual_block_in_a_model(key):
    class Block(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.inside = network(kind)

        def __call__(self, x):
            return x + self.inside(x)

    x = normal(IMAGES)
    thin, dense = (nn.Sequential(Block(kind)) for kind in (ThinSequential, nn.Sequential))
    np.testing.assert_allclose(
        functional_call(thin, {}, x, key=key),
        functional_call(dense, {}, x, key=key),
        **TOLERANCE,
    )


def test_export(key, tmp_path):
    model, x = network(ThinSequential).eval(), normal(IMAGES)

    def call(x, key):
        return functional_call(model, {}, x, key=key, dropout=True)

    path = str(tmp_path / "thin.mlxfn")
    mx.export_function(path, call, x, mx.random.key(99))
    imported = mx.import_function(path)(x, key)[0]
    np.testing.assert_allclose(imported, call(x, key), **TOLERANCE)


def test_samples_are_taken_one_after_another(key):
    """By default, since a batch of weights is slow, and with three axes impossible."""
    chain, shape = NETWORKS["conv3d"]()
    model, x, keys = ThinSequential(*chain), normal(shape), mx.random.split(key, 4)
    samples = sample(model, keys, x)
    for drawn, member in zip(keys, samples, strict=True):
        dense = nn.Sequential(*model.layers).eval()
        expected = functional_call(dense, {}, x, key=drawn[None], dropout=True)
        np.testing.assert_allclose(member, expected, **TOLERANCE)
    model = nn.Sequential(model, lambda y: y.mean((1, 2, 3)))
    probabilities = mx.softmax(sample(model, keys, x, chunk=1), axis=-1).mean(0)
    summary = predict(model, keys, x)
    np.testing.assert_allclose(summary.probabilities, probabilities, **TOLERANCE)
    with pytest.raises(ValueError, match=r"one key, .* consistent=False gave each"):
        predict(model, keys, x, consistent=False)


@pytest.mark.parametrize(
    ("p", "dropout", "calls"),
    [
        (0.5, None, 4),
        (0.5, lambda path, layer: path == "layers.2", 1),
        (0, None, 1),
    ],
    ids=["thin", "not thin", "all kept"],
)
def test_what_is_not_thin_is_vmapped(p, dropout, calls, key):
    """What does not depend on the key is computed once."""
    counted = []

    def count(x):
        counted.append(x)
        return x

    model = nn.Sequential(count, network(ThinSequential, p), Dropout(0.2))
    sample(model, mx.random.split(key, 4), normal(IMAGES), dropout=dropout)
    assert len(counted) == calls
    counted.clear()
    linear = ThinSequential(count, nn.Linear(2, 8), ThinDropout(0.5), nn.Linear(8, 2))
    sample(linear, mx.random.split(key, 4), normal(IMAGES))
    assert len(counted) == 1


FIRST = {
    "the chain": lambda: [],
    "a thin dropout": lambda: [ThinDropout(0.5)],
    "a dropout": lambda: [Dropout(0.5), nn.Identity()],
}


def behind(first, axes):
    convolution = nn.Conv1d if axes == 1 else nn.Conv2d
    chain = [convolution(2, 8, 3), nn.ReLU(), ThinDropout(0.5), convolution(8, 8, 3)]
    chain += [ThinDropout(0.5), convolution(8, 3, 1)]
    before = FIRST[first]()
    if first == "a dropout":
        return nn.Sequential(*before, ThinSequential(*chain)).eval()
    return ThinSequential(*before, *chain).eval()


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(
    ("around", "inside"), [*itertools.permutations(["parameters", "inputs", "keys"], 2)]
)
def test_nested_vmaps_are_loops(first, axes, around, inside, key):
    """MLX takes wrong groups for a batch of weights and an input that is none."""
    models = [behind(first, axes) for _ in range(2)]
    model, keys = models[0], mx.random.split(key, 2)
    xs = normal((2, 2, *[7] * axes, 2))
    own = {
        "parameters": [m.parameters() for m in models],
        "inputs": list(xs),
        "keys": list(keys),
    }
    stacked = {"parameters": stack_parameters(models), "inputs": xs, "keys": keys}

    def call(arguments):
        given = {name: own[name][0] for name in own} | arguments
        return functional_call(
            model,
            given["parameters"],
            given["inputs"],
            key=given["keys"][None],
            dropout=True,
        )

    def vmapped(outer):
        each = lambda inner: call({around: outer, inside: inner})  # noqa: E731
        return mx.vmap(each)(stacked[inside])

    got = mx.vmap(vmapped)(stacked[around])
    for i, outer in enumerate(own[around]):
        for j, inner in enumerate(own[inside]):
            expected = call({around: outer, inside: inner})
            np.testing.assert_allclose(got[i, j], expected, **TOLERANCE)


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_samples_within_vmap_are_those_of_a_loop(first, chunk, key):
    """Over stacked parameters, over inputs and over sets of keys."""
    models = [behind(first, 2) for _ in range(2)]
    model, keys, xs = models[0], mx.random.split(key, 4), normal((2, 2, 7, 7, 2))

    def network(parameters, keys, x):
        def one(key, x):
            return functional_call(model, parameters, x, key=key[None], dropout=True)

        return sample(one, keys, x)

    def loop(parameters, keys, x):
        return mx.stack([network(parameters, keys[i : i + 1], x)[0] for i in range(4)])

    stacked = stack_parameters(models)
    got = mx.vmap(lambda p: network(p, keys, xs[0]))(stacked)
    for i, each in enumerate(models):
        expected = loop(each.parameters(), keys, xs[0])
        np.testing.assert_allclose(got[i], expected, **TOLERANCE)
    got = mx.vmap(lambda x: network({}, keys, x))(xs)
    of_model = mx.vmap(lambda x: sample(model, keys, x))(xs)
    for i in range(2):
        np.testing.assert_allclose(got[i], loop({}, keys, xs[i]), **TOLERANCE)
        np.testing.assert_allclose(of_model[i], loop({}, keys, xs[i]), **TOLERANCE)
    chunked = sample(model, keys, xs[0], chunk=chunk)
    np.testing.assert_allclose(chunked, loop({}, keys, xs[0]), **TOLERANCE)
    sets = mx.random.split(key, 8).reshape(2, 4, 2)
    got = mx.vmap(lambda keys: network({}, keys, xs[0]))(sets)
    for i in range(2):
        np.testing.assert_allclose(got[i], loop({}, sets[i], xs[0]), **TOLERANCE)


@pytest.mark.parametrize("chunk", [2, 4])
def test_chunks_of_samples_are_vmapped(chunk, key):
    model, x = network(ThinSequential), normal(IMAGES)
    keys = mx.random.split(key, 4)
    np.testing.assert_allclose(
        sample(model, keys, x, chunk=chunk), sample(model, keys, x), **TOLERANCE
    )


@pytest.mark.parametrize(
    ("chain", "shape", "message"),
    [
        (
            lambda: (nn.Linear(4, 8), ThinDropout(), nn.Linear(6, 2)),
            (3, 4),
            r'8 channels at "layers\.2" of a ThinSequential, which is a Linear.*6\.',
        ),
        (
            lambda: (nn.Linear(5, 8), ThinDropout()),
            (3, 4),
            r'Received 4 channels at "layers\.0" of a ThinSequential.* Expected 5\.',
        ),
        (
            lambda: (nn.Linear(4, 8), nn.BatchNorm(6), ThinDropout()),
            (3, 4),
            r'8 channels at "layers\.1".*BatchNorm.* Expected 6\.',
        ),
        (
            lambda: (nn.Linear(4, 8), nn.Sequential(ThinDropout(), nn.PReLU(6))),
            (3, 4),
            r'8 channels at "layers\.1\.layers\.1".* Expected 6\.',
        ),
        (
            lambda: (nn.BatchNorm(6), nn.Linear(8, 8), ThinDropout(), nn.Linear(8, 2)),
            (3, 8),
            r'8 channels at "layers\.0".*BatchNorm.* Expected 6\.',
        ),
        (
            lambda: (nn.Linear(4, 8), ThinDropout(), nn.BatchNorm(6)),
            (3, 4),
            r'8 channels at "layers\.2".*BatchNorm.* Expected 6\.',
        ),
        (
            lambda: (nn.Linear(4, 8), ThinDropout(), nn.Linear(8, 8), nn.BatchNorm(6)),
            (3, 4),
            r'8 channels at "layers\.3".*BatchNorm.* Expected 6\.',
        ),
    ],
)
def test_channels_that_do_not_match(chain, shape, message):
    with pytest.raises(ValueError, match=message):
        ThinSequential(*chain())(mx.ones(shape))


def test_only_arrays_have_channels_that_match():
    """What a function between the layers passes on is its own affair."""
    chain = ThinSequential(
        nn.Linear(4, 8),
        ThinDropout(),
        lambda x: (x, x),
        lambda pair: pair[0] + pair[1],
        nn.Linear(8, 2),
    )
    assert chain(mx.ones((3, 4))).shape == (3, 2)
    assert ThinSequential(ThinDropout(), nn.GroupNorm(2, 8))(mx.ones((3, 8))).shape == (
        3,
        8,
    )


def test_no_thin_dropout():
    """A mask for each example is not thin, nor is a chain without dropout."""
    message = (
        r"Received no ThinDropout .* chandrop\.thin\.ThinDropout\(p\) where .*Sequential"
    )
    for layer in (Dropout2d(0.3), nn.Dropout2d(0.3), nn.ReLU(), nn.Sequential(nn.ReLU())):
        with pytest.raises(ValueError, match=message):
            ThinSequential(nn.Conv2d(3, 8, 3), layer)
    ThinSequential(Dropout2d(0.3), nn.Sequential(ThinDropout()))


def test_layers_that_are_none():
    layers = [nn.Linear(4, 8), ThinDropout()]
    for wrong, received in (
        ([layers], "of type list"),
        ([iter(layers)], "of type list_iterator"),
        ([nn.Linear(4, 8), ThinDropout], "that is the class ThinDropout itself"),
        ([nn.Linear, ThinDropout()], "that is the class Linear itself"),
    ):
        with pytest.raises(TypeError, match=rf"a layer {received}\. .*\(\*layers\)"):
            ThinSequential(*wrong)


class Louder(ThinDropout):
    """It inherits from ThinDropout, and does otherwise."""

    def __call__(self, x):
        return super().__call__(x) * 10


def test_what_inherits_from_thin_dropout_is_called(key):
    layers = (nn.Linear(4, 8), Louder(0.5), nn.Linear(8, 2))
    x = normal((3, 4))
    thin, dense = ThinSequential(*layers), nn.Sequential(*layers)
    np.testing.assert_allclose(
        functional_call(thin, {}, x, key=key),
        functional_call(dense, {}, x, key=key),
        **TOLERANCE,
    )


@pytest.mark.parametrize("x", [mx.array(1.0), [1.0], None], ids=str)
def test_inputs_without_channels(x):
    for first in (ThinDropout(0.5), nn.ReLU()):
        with pytest.raises((TypeError, ValueError), match=r"Received .*Expected an"):
            ThinSequential(first, ThinDropout(0.5))(x)


def test_integers_that_reach_the_dropout():
    for step in (nn.Step(), nn.step):
        with pytest.raises(TypeError, match=r"Received dtype .*int32"):
            ThinSequential(nn.Linear(4, 8), step, ThinDropout(0.5))(mx.ones((2, 4)))


def test_statistics_have_the_dtype_of_the_dense_ones():
    norms = []
    for kind in (ThinSequential, nn.Sequential):
        model = kind(nn.Linear(4, 8), nn.BatchNorm(8), ThinDropout(0.5))
        model.set_dtype(mx.float16)
        model(normal((3, 4)))
        norms.append(model.layers[1])
    for statistic in ("running_mean", "running_var"):
        assert norms[0][statistic].dtype == norms[1][statistic].dtype == mx.float32


def test_second_order_and_forward_derivatives(key):
    layers = (nn.Linear(4, 8), nn.Tanh(), ThinDropout(0.5), nn.Linear(8, 2))
    x, tangent = normal((3, 4)), normal((3, 4), seed=2)

    def derivatives(model):
        def call(x):
            return functional_call(model, {}, x, key=key)

        def slope(x):
            return (mx.grad(lambda x: call(x).sum())(x) ** 2).sum()

        return mx.jvp(call, [x], [tangent])[1][0], mx.grad(slope)(x)

    thin, dense = (derivatives(kind(*layers)) for kind in (ThinSequential, nn.Sequential))
    for one, other in zip(thin, dense, strict=True):
        np.testing.assert_allclose(one, other, **TOLERANCE)


def test_vmap_over_parameters_and_keys(key):
    """With BatchNorm in training mode."""
    members = [network(ThinSequential) for _ in range(3)]
    for member, seed in zip(members, range(3), strict=True):
        member.layers[0].weight = normal(member.layers[0].weight.shape, seed=seed)
    keys, x = mx.random.split(key, 3), normal(IMAGES)
    stacked = stack_parameters(members)

    def call(parameters, key):
        return functional_call(members[0], parameters, x, key=key, return_state=True)

    outputs, states = mx.vmap(call)(stacked, keys)
    for i, (member, key) in enumerate(zip(members, keys, strict=True)):
        y, state = call(member.parameters(), key)
        np.testing.assert_allclose(outputs[i], y, **TOLERANCE)
        own = tree_map(operator.itemgetter(i), states)
        assert_trees_close(own, state, **TOLERANCE)


def test_a_key_for_each_example(key):
    model, x = network(ThinSequential), normal(IMAGES)
    message = r'layer at "layers\.3": Received keys of shape \(3, 2\)\. Expected one key'
    with pytest.raises(ValueError, match=message):
        functional_call(model, {}, x, key=example_keys(key, 3))
    rekey(model, example_keys(key, 3))
    with pytest.raises(ValueError, match=r"Received keys of shape \(3, 2\)"):
        model(x)


def test_inputs_of_integers():
    with pytest.raises(TypeError, match=r"Received dtype .*int32"):
        ThinSequential(ThinDropout(0.5))(mx.ones((2, 8), dtype=mx.int32))
