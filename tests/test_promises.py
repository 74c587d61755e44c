"""What docs/promises.md promises of masks and keys: those of a version hold in the next.

The stored ones are chandrop's own, of what ``tests/reference`` does not have from JAX. They
may change with a major version, or with MLX's generator.
"""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from chandrop import functional, thin
from chandrop.nn import (
    ConcreteDropout,
    Dropout,
    KeyStream,
    WeightDropout,
    functional_call,
    get_keys,
    rekey,
    set_keys,
)
from chandrop.random import example_keys

KEY, ONES = mx.random.key(7), mx.ones((32,))


def kept(y):
    return "".join("01"[int(bit)] for bit in (y.flatten() != 0).tolist())


MASKS = {
    "dropout, a key for each example": (
        lambda: functional.dropout(mx.ones((4, 8)), 0.5, example_keys(KEY, 4)),
        "10110001100001110000100001110011",
    ),
    "dropout2d of groups": (
        lambda: functional.dropout2d(mx.ones((4, 1, 1, 8)), 0.5, KEY, groups=4),
        "00001111001111000011110000000011",
    ),
    "drop_path": (
        lambda: functional.drop_path(mx.ones((16, 1)), 0.5, KEY),
        "0011011001100001",
    ),
    "drop_block": (
        lambda: functional.drop_block(mx.ones((2, 5, 4)), 0.3, KEY, 2, 1),
        "1111011101101110110110111110011001101110",
    ),
    "thin_dropout_channels": (
        lambda: thin.thin_dropout_channels(mx.ones((1, 16)), 0.5, KEY, ()),
        "0111011001100001",
    ),
    "thin_drop_path": (
        lambda: thin.thin_drop_path(mx.ones((16, 1)), 0.5, KEY, lambda x: x),
        "0111011001100001",
    ),
    "patch_dropout": (
        lambda: (
            mx.zeros(33)
            .at[thin.patch_dropout(mx.arange(33).reshape(1, 33, 1), 0.5, KEY)[0, :, 0]]
            .add(1)
        ),
        "100010010111101001000111110000111",
    ),
    "dropout_attention": (
        lambda: functional.dropout_attention(
            ONES.reshape(1, 1, 32, 1),
            ONES.reshape(1, 1, 32, 1),
            mx.eye(32)[None, None],
            0.5,
            KEY,
            scale=1,
        )[0, 0, 0],
        "01011011111011100110010001110100",
    ),
    "WeightDropout": (
        lambda: WeightDropout(nn.Linear(32, 1, bias=False), 0.5, key=KEY)(mx.eye(32)),
        "01110111000000010111110000011011",
    ),
    "functional_call": (
        lambda: functional_call(nn.Sequential(Dropout(0.5)), {}, ONES, key=KEY),
        "00111111101101101111001010011011",
    ),
    "the members of a vmap": (
        lambda: mx.vmap(Dropout(0.5, key=KEY))(mx.ones((2, 32))),
        "1100001101101001001111111010010100011100010001001001110100111100",
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    call, expected = MASKS[name]
    assert kept(call()) == expected


def test_masks_of_successive_calls():
    layer = Dropout(0.5, key=KEY)
    assert kept(layer(ONES)) == "01110111000000010111110000011011"
    assert kept(layer(ONES)) == "11010001110001010101100111000111"
    assert get_keys(layer)[""].tolist() == [3874823782, 2507669382]


def test_keys_of_a_stream():
    stream = KeyStream(key=KEY)
    assert [stream().tolist() for _ in range(2)] == [
        [1948237315, 1058547403],
        [2076423625, 3773764719],
    ]


def test_keys_by_path():
    model = nn.Sequential(nn.Linear(2, 2), Dropout(0.5), nn.Sequential(Dropout(0.5)))
    stored = {
        "layers.1": mx.array([3776080709, 1581176793], mx.uint32),
        "layers.2.layers.0": mx.array([1343788359, 2893883105], mx.uint32),
    }
    rekey(model, KEY)
    keys = get_keys(model)
    assert keys.keys() == stored.keys()
    assert all(mx.array_equal(keys[path], key) for path, key in stored.items())
    rekey(model, mx.random.key(0))
    set_keys(model, stored)
    assert all(mx.array_equal(get_keys(model)[path], key) for path, key in stored.items())


def test_names_in_a_weights_file():
    model = nn.Sequential(nn.Linear(2, 2), Dropout(0.5), ConcreteDropout())
    names = [name for name, _ in tree_flatten(model.parameters())]
    assert sorted(names) == ["layers.0.bias", "layers.0.weight", "layers.2.logit"]
