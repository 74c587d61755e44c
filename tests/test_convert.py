"""convert and revert: mlx.nn's layers become chandrop's and back, in place."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from subjects import assert_same

import chandrop
from chandrop.nn import (
    ChannelDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    convert,
    functional_call,
    get_keys,
    revert,
)
from chandrop.thin import ThinDropout, ThinSequential


class Everywhere(nn.Module):
    """Dropout layers of all kinds and rates wherever mlx.nn finds them, some shared."""

    def __init__(self):
        super().__init__()
        self.alone = nn.Dropout(0.1)
        self.listed = [nn.Dropout2d(0.25), [nn.Dropout3d(0.7)], nn.Linear(2, 2)]
        self.named = {"a": nn.Dropout(1 / 3), "b": {"c": self.alone}}
        self.sequential = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0), self.alone)
        self.again = self.sequential
        self.named["a"].eval()
        self.pair = (1, self.alone)


PATHS = {
    "alone": Dropout,
    "listed.0": Dropout2d,
    "listed.1.0": Dropout3d,
    "named.a": Dropout,
    "named.b.c": Dropout,
    "sequential.layers.1": Dropout,
    "sequential.layers.2": Dropout,
    "again.layers.1": Dropout,
    "again.layers.2": Dropout,
}


def described(model):
    """What must stay: which object is where, its rate and its mode."""
    return {path: (id(m), repr(m), m.training) for path, m in model.named_modules()}


def test_there_and_back():
    model = Everywhere()
    before = described(model)
    kept = {path: m._p_1 for path, m in model.named_modules() if hasattr(m, "_p_1")}
    parameters = dict(tree_flatten(model.parameters()))
    assert convert(model) is model
    layers = dict(model.named_modules())
    assert {path: type(layers[path]) for path in PATHS} == PATHS
    for path, (identity, _, training) in before.items():
        assert id(layers[path]) == identity
        assert layers[path].training == training
    assert [str(layers[path]._p) for path in ("alone", "listed.1.0")] == ["0.1", "0.7"]
    assert all(1 - layers[path]._p == kept[path] for path in kept)
    assert model.pair[1] is model.alone
    assert len(get_keys(model)) == 5
    assert len({str(key.tolist()) for key in get_keys(model).values()}) == 5
    for name, parameter in tree_flatten(model.parameters()):
        assert parameter is parameters[name]

    assert revert(model) is model
    assert described(model) == before
    assert {path: m._p_1 for path, m in model.named_modules() if hasattr(m, "_p_1")} == kept
    assert get_keys(model) == {}


@pytest.mark.parametrize("rate", [i / 97 for i in range(97)] + [0.1, 0.15, 0.35, 1 - 1e-9])
def test_rates_are_kept_to_the_last_bit(rate):
    layer = nn.Dropout(rate)
    kept = layer._p_1
    assert 1 - convert(layer)._p == kept
    assert revert(layer)._p_1 == kept


def test_a_converted_layer_is_one_of_ours():
    mx.random.seed(3)
    layer = convert(nn.Dropout2d(0.4).eval())
    assert repr(layer) == "Dropout2d(p=0.4)"
    mx.random.seed(3)
    expected = Dropout2d(0.4).eval()
    assert vars(layer) == vars(expected)
    assert_same(layer._key, expected._key)
    x = mx.ones((2, 3, 3, 8))
    assert_same(layer.train()(x), expected.train()(x))


def test_where():
    model = convert(Everywhere(), where=lambda path, layer: path.startswith("listed"))
    assert list(get_keys(model)) == ["listed.0", "listed.1.0"]
    convert(model, where=lambda path, layer: layer is model.named["a"])
    assert list(get_keys(model)) == ["listed.0", "listed.1.0", "named.a"]


def test_where_chooses_nothing():
    with pytest.raises(ValueError, match=r'chose no layer.*"listed\.0", '):
        convert(Everywhere(), where=lambda path, layer: path == "head")
    with pytest.raises(TypeError, match="where = 'listed'"):
        convert(Everywhere(), where="listed")
    with pytest.raises(ValueError, match=r"chose no layer.*are: none"):
        convert(nn.Linear(2, 2), where=lambda path, layer: True)


class Own(nn.Dropout):
    def __call__(self, x):
        return super().__call__(x) + 1


class Own2d(nn.Dropout2d):
    pass


class Named(nn.Dropout):
    """It takes two arguments, as the function does in whose place it is given."""

    def __init__(self, p=0.5, name=""):
        super().__init__(p)
        self.name = name


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, Own, Named, Dropout])
def test_a_class_in_the_place_of_where(kind):
    model = Everywhere()
    with pytest.raises(TypeError, match=rf"where = <class .*\.{kind.__name__}'>") as error:
        convert(model, kind)
    assert get_keys(model) == {}
    # The fix that the message names is one that works.
    where = eval(str(error.value).split("where=")[1].removesuffix("."))
    assert where("", kind(0.5))
    assert not where("", nn.Linear(2, 2))


def test_a_model_without_dropout_layers():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="a Sequential without dropout layers") as warned:
        assert convert(model) is model
    assert [warning.filename for warning in warned] == [__file__]
    with pytest.warns(UserWarning, match="without dropout layers"):
        convert(nn.Sequential(lambda x: nn.Dropout(0.5)(x)))


def test_no_warning_where_the_dropout_layers_are_ours():
    convert(convert(nn.Sequential(nn.Dropout(0.5))))
    convert(ThinSequential(nn.Linear(2, 2), ThinDropout(0.5)))
    model = nn.Module()
    model.layers = (Dropout(0.5),)
    convert(model)


def test_what_inherits_is_named():
    model = nn.Sequential(nn.Dropout(0.3), Own(0.4), nn.Sequential(Own2d(0.5)))
    with pytest.warns(UserWarning, match="left as they are") as warned:
        convert(model)
    assert [warning.filename for warning in warned] == [__file__]
    message = str(warned[0].message)
    assert ': "layers.1" (Own), "layers.2.layers.0" (Own2d). A class' in message
    assert "class Own(chandrop.nn.Dropout)." in message
    assert list(get_keys(model)) == ["layers.0"]
    with pytest.warns(UserWarning, match=r"class Own2d\(chandrop\.nn\.Dropout2d\)"):
        convert(model.layers[2])


def test_what_inherits_is_named_if_where_chose_it():
    def build():
        return nn.Sequential(nn.Dropout(0.3), Own(0.4), Own2d(0.5))

    model = convert(build(), where=lambda path, layer: type(layer) is nn.Dropout)
    assert list(get_keys(model)) == ["layers.0"]
    with pytest.warns(UserWarning, match=r'are: "layers\.2" \(Own2d\)\. A'):
        model = convert(build(), where=lambda path, layer: path != "layers.1")
    assert list(get_keys(model)) == ["layers.0"]
    with pytest.warns(UserWarning, match=r'are: "layers\.1" \(Own\)\. A'):
        model = convert(build(), where=lambda path, layer: path == "layers.1")
    assert get_keys(model) == {}


def test_a_warning_that_is_an_error_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Dropout(0.3), Own(0.4))
    with pytest.raises(UserWarning, match="left as they are"):
        convert(model)
    assert get_keys(model) == {}


def test_what_inherits_from_both_is_ours():
    class Both(Dropout, nn.Dropout):
        pass

    model = nn.Sequential(Both(0.5))
    convert(model)
    assert type(model.layers[0]) is Both


def test_what_is_ours_already_and_what_inherits_is_left_alone():
    model = nn.Sequential(Dropout(0.3), Own(0.4))
    key = model.layers[0]._key
    with pytest.warns(UserWarning, match="left as they are"):
        convert(model)
    assert model.layers[0]._key is key
    assert type(model.layers[1]) is Own
    with pytest.raises(ValueError, match=r"would drop: \"layers\.1\""):
        functional_call(model, {}, mx.ones((2, 3)), key=mx.random.key(0))


def test_a_transformer(key, tmp_path):
    encoder = nn.TransformerEncoder(2, 8, 2, dropout=0.25)
    x, path = mx.random.normal((3, 4, 8)), str(tmp_path / "weights.safetensors")
    encoder.save_weights(path)
    expected = encoder.eval()(x, None)
    convert(encoder).load_weights(path, strict=True)
    assert_same(encoder(x, None), expected)
    y = functional_call(encoder, {}, x, None, key=key, dropout=True)
    assert_same(functional_call(encoder, {}, x, None, key=key, dropout=True), y)
    assert not mx.allclose(y, expected)
    encoder.save_weights(path)
    revert(encoder).load_weights(path, strict=True)
    assert_same(encoder(x, None), expected)
    assert type(encoder.layers[0].dropout1) is nn.Dropout


def test_a_layer_in_a_tuple():
    model = nn.Module()
    model.layers = (nn.Linear(2, 2), nn.Dropout(0.5))
    with pytest.raises(ValueError, match=r'Dropout at "layers\.1".*into a list'):
        convert(model)
    assert type(model.layers[1]) is nn.Dropout


@pytest.mark.parametrize(
    "layer", [Dropout1d(), ChannelDropout(0.5, 1), Dropout(1.0), Dropout(mx.array([0.5]))]
)
def test_what_mlx_nn_does_not_have(layer):
    model = nn.Sequential(Dropout(0.5), layer)
    with pytest.raises(ValueError, match=r'at "layers\.1", which mlx\.nn does not have'):
        revert(model)
    assert type(model.layers[0]) is chandrop.nn.Dropout
    with pytest.raises(ValueError, match="at the model itself"):
        revert(layer)


def test_what_is_no_model():
    for call in (convert, revert):
        with pytest.raises(TypeError, match="model of type list"):
            call([nn.Dropout(0.5)])
