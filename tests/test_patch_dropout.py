"""Patch dropout: which tokens are kept, against NumPy, and what computes on them alone."""

import copy
import pickle

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import numpy as np
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same, assert_trees_close, normal

from chandrop.nn import (
    Dropout,
    check_step,
    checkpoint,
    functional_call,
    get_keys,
    rekey,
    set_keys,
)
from chandrop.random import example_keys, fold_in
from chandrop.thin import (
    PatchDropout,
    ThinDropout,
    ThinSequential,
    keep_channels,
    patch_dropout,
)
from chandrop.uncertainty import predict

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
# A shape, and how many tokens of the prefix it has.
CASES = [
    ((3, 8, 4), 1),
    ((3, 8, 4), 0),
    ((1, 11, 2), 3),
    ((4, 9, 3), 1),
    ((2, 5, 3), 2),
]
each = pytest.mark.parametrize(("shape", "prefix"), CASES, ids=str)


def places(shape, p, key, prefix):
    """Where the kept tokens of each example are, by what is kept for each key."""
    examples, tokens = shape[0], shape[1] - prefix
    keys = [fold_in(key, i) for i in range(examples)] if key.ndim == 1 else list(key)
    keys *= examples // len(keys)
    kept = [np.array(keep_channels(key, tokens, p)).astype(int) for key in keys]
    return np.stack([[*range(prefix), *prefix + some] for some in kept])


def reference(x, p, key, prefix=1):
    """Patch dropout by NumPy."""
    rows = np.arange(len(x))[:, None]
    return np.array(x)[rows, places(x.shape, p, key, prefix)]


@each
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.99])
def test_what_is_kept_is_selected_by_each_examples_key(shape, prefix, p, key):
    x, keys = normal(shape), mx.random.split(key, shape[0])
    tokens = shape[1] - prefix
    kept = max(1, round((1 - p) * tokens))
    for given in (key, keys, key[None]):
        y = patch_dropout(x, p, given, prefix)
        assert y.shape == (shape[0], prefix + kept, *shape[2:])
        np.testing.assert_array_equal(y, reference(x, p, given, prefix))


def test_examples_keep_sets_of_their_own_in_order(key):
    x = mx.broadcast_to(mx.arange(9)[:, None], (5, 9, 2))
    kept = np.array(patch_dropout(x, 0.5, key))[:, :, 0]
    assert (np.diff(kept) > 0).all()
    assert (kept[:, 0] == 0).all()
    assert len(np.unique(kept, axis=0)) > 1
    alike = np.array(patch_dropout(x, 0.5, key[None]))[:, :, 0]
    np.testing.assert_array_equal(alike, alike[:1].repeat(5, 0))
    assert not np.array_equal(patch_dropout(x, 0.5, fold_in(key, 1))[:, :, 0], kept)


@each
def test_an_example_depends_on_its_key_alone(shape, prefix, key):
    """So a batch may be cut, also with one key, which stands for keys by position."""
    x, keys = normal(shape), example_keys(key, shape[0])
    whole = patch_dropout(x, 0.5, keys, prefix)
    assert_same(patch_dropout(x, 0.5, key, prefix), whole)
    for i in range(shape[0]):
        one = patch_dropout(x[i : i + 1], 0.5, keys[i : i + 1], prefix)
        assert_same(one[0], whole[i])
    assert_same(patch_dropout(x[:1], 0.5, key, prefix), whole[:1])
    rest = example_keys(key, shape[0] - 1, offset=1)
    assert_same(patch_dropout(x[1:], 0.5, rest, prefix), whole[1:])


