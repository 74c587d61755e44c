"""rekey, get_keys and set_keys: keys by path."""

import re
from zlib import crc32

import mlx.core as mx
import mlx.nn as nn
import pytest
from models import MODELS, InDicts, Reused
from subjects import assert_same

from chandrop.nn import Dropout, get_keys, rekey, set_keys
from chandrop.random import example_keys, fold_in

each = pytest.mark.parametrize("subject", MODELS, ids=lambda s: s.name)


def assert_same_keys(a, b):
    assert a.keys() == b.keys()
    for path in a:
        assert_same(a[path], b[path])


@each
def test_every_layer_gets_the_key_of_its_path(subject, key):
    model = subject.make()
    rekey(model, key)
    keys = get_keys(model)
    assert {id(m) for m in model.modules() if hasattr(m, "_key")} == {
        id(dict(model.named_modules())[path]) for path in keys
    }
    for path, layer_key in keys.items():
        assert_same(layer_key, fold_in(key, crc32(path.encode())))


def test_layers_in_lists_dicts_and_nested_modules():
    assert list(get_keys(InDicts())) == ["dropouts.first", "dropouts.rest.0.last"]
    nested = nn.Sequential(nn.Sequential(nn.ReLU(), Dropout()), InDicts())
    assert list(get_keys(nested)) == [
        "layers.0.layers.1",
        "layers.1.dropouts.first",
        "layers.1.dropouts.rest.0.last",
    ]


def test_a_layer_alone(key):
    layer = Dropout()
    rekey(layer, key)
    assert_same_keys(get_keys(layer), {"": fold_in(key, crc32(b""))})


def test_a_layer_at_several_places_has_its_smallest_path():
    assert list(get_keys(Reused())) == ["again.layers.2"]


def test_paths_are_utf_8(key):
    model = nn.Module()
    model.größe = Dropout()
    rekey(model, key)
    assert_same(model.größe._key, fold_in(key, crc32("größe".encode())))


def test_other_layers_may_come_and_go(key):
    model = nn.Module()
    model.a, model.b = Dropout(), Dropout()
    rekey(model, key)
    before = get_keys(model)
    model.aa, model.z = Dropout(), nn.Linear(2, 2)
    rekey(model, key)
    for path in before:
        assert_same(get_keys(model)[path], before[path])
    del model.a
    rekey(model, key)
    assert_same(get_keys(model)["b"], before["b"])


def test_a_step_is_repeatable_alone(key):
    model = InDicts()
    x = mx.ones((4, 6))
    outputs = []
    for step in range(3):
        rekey(model, fold_in(key, step))
        outputs.append(model(x))
    rekey(model, fold_in(key, 1))
    assert_same(model(x), outputs[1])
    assert not mx.array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("subject", [s for s in MODELS if s.cut], ids=lambda s: s.name)
def test_a_batch_of_keys(subject, key):
    model, x = subject.make(), subject.x(6)
    model.eval()
    model.apply_to_modules(lambda _, m: m.train() if hasattr(m, "_key") else None)
    rekey(model, example_keys(key, 6))
    whole = model(x)
    assert all(k.shape == (6, 2) for k in get_keys(model).values())
    rekey(model, example_keys(key, 2, offset=4))
    assert mx.allclose(model(x[4:]), whole[4:], rtol=1e-5, atol=1e-6)
    again = model(x[4:])
    assert not mx.allclose(again, whole[4:], rtol=1e-5, atol=1e-6)
    rekey(model, example_keys(key, 0))
    assert get_keys(model).keys()


@each
def test_keys_are_saved_and_put_back(subject, tmp_path):
    model, x = subject.make(), subject.x()
    path = str(tmp_path / "keys.safetensors")
    mx.save_safetensors(path, get_keys(model))
    saved = get_keys(model)
    first = model(x)
    assert not mx.array_equal(model(x), first)
    set_keys(model, mx.load(path))
    assert_same_keys(get_keys(model), saved)
    assert_same(model(x), first)


def test_a_part_of_the_keys(key):
    model = InDicts()
    before = get_keys(model)
    with pytest.raises(ValueError, match=r'at "dropouts\.rest\.0\.last"\. .*strict=False'):
        set_keys(model, {"dropouts.first": key})
    assert_same_keys(get_keys(model), before)
    with pytest.raises(
        ValueError, match=r'at "dropouts\.first", "dropouts\.rest\.0\.last"\.'
    ):
        set_keys(model, {})
    set_keys(model, {"dropouts.first": key}, strict=False)
    assert_same_keys(get_keys(model), before | {"dropouts.first": key})


