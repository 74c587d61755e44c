"""Layers as modules: their key is state, and they take the place of mlx.nn's."""

import pickle

import mlx.core as mx
import mlx.nn
import mlx.optimizers
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same, normal

import chandrop
from chandrop import functional

SHAPES = {
    "Dropout": (4, 6),
    "Dropout1d": (4, 3, 6),
    "Dropout2d": (4, 3, 3, 6),
    "Dropout3d": (4, 2, 3, 3, 6),
}
each = pytest.mark.parametrize("name", SHAPES)
# Every other layer: its class, the function that it stands for, a shape, other arguments.
_LAYOUTS = {
    "elements": ((4, 6), ()),
    "sequences": ((4, 5, 6), 1),
    "images": ((4, 5, 7, 6), (1, 2)),
    "images, channels first": ((4, 6, 5, 7), (2, -1)),
    "volumes": ((4, 3, 5, 4, 6), (-4, -3, -2)),
}
_FUNCTIONS = {
    "AlphaDropout": functional.alpha_dropout_channels,
    "GaussianDropout": functional.gaussian_dropout_channels,
    "ChannelDropout": functional.dropout_channels,
    "DropBlock": functional.drop_block,
}


def _family():
    for own in ({}, {"scale": False}):
        yield f"DropPath, {own}", ("DropPath", functional.drop_path, (4, 3, 6), own)
    for name, function in _FUNCTIONS.items():
        for layout, (shape, axes) in _LAYOUTS.items():
            own = {"spatial_axes": axes}
            if name == "DropBlock":
                own["block_size"] = 3
            if own != {"spatial_axes": (), "block_size": 3}:
                yield f"{name}, {layout}", (name, function, shape, own)


FAMILY = dict(_family())


@pytest.mark.parametrize("case", FAMILY)
def test_every_layer_is_its_function(case, key):
    name, function, shape, own = FAMILY[case]
    layer, x = getattr(chandrop.nn, name)(0.4, **own, key=key), normal(shape)
    for _ in range(3):
        key, sub = mx.random.split(key)
        assert_same(layer(x), function(x, 0.4, sub, **own))
        assert_same(layer._key, key)
    keys = mx.random.split(key, 4)
    for given in (keys[0], keys, keys[:1]):
        assert_same(layer(x, key=given), function(x, 0.4, given, **own))
    assert_same(layer._key, key)
    assert layer.parameters() == {}
    assert set(dict(tree_flatten(layer.state))) == {"_key"}
    layer.eval()
    assert layer(x) is x
    assert_same(layer._key, key)


def test_what_every_layer_says_of_itself():
    layers = chandrop.nn
    for layer, expected in [
        (layers.DropPath(0.4), "DropPath(p=0.4)"),
        (layers.DropPath(0.4, scale=False), "DropPath(p=0.4, scale=False)"),
        (layers.AlphaDropout(), "AlphaDropout(p=0.5)"),
        (layers.AlphaDropout(0.4, 1), "AlphaDropout(p=0.4, spatial_axes=(1,))"),
        (
            layers.GaussianDropout(0.4, [2, -1]),
            "GaussianDropout(p=0.4, spatial_axes=(2, -1))",
        ),
        (layers.GaussianDropout(0.4, groups=2), "GaussianDropout(p=0.4, groups=2)"),
        (layers.DropBlock(0.4, 3, 1), "DropBlock(p=0.4, spatial_axes=(1,), block_size=3)"),
        (
            layers.DropBlock(0.4, 3, (2, 3), groups=1),
            "DropBlock(p=0.4, spatial_axes=(2, 3), groups=1, block_size=3)",
        ),
    ]:
        assert repr(layer) == expected