@pytest.mark.parametrize("kind", ["one", "each", "alike"])
def test_purity_and_vmap(kind, get_key):
    keys = mx.stack([get_key() for _ in range(6)])
    if kind == "each":
        keys = mx.stack([example_keys(key, 4) for key in keys])
    if kind == "alike":
        keys = keys[:, None]
    x, xs = normal((4, 7, 3)), normal((6, 4, 7, 3), seed=2)

    def call(x, key):
        return patch_dropout(x, 0.5, key)

    over_keys = mx.vmap(call, in_axes=(None, 0))(x, keys)
    over_both = mx.vmap(call)(xs, keys)
    over_x = mx.vmap(call, in_axes=(0, None))(xs, keys[0])
    last = mx.vmap(call, in_axes=(-1, 0), out_axes=1)(mx.moveaxis(xs, 0, -1), keys)
    nested = mx.vmap(mx.vmap(call))(
        xs.reshape(2, 3, *x.shape), keys.reshape(2, 3, *keys.shape[1:])
    )
    for i in range(6):
        assert_same(over_keys[i], call(x, keys[i]))
        assert_same(over_both[i], call(xs[i], keys[i]))
        assert_same(over_x[i], call(xs[i], keys[0]))
        assert_same(last[:, i], call(xs[i], keys[i]))
        assert_same(nested[i // 3, i % 3], call(xs[i], keys[i]))
    gradients = mx.vmap(mx.grad(lambda x, key: (call(x, key) ** 2).sum()))(xs, keys)
    for i in range(6):
        expected = mx.grad(lambda x, key=keys[i]: (call(x, key) ** 2).sum())(xs[i])
        assert_same(gradients[i], expected)


@each
def test_gradients(shape, prefix, key):
    """The gradient is 0 at the tokens that are left out."""
    x, rows = normal(shape), np.arange(shape[0])[:, None]
    for given in (key, mx.random.split(key, shape[0]), key[None]):

        def call(x, key=given):
            return patch_dropout(x, 0.5, key, prefix)

        kept = places(shape, 0.5, given, prefix)
        cotangent = normal(call(x).shape, seed=2)
        expected = np.zeros(shape, np.float32)
        expected[rows, kept] = cotangent
        _, (backward,) = mx.vjp(call, [x], [cotangent])
        np.testing.assert_array_equal(backward, expected)
        tangent = normal(shape, seed=3)
        _, (forward,) = mx.jvp(call, [x], [tangent])
        np.testing.assert_array_equal(forward, call(tangent))
        second = mx.grad(lambda x: mx.grad(lambda x: (call(x) ** 3).sum())(x).sum())(x)
        expected[rows, kept] = 6 * np.array(x)[rows, kept]
        np.testing.assert_allclose(second, expected, rtol=1e-6)
        over_key = mx.grad(lambda key, call=call: (call(x, key) ** 2).sum())(given)
        assert_same(over_key, mx.zeros_like(given))


def test_compiled_is_eager_bit_for_bit_without_a_retrace(compiles, get_key):
    traces = []

    def gradient(x, key):
        traces.append(x)
        return mx.grad(lambda x: (patch_dropout(mx.tanh(x), 0.5, key) ** 2).sum())(x)

    compiled = mx.compile(gradient)
    kept = mx.compile(lambda x, key: patch_dropout(x, 0.5, key))
    x = normal((3, 8, 4))
    for key in [get_key() for _ in range(4)]:
        assert_same(kept(x, key), patch_dropout(x, 0.5, key))
        np.testing.assert_allclose(compiled(x, key), gradient(x, key), **TOLERANCE)
    assert len(traces) <= 4 + 2


def test_checkpoint_and_export(key, tmp_path):
    def call(x, key):
        return patch_dropout(mx.tanh(x), 0.5, key)

    x, path = normal((3, 8, 4)), str(tmp_path / "patch.mlxfn")
    gradient = mx.grad(lambda x: (call(x, key) ** 2).sum())(x)
    again = mx.grad(lambda x: (mx.checkpoint(call)(x, key) ** 2).sum())(x)
    assert_same(again, gradient)
    mx.export_function(path, call, x, mx.random.key(99))
    assert_same(mx.import_function(path)(x, key)[0], call(x, key))


@pytest.mark.parametrize(
    "dtype",
    [
        *(mx.float16, mx.bfloat16, mx.float32, mx.complex64),
        *(mx.int32, mx.uint8, mx.uint32, mx.bool_),
    ],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False])
def test_any_dtype(dtype, training, key):
    x = (normal((3, 8, 4)) * 9).astype(dtype)
    y = PatchDropout(0.5, key=key).train(training)(x)
    assert y.dtype == dtype
    if training:
        _, subkey = mx.random.split(key)
        expected = reference(x.astype(mx.complex64), 0.5, subkey)
        np.testing.assert_array_equal(y.astype(mx.complex64), expected)


@pytest.mark.parametrize(
    ("shape", "p", "prefix", "expected"),
    [
        ((0, 8, 4), 0.5, 2, (0, 5, 4)),
        ((3, 2, 4), 0.5, 2, (3, 2, 4)),
        ((3, 0, 4), 0.5, 0, (3, 0, 4)),
        ((3, 8, 4), 0, 1, (3, 8, 4)),
        ((3, 8, 4), 0.05, 1, (3, 8, 4)),
        ((3, 8, 4), 0.999, 0, (3, 1, 4)),
        ((3, 3, 4), 0.999, 2, (3, 3, 4)),
        ((3, 8, 0), 0.5, 0, (3, 4, 0)),
        ((0, 0, 0), 0.5, 0, (0, 0, 0)),
    ],
    ids=str,
)
def test_corner_cases(shape, p, prefix, expected, key):
    x, layer = normal(shape), PatchDropout(p, prefix)
    keys = [key, key[None], mx.random.split(key, shape[0] or 1)[: shape[0]]]
    for given in keys:
        y = patch_dropout(x, p, given, prefix)
        mx.eval(y)  # over no keys, MLX divides by their number
        assert y.shape == layer(x, key=given).shape == expected
    if expected == shape:
        assert_same(patch_dropout(x, p, key, prefix), x)
    assert layer(x).shape == expected


def test_the_layer_is_the_function(key):
    x, keys = normal((3, 8, 4)), mx.random.split(key, 3)
    layer = PatchDropout(0.5, 2, key=key)
    for given in (key, keys, key[None]):
        assert_same(layer(x, key=given), patch_dropout(x, 0.5, given, 2))
    assert_same(layer._key, key)
    advanced, subkey = mx.random.split(key)
    assert_same(layer(x), patch_dropout(x, 0.5, subkey, 2))
    assert_same(layer._key, advanced)
    assert layer.eval()(x) is x
    assert_same(layer._key, advanced)
    assert not layer.parameters()
    assert not layer._would_draw()
    assert repr(layer) == "PatchDropout(p=0.5, prefix_tokens=2)"
    assert repr(PatchDropout(0.5)) == "PatchDropout(p=0.5)"


@pytest.mark.parametrize(("p", "tokens"), [(0, 8), (0.05, 8), (0.9, 1), (0.9, 2)], ids=str)
def test_a_layer_that_keeps_all_keeps_its_key(p, tokens, key):
    layer, x = PatchDropout(p, key=key), normal((3, tokens, 4))
    assert_same(layer(x), x)
    assert_same(layer._key, key)


def test_the_rate_may_be_set(key):
    layer = PatchDropout(0.5)
    layer.p = 0.75
    assert layer(mx.ones((2, 9, 4))).shape == (2, 3, 4)
    for p, error in ((mx.array(0.5), TypeError), (1, ValueError), (None, TypeError)):
        with pytest.raises(error, match="Expected"):
            layer.p = p
        with pytest.raises(error, match="Expected"):
            PatchDropout(p)
    assert layer.p == 0.75
    with pytest.raises(AttributeError, match="prefix_tokens cannot be set"):
        layer.prefix_tokens = 2


class Transformer(nn.Module):
    """A vision transformer of patches that are embedded."""

    def __init__(self, p=0.5, key=None):
        super().__init__()
        self.class_token = mx.zeros((1, 1, 8))
        self.positions = mx.random.normal((1, 1 + 6, 8))
        self.patch_dropout = PatchDropout(p)
        self.encoder = nn.TransformerEncoder(2, 8, 2, 16, norm_first=True)
        self.head = nn.Linear(8, 3)
        if key is not None:
            rekey(self, key)

    def __call__(self, patches):
        class_token = mx.broadcast_to(self.class_token, (len(patches), 1, 8))
        x = mx.concatenate([class_token, patches], axis=1) + self.positions
        return self.head(self.encode(self.patch_dropout(x))[:, 0])

    def encode(self, x):
        return self.encoder(x, None)


PATCHES = (5, 6, 8)


def test_the_rest_of_the_network_computes_the_kept_tokens_alone(key):
    """Its output and gradients are those of the network of these tokens."""
    seen = []

    class Watched(Transformer):
        def encode(self, x):
            seen.append(x.shape)
            return super().encode(x)

    model, x = Watched(key=key).eval(), normal(PATCHES)

    def loss(parameters, x):
        y = functional_call(model, parameters, x, key=key, dropout=True)
        return (y * mx.cos(mx.arange(y.size).reshape(y.shape))).sum()

    received = mx.value_and_grad(loss, argnums=(0, 1))(model.parameters(), x)
    assert seen == [(5, 4, 8)]
    _, subkey = mx.random.split(get_keys(model)["patch_dropout"])
    kept = places((5, 7, 8), 0.5, subkey, 1)
    plain = Transformer(0)

    def plain_loss(parameters, x):
        """Of each example alone, by plain indices."""
        plain.update(parameters)
        outputs = []
        for i in range(5):
            positions = plain.positions[:, mx.array(kept[i])]
            tokens = x[i : i + 1, mx.array(kept[i][1:] - 1)]
            tokens = mx.concatenate([plain.class_token, tokens], axis=1) + positions
            outputs.append(plain.head(plain.encode(tokens)[:, 0]))
        y = mx.concatenate(outputs)
        return (y * mx.cos(mx.arange(y.size).reshape(y.shape))).sum()

    expected = mx.value_and_grad(plain_loss, argnums=(0, 1))(model.parameters(), x)
    np.testing.assert_allclose(received[0], expected[0], rtol=1e-4)
    assert_trees_close(received[1], expected[1], **TOLERANCE)


def test_a_batch_is_cut_by_keys_of_the_examples(key):
    model, x = Transformer().eval(), normal(PATCHES)

    def call(x, offset):
        keys = example_keys(key, len(x), offset)
        return functional_call(model, {}, x, key=keys, dropout=True)

    parts = mx.concatenate([call(x[:2], 0), call(x[2:], 2)])
    np.testing.assert_allclose(parts, call(x, 0), **TOLERANCE)


def test_one_set_for_all_examples_is_a_subnetwork(key):
    """So predictions do not depend on how the examples are batched."""
    model, x = Transformer(), normal(PATCHES)
    keys = mx.random.split(key, 3)
    whole = predict(model, keys, x)
    parts = predict(model, keys, x, batch_size=2)
    by_loop = predict(model, keys, x, chunk=1)
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, **TOLERANCE)
    np.testing.assert_allclose(by_loop.probabilities, whole.probabilities, **TOLERANCE)
    logits = [functional_call(model, {}, x, key=key[None]) for key in keys]
    mean = mx.softmax(mx.stack(logits), axis=-1).mean(0)
    np.testing.assert_allclose(whole.probabilities, mean, **TOLERANCE)
    predict(model, keys, x, consistent=False)