def test_many_layers_derive_their_keys_in_one_call(key, monkeypatch):
    model = nn.Sequential(*[Dropout() for _ in range(50)])
    calls = []
    monkeypatch.setattr(
        "chandrop.nn.tools._model_keys.fold_in",
        lambda key, data: calls.append(data.shape) or fold_in(key, data),
    )
    rekey(model, key)
    assert calls == [(50,)]
    assert len({tuple(k.tolist()) for k in get_keys(model).values()}) == 50


def hidden_in(container):
    model = nn.Module()
    model.blocks = [nn.Linear(2, 2), container]
    return model


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (hidden_in((Dropout(),)), "blocks.1.0"),
        (hidden_in(({"a": [InDicts()]},)), "blocks.1.0.a.0.dropouts.first"),
        (hidden_in({"a": (nn.ReLU(), Dropout())}), "blocks.1.a.1"),
    ],
    ids=["tuple", "deep in a tuple", "tuple in a dict"],
)
@pytest.mark.parametrize(
    "call", [get_keys, lambda m: rekey(m, mx.random.key(0)), lambda m: set_keys(m, {})]
)
def test_a_layer_where_mlx_does_not_look(model, path, call):
    with pytest.raises(ValueError, match=re.escape(f'at "{path}"')) as error:
        call(model)
    assert "Put it into a list" in str(error.value)


def test_a_layer_in_a_set_or_behind_setattr():
    in_set, behind = nn.Module(), nn.Module()
    in_set.layers = {Dropout2dByIdentity()}
    object.__setattr__(behind, "layer", Dropout())
    for model in (in_set, behind):
        with pytest.raises(ValueError, match="does not look"):
            get_keys(model)


class Dropout2dByIdentity(Dropout):
    __hash__ = object.__hash__


def test_a_layer_that_is_in_a_list_may_be_in_a_tuple_too():
    model = nn.Module()
    model.blocks = [Dropout()]
    model.pairs = ((model.blocks[0], 1),)
    object.__setattr__(model.blocks[0], "parent", model)
    assert list(get_keys(model)) == ["blocks.0"]


def test_two_layers_of_one_path():
    model = nn.Module()
    model.a = {"b.c": Dropout(), "b": {"c": Dropout()}}
    with pytest.raises(ValueError, match=r'two layers at "a\.b\.c"'):
        get_keys(model)


@pytest.mark.parametrize("strict", [True, False])
def test_keys_for_unknown_paths(strict, key):
    keys = {"rest": key, "head": key, "dropouts.first": key}
    with pytest.raises(ValueError, match='without a random layer: "head", "rest"') as e:
        set_keys(InDicts(), keys, strict)
    assert 'are: "dropouts.first", "dropouts.rest.0.last"' in str(e.value)


def test_nothing_is_set_if_one_key_is_wrong(key):
    model = InDicts()
    before = get_keys(model)
    for wrong, error in ((0, TypeError), (mx.zeros((3, 2, 2), mx.uint32), ValueError)):
        with pytest.raises(error, match="Received"):
            set_keys(model, {"dropouts.first": key, "dropouts.rest.0.last": wrong})
        assert_same_keys(get_keys(model), before)


def test_keys_of_other_types(key):
    with pytest.raises(TypeError, match="keys of type list"):
        set_keys(InDicts(), [key])
    with pytest.raises(TypeError, match=r'For "dropouts\.first": .*mx\.random\.key\(3\)'):
        set_keys(InDicts(), {"dropouts.first": 3}, strict=False)


def test_a_key_for_a_model_without_dropout_layers(key):
    with pytest.raises(
        ValueError, match=r"Sequential without random layers.*convert\(model\)"
    ):
        rekey(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), key)
    assert get_keys(nn.Linear(2, 2)) == {}


def test_what_is_no_model_and_no_key(key):
    with pytest.raises(TypeError, match="model of type list"):
        rekey([Dropout()], key)
    with pytest.raises(TypeError, match=r"mx.random.key\(3\)"):
        rekey(Dropout(), 3)
    with pytest.raises(ValueError, match=r"\(2, 3, 2\)"):
        rekey(Dropout(), mx.zeros((2, 3, 2), mx.uint32))