@pytest.mark.parametrize("case", [*FAMILY, "ConcreteDropout"])
def test_every_layer_is_known_to_the_tools(case, key):
    """It has a place in a model's keys, and mlx.nn has no counterpart to go back to."""
    concrete = ("ConcreteDropout", None, (4, 3, 6), {"spatial_axes": 1})
    name, _, shape, own = FAMILY.get(case, concrete)
    layer = getattr(chandrop.nn, name)(0.4, **own)
    model = mlx.nn.Sequential(mlx.nn.Linear(shape[-1], shape[-1]), layer)
    assert chandrop.nn.convert(model).layers[1] is layer
    assert list(chandrop.nn.get_keys(model)) == ["layers.1"]
    chandrop.nn.rekey(model, key)
    with pytest.raises(ValueError, match=rf"a {name}\(p=.*which mlx\.nn does not have"):
        chandrop.nn.revert(model)
    x = normal(shape)
    y = chandrop.nn.functional_call(model, {}, x, key=key)
    assert_same(y, chandrop.nn.functional_call(model, {}, x, key=key))
    assert_same(y, model(x))
    off = chandrop.nn.functional_call(model, {}, x, dropout=False)
    assert_same(off, model.layers[0](x))
    with pytest.raises(ValueError, match=r'would draw: "layers\.1"'):
        chandrop.nn.functional_call(model, {}, x)


@pytest.mark.parametrize("case", FAMILY)
def test_a_layer_with_a_batch_of_keys_may_be_called_otherwise(case, key):
    """In eval mode, and with a key at the call, its own do not matter."""
    name, function, shape, own = FAMILY[case]
    layer, x = getattr(chandrop.nn, name)(0.4, **own), normal(shape)[:3]
    chandrop.nn.rekey(layer, mx.random.split(key, 8))
    assert_same(layer(x, key=key), function(x, 0.4, key, **own))
    assert layer.eval()(x) is x


def test_a_layer_with_groups_has_no_counterpart():
    with pytest.raises(ValueError, match=r"Dropout2d\(p=0\.5, groups=2\)"):
        chandrop.nn.revert(mlx.nn.Sequential(chandrop.nn.Dropout2d(groups=2)))


@each
def test_a_call_splits_the_key_as_jax_does(name, key):
    layer = getattr(chandrop.nn, name)(0.4, key=key)
    x = normal(SHAPES[name])
    function = getattr(functional, name.lower())
    for _ in range(3):
        key, sub = mx.random.split(key)
        assert_same(layer(x), function(x, 0.4, sub))
        assert_same(layer._key, key)


@each
def test_a_given_key_leaves_its_own_as_it_is(name, key):
    layer = getattr(chandrop.nn, name)(0.4, key=key)
    x, other = normal(SHAPES[name]), mx.random.key(1)
    assert_same(layer(x, key=other), getattr(functional, name.lower())(x, 0.4, other))
    assert_same(layer._key, key)
    keys = mx.random.split(other, 4)
    assert_same(layer(x, key=keys), getattr(functional, name.lower())(x, 0.4, keys))


@each
def test_eval_mode_is_the_identity_and_keeps_the_key(name, key):
    layer = getattr(chandrop.nn, name)(0.4, key=key).eval()
    x = normal(SHAPES[name])
    assert layer(x) is x
    assert layer(x, key=key) is x
    assert_same(layer._key, key)
    layer.train()
    assert not mx.array_equal(layer(x), x)


@each
def test_drop_in_for_mlx_nn(name):
    ours = getattr(chandrop.nn, name)
    assert repr(ours()) == f"{name}(p=0.5)"
    assert isinstance(ours(), mlx.nn.Module)
    if name == "Dropout1d":
        return
    theirs = getattr(mlx.nn, name)
    assert repr(ours(0.25)) == repr(theirs(0.25))
    assert repr(ours(p=0.25)) == repr(theirs(p=0.25))
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError) as our_error:
            ours(wrong)
        with pytest.raises(ValueError) as their_error:
            theirs(wrong)
        assert str(our_error.value) == str(their_error.value).replace("[0, 1)", "[0, 1]")