@pytest.mark.parametrize("wrap", [mx.checkpoint, nn.utils.checkpoint, checkpoint])
def test_checkpoints_of_a_model_with_its_own_keys(wrap, key):
    x = normal(PATCHES)

    def gradient(wrap):
        mx.random.seed(1)
        model = Transformer(key=key)
        wrapped = wrap(model)
        value = mx.value_and_grad(lambda x: (wrapped(x) ** 2).sum())(x)
        return value, get_keys(model)

    expected = gradient(lambda model: model)
    assert_trees_close(gradient(wrap), expected, **TOLERANCE)


def test_compiled_steps(compiles, key):
    """Each step has sets of its own, as an eager one has, and the shapes stay."""

    def train(compile_it):
        mx.random.seed(3)
        model = Transformer(key=key)
        optimizer = mlx.optimizers.SGD(0.01)
        optimizer.init(model.trainable_parameters())
        state, traces = [model.state, optimizer.state], []

        def step(x):
            traces.append(x)
            loss, gradient = nn.value_and_grad(model, lambda m, x: (m(x) ** 2).mean())(
                model, x
            )
            optimizer.update(model, gradient)
            return loss

        if compile_it:
            step = mx.compile(step, inputs=state, outputs=state)
            check_step(model, step, normal(PATCHES), optimizer=optimizer)
            traces.clear()
        losses = [step(normal(PATCHES, seed=i)).item() for i in range(4)]
        assert not (compile_it and traces)
        return losses, model

    received, expected = train(True), train(False)
    np.testing.assert_allclose(received[0], expected[0], **TOLERANCE)
    assert_trees_close(received[1].parameters(), expected[1].parameters(), **TOLERANCE)
    assert_same(*(get_keys(model)["patch_dropout"] for _, model in (received, expected)))


def test_tools_for_whole_models(key, tmp_path):
    model, x = Transformer(key=key), normal(PATCHES)
    names = [name for name, _ in tree_flatten(model.parameters())]
    assert not any("patch_dropout" in name for name in names)
    keys = get_keys(model)
    assert list(keys) == ["patch_dropout"]
    y = model(x)
    assert_same(functional_call(model, {}, x, key=key), y)
    set_keys(model, keys)
    layer = model.patch_dropout
    pickled, copied = pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)
    assert_same(pickled(x), layer(x, key=mx.random.split(layer._key)[1]))
    assert not mx.array_equal(copied._key, layer._key)
    assert repr(copied) == repr(pickled) == repr(layer)
    model.save_weights(str(tmp_path / "weights.npz"))
    other = Transformer(0)
    other.load_weights(str(tmp_path / "weights.npz"))
    assert_same(other(x), model.eval()(x))


def test_members_of_a_vmap_keep_tokens_of_their_own(key):
    model, x = Transformer(key=key), normal(PATCHES)
    xs = mx.stack([x, x])
    ys = mx.vmap(model)(xs)
    assert not mx.allclose(ys[0], ys[1], atol=1e-3)
    keys = mx.random.split(key, 2)
    stacked = mx.vmap(lambda key: functional_call(model, {}, x, key=key))(keys)
    for i in range(2):
        expected = functional_call(model, {}, x, key=keys[i])
        np.testing.assert_allclose(stacked[i], expected, **TOLERANCE)