def test_mlx_nn_seed_makes_a_run_repeat():
    def run():
        mx.random.seed(7)
        layers = [chandrop.nn.Dropout2d(), chandrop.nn.Dropout2d()]
        return [layer(mx.ones((4, 2, 2, 32))) for layer in layers]

    first, second = run(), run()
    for one, other in zip(first, second, strict=True):
        assert_same(one, other)
    assert not mx.array_equal(first[0], first[1])


def model(key=None):
    return mlx.nn.Sequential(
        mlx.nn.Linear(6, 8), chandrop.nn.Dropout(0.5, key=key), mlx.nn.Linear(8, 2)
    )


def test_the_key_is_state_and_not_a_parameter():
    network = model()
    assert any("_key" in name for name, _ in tree_flatten(network.state))
    assert not any("key" in name for name, _ in tree_flatten(network.parameters()))
    assert not any(
        "key" in name for name, _ in tree_flatten(network.trainable_parameters())
    )


def test_state_holds_arrays_alone(key, tmp_path):
    layer = chandrop.nn.ChannelDropout(0.4, (1, 2), key=key)
    assert dict(tree_flatten(layer.state)).keys() == {"_key"}
    mx.save_safetensors(
        str(tmp_path / "state.safetensors"), dict(tree_flatten(layer.state))
    )


def test_an_array_of_rates_is_no_parameter(key):
    layer = chandrop.nn.Dropout1d(mx.array([0.0, 1.0]), key=key)
    layer.unfreeze()
    assert layer.parameters() == {}
    x = normal((4, 3, 2))
    assert_same(layer(x)[..., 0], x[..., 0])


def test_what_works_on_parameters_leaves_the_key_alone(tmp_path):
    network = model()
    key = network.layers[1]._key
    network.set_dtype(mx.float16)
    network.freeze()
    network.unfreeze()
    network.save_weights(str(tmp_path / "weights.safetensors"))
    plain = mlx.nn.Sequential(mlx.nn.Linear(6, 8), mlx.nn.Dropout(0.5), mlx.nn.Linear(8, 2))
    plain.load_weights(str(tmp_path / "weights.safetensors"), strict=True)
    plain.save_weights(str(tmp_path / "plain.safetensors"))
    network.load_weights(str(tmp_path / "plain.safetensors"), strict=True)
    assert_same(network.layers[1]._key, key)


def test_training_with_an_optimizer_is_the_same_compiled(compiles):
    def train(compile_step):
        mx.random.seed(3)
        network = model()
        optimizer = mlx.optimizers.Adam(1e-2)
        state = [network.state, optimizer.state]
        x, y = normal((16, 6)), normal((16, 2), seed=2)

        def loss(network, x, y):
            return ((network(x) - y) ** 2).mean()

        loss_and_gradients = mlx.nn.value_and_grad(network, loss)

        def step(x, y):
            value, gradients = loss_and_gradients(network, x, y)
            optimizer.update(network, gradients)
            return value

        if compile_step:
            step = mx.compile(step, inputs=state, outputs=state)
        losses = [step(x, y).item() for _ in range(5)]
        return losses, network.layers[1]._key

    eager, eager_key = train(False)
    compiled, compiled_key = train(True)
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert_same(eager_key, compiled_key)


def test_a_pickle_keeps_the_key(key):
    layer = chandrop.nn.ChannelDropout(0.4, (1, 2), key=key)
    copy = pickle.loads(pickle.dumps(layer))
    x = normal((4, 3, 3, 6))
    assert_same(layer(x), copy(x))


def test_channel_dropout(key):
    x = normal((4, 6, 3, 3))
    layer = chandrop.nn.ChannelDropout(0.4, [2, -1], key=key)
    assert repr(layer) == "ChannelDropout(p=0.4, spatial_axes=(2, -1))"
    _, sub = mx.random.split(key)
    assert_same(layer(x), functional.dropout_channels(x, 0.4, sub, (2, 3)))
    one_axis = chandrop.nn.ChannelDropout(0.4, 1, key=key)
    assert_same(one_axis(x), functional.dropout_channels(x, 0.4, sub, 1))