def test_a_thin_chain_hands_it_all_channels(key):
    """Before and after it, the chain computes the kept channels alone."""
    seen = []

    class Watching(nn.Module):
        on_channels = "keeps zero"

        def __call__(self, x):
            seen.append(x.shape)
            return x

    layers = [nn.Linear(4, 8), Watching(), ThinDropout(0.5), PatchDropout(0.5)]
    layers += [nn.Linear(8, 8), Watching(), ThinDropout(0.5), nn.Linear(8, 2)]
    thin, dense, x = ThinSequential(*layers), nn.Sequential(*layers), normal((3, 9, 4))
    rekey(thin, key)
    y = thin(x)
    assert seen == [(3, 9, 4), (3, 5, 4)]
    rekey(dense, key)
    np.testing.assert_allclose(y, dense(x), **TOLERANCE)


def test_beside_other_layers_each_draws_for_what_it_gets(key):
    model, x = nn.Sequential(PatchDropout(0.5), Dropout(0.5)), normal((3, 9, 4))
    keys = example_keys(key, 3)
    y = functional_call(model, {}, x, key=keys)
    for i in range(3):
        one = functional_call(model, {}, x[i : i + 1], key=keys[i : i + 1])
        assert_same(one[0], y[i])


@pytest.mark.parametrize("training", [True, False])
def test_inputs_that_have_no_tokens(training, key):
    layer = PatchDropout(0.5, 3).train(training)
    calls = [layer, lambda x: layer(x, key=key)]
    if training:
        calls.append(lambda x: patch_dropout(x, 0.5, key, 3))
    for call in calls:
        with pytest.raises(ValueError, match=r"shape \(8, 4\)\. Expected 3 axes"):
            call(mx.ones((8, 4)))
        assert call(mx.ones((8, 4))[None]).ndim == 3
        with pytest.raises(ValueError, match=r"shape \(\)\. Expected 3 axes"):
            call(mx.array(1.0))
        with pytest.raises(ValueError, match=r"tokens along axis 1: x\.flatten\(1, -2\)"):
            call(mx.ones((2, 14, 14, 8)))
        with pytest.raises(
            ValueError, match=r"= 3 for an input of shape \(5, 2, 4\)\. Expected at most 2,"
        ):
            call(mx.ones((5, 2, 4)))
        with pytest.raises(TypeError, match="an input of dtype uint32, as keys have"):
            call(key)
        with pytest.raises(TypeError, match=r"Expected an mx\.array"):
            call([1.0])
    with pytest.raises(TypeError, match="Received a key of type int"):
        layer(mx.ones((2, 8, 4)), key=5)


def test_bad_arguments(key):
    x = mx.ones((3, 8, 4))
    calls = [
        lambda **changes: patch_dropout(x, **{"p": 0.5, "key": key} | changes),
        lambda key=key, **changes: PatchDropout(**{"p": 0.5} | changes)(x, key=key),
    ]
    for call in calls:
        for keys in (example_keys(key, 2), example_keys(key, 3)[None], key[None, None]):
            with pytest.raises(
                ValueError, match=r"keys of shape .* \(3, 8, 4\)\. .*, one for all examples"
            ):
                call(key=keys)
        with pytest.raises(ValueError, match=r"prefix_tokens = -1\. Expected at least 0\."):
            call(prefix_tokens=-1)
        for wrong in (1.0, True, None):
            with pytest.raises(
                TypeError, match=r"prefix_tokens of type .* Expected an int"
            ):
                call(prefix_tokens=wrong)
        for p, error in ((1, ValueError), (-0.1, ValueError), (50, ValueError)):
            with pytest.raises(error, match="at least one channel, example or token is"):
                call(p=p)
        with pytest.raises(TypeError, match="how many channels, examples or tokens are"):
            call(p=mx.array(0.5))
        with pytest.raises(TypeError, match="Received a key of type int"):
            call(key=1)
    # Where nothing would be drawn, too.
    with pytest.raises(ValueError, match="keys of shape"):
        patch_dropout(x, 0, example_keys(key, 2))
    with pytest.raises(ValueError, match=r"Received p = 1\."):
        patch_dropout(x[:0], 1, key)
