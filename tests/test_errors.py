"""Every bad input: its type, what the message says, and that the fix it names works."""

import copy
import inspect
import math
import pickle
import re

import mlx.core as mx
import mlx.nn
import numpy as np
import pytest
from subjects import SUBJECTS, normal

import chandrop
from chandrop.functional import channel_mask, dropout, dropout2d, dropout_channels
from chandrop.random import check_key, example_keys, fold_in

each = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
LAYERS = {
    name: member
    for package in (chandrop.nn, chandrop.thin)
    for name, member in vars(package).items()
    if isinstance(member, type) and issubclass(member, chandrop.nn.DropoutLayer)
    if member is not chandrop.nn.DropoutLayer
}
# Those that can be built with a rate alone.
WITHOUT_OTHERS = [
    name
    for name in LAYERS
    if not name.startswith(("DropBlock", "ChannelDropout", "WeightDropout"))
]
RATE = r"The dropout probability {} is not in \[0, 1\]"


def kind_of(argument):
    """The id of a test, which is the same in every process."""
    return repr(argument).split(" at ")[0]


@each
@pytest.mark.parametrize("p", [-0.1, 1.1, 20, 10**400, math.nan, math.inf, -math.inf])
def test_rate_out_of_range(subject, p, key):
    with pytest.raises(ValueError, match=RATE.format(p)):
        subject.call(normal(subject.shape()), p, key)


def test_a_percentage_is_told_its_fraction(key):
    with pytest.raises(ValueError, match=r"20 is not in \[0, 1\]: for 20 % pass 0\.2$"):
        dropout(mx.ones((4, 8)), 20, key)


@each
def test_a_rate_in_the_place_of_the_key(subject, key):
    """``dropout(x, key, 0.5)``, and the key is right but for its place."""
    message = r"a key of type float\. .*after the rate, as in dropout\(x, 0\.5, key\)\."
    if subject.name[0].isupper():  # A layer sees its rate first.
        message = r"Expected the rate before the key: .*, or dropout\(x, 0\.5, key\)\."
    with pytest.raises(TypeError, match=message):
        subject.call(normal(subject.shape()), key, 0.5)


@each
@pytest.mark.parametrize("keys", [1, 3])
def test_a_key_in_the_place_of_the_input(subject, keys, key):
    """``dropout2d(key, 0.5, x)``."""
    key = key if keys == 1 else mx.random.split(key, keys)
    if subject.name != "channel_mask":
        with pytest.raises(TypeError, match="an input of dtype uint32, as keys have"):
            subject.call(key, 0.5, key)
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d"):
        with pytest.raises(TypeError, match="an input of dtype uint32, as keys") as error:
            vars(chandrop.functional)[name](key, 0.5, normal(subject.shape()))
        assert_names_what_works(error, mx.random.key(0))


@each
@pytest.mark.parametrize("p", ["0.5", None, True, np.array([0.5]), [0.5], 0.5j], ids=str)
def test_rate_of_another_type(subject, p, key):
    message = (
        rf"Received p of type {type(p).__name__}\. Expected a number in \[0, 1\] or an"
    )
    with pytest.raises(TypeError, match=message):
        subject.call(normal(subject.shape()), p, key)


@each
def test_rate_of_a_complex_dtype(subject, key):
    with pytest.raises(
        TypeError, match=r"Received p of dtype .*complex64\. Expected a real"
    ):
        subject.call(normal(subject.shape()), mx.array(0.5 + 0j), key)


@each
def test_a_key_in_the_place_of_the_rate(subject, key):
    with pytest.raises(TypeError, match="p of dtype uint32, as keys have") as error:
        subject.call(normal(subject.shape()), key, key)
    assert_names_what_works(error, key)


def assert_names_what_works(error, key):
    fixes = str(error.value).removesuffix(".").split("key: ")[1].split(", or ")
    layer, function = fixes
    x = normal((4, 8))
    assert eval(layer, vars(chandrop.nn) | {"key": key}).p == 0.5
    assert eval(function, vars(chandrop.functional) | {"x": x, "key": key}).shape == x.shape


@pytest.mark.parametrize("name", WITHOUT_OTHERS)
def test_a_key_in_the_place_of_a_layers_rate(name, key):
    with pytest.raises(TypeError, match="p of dtype uint32, as keys have") as error:
        LAYERS[name](key)
    assert_names_what_works(error, key)
    layer = LAYERS[name](0.5)
    with pytest.raises(TypeError, match="p of dtype uint32, as keys have"):
        layer.p = key


def test_a_key_in_the_place_of_a_fixed_rate(key):
    for call in (
        lambda: chandrop.thin.keep_channels(key, 8, key),
        lambda: chandrop.thin.thin_dropout_channels(mx.ones((2, 8)), key, key, ()),
        lambda: chandrop.thin.patch_dropout(mx.ones((2, 8, 4)), key, key),
    ):
        with pytest.raises(TypeError, match="p of dtype uint32, as keys have"):
            call()


@pytest.mark.parametrize("word", ["rate", "drop_prob", "dropout", "_p_1"])
@pytest.mark.parametrize("name", WITHOUT_OTHERS)
def test_other_names_of_the_rate_cannot_be_set(name, word):
    layer = LAYERS[name](0.5)
    with pytest.raises(AttributeError, match=f"Received {word} for a {name}, ") as error:
        setattr(layer, word, 0.2)
    assert not hasattr(layer, word)
    exec(str(error.value).removesuffix(".").split("p: ")[1], {"layer": layer})
    assert float(layer.p) == pytest.approx(0.2)


def test_a_subclass_may_define_other_names_of_the_rate():
    class Own(chandrop.nn.Dropout):
        drop_prob = 0.3
        dropout: float

        @property
        def rate(self):
            return self.p

        @rate.setter
        def rate(self, rate):
            self.seen = rate

    class Inheriting(Own):
        pass

    for layer in (Own(0.5), Inheriting(0.5)):
        layer.drop_prob, layer.dropout = 0.4, 0.1
        assert (layer.drop_prob, layer.dropout) == (0.4, 0.1)
        layer.rate = 0.2
        assert (layer.rate, layer.seen) == (0.5, 0.2)


WORDS = {
    "rate": (0.3, "Expected p: {name}({before}p=0.3)."),
    "drop_prob": (0.3, "Expected p: {name}({before}p=0.3)."),
    "dropout": (0.3, "Expected p: {name}({before}p=0.3)."),
    "inplace": (True, "The result is always a new array."),
    "rngs": (mx.random.key(1), "Expected key: {name}({before}key=mx.random.key(0))."),
    "seed": (3, "Expected key: {name}({before}key=mx.random.key(0))."),
    "training": (True, "layer.eval() and layer.train() change that."),
    "deterministic": (False, "layer.eval() and layer.train() change that."),
    "inference": (False, "layer.eval() and layer.train() change that."),
    "data_format": ("NCHW", "ChannelDropout(p, spatial_axes=...)."),
    "noise_shape": ((4, 1, 8), "ChannelDropout(p, spatial_axes=...)."),
    "broadcast_dims": ((1,), "ChannelDropout(p, spatial_axes=...)."),
    "mode": ("batch", "layer(x, key=key[None]) draws once for all."),
    "scale_by_keep": (False, "Expected "),
    "keys": (0, "Expected one of "),
    "keep_prob": (0.8, "Expected the probability of dropping: p = 1 - keep_prob."),
}


def before(name, word):
    """The arguments without a default, which the call in the message has, too."""
    parameters = inspect.signature(LAYERS[name].__init__).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.name != "self"]
    return "".join(f"{n}, " for n in required if n != "p" or word in ("rngs", "seed"))


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("name", LAYERS)
def test_words_of_other_libraries(name, word):
    value, expected = WORDS[word]
    shown = "..." if isinstance(value, (mx.array, tuple)) else repr(value)
    for others in ({}, {"key": mx.random.key(0)}):
        with pytest.raises(TypeError) as error:
            LAYERS[name](**others, **{word: value})
        message = str(error.value)
        assert message.startswith(f"{name} takes no {word}={shown}. ")
        assert expected.format(name=name, before=before(name, word)) in message


def test_the_words_that_the_messages_name_work():
    for name in WITHOUT_OTHERS:
        for word in ("rate", "seed"):
            fix = WORDS[word][1].format(name=name, before=before(name, word))
            call = fix.removesuffix(".").split(": ")[1]
            assert type(eval(call, LAYERS | {"mx": mx, "p": 0.5})).__name__ == name


def test_the_word_for_a_scale():
    with pytest.raises(TypeError, match=r"Expected scale: DropPath\(p, scale=False\)\.$"):
        chandrop.nn.DropPath(0.5, scale_by_keep=False)
    with pytest.raises(TypeError, match=r"Expected one of p, groups, key\.$"):
        chandrop.nn.Dropout(0.5, scale_by_keep=False)


def test_words_that_a_class_takes():
    message = r"Expected one of p, block_size, spatial_axes, groups, key\."
    with pytest.raises(TypeError, match=message):
        chandrop.nn.DropBlock(0.5, 3, 1, size=3)
    with pytest.raises(TypeError, match=r"Expected one of p, spatial_axes, groups, key\."):
        chandrop.nn.AlphaDropout(axes=1)
    with pytest.raises(TypeError, match=r"Expected one of p, key\."):
        chandrop.thin.ThinDropout(groups=2)


class Taking(chandrop.nn.Dropout2d):
    def __init__(self, rate=0.5, *, inplace=False, **kwargs):
        super().__init__(rate, **kwargs)
        self.inplace = inplace


def test_a_subclass_may_take_them(key):
    class Strict(Taking):
        def __init__(self, drop_prob):
            super().__init__(rate=drop_prob)

    layer = Taking(rate=0.25, inplace=True, key=key)
    assert (layer.p, layer.inplace) == (0.25, True)
    for again in (
        copy.copy(layer),
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
    ):
        assert (type(again), again.p, again.inplace) == (Taking, 0.25, True)
    assert Strict(drop_prob=0.25).p == 0.25
    with pytest.raises(
        TypeError, match=r"Strict takes no rate=0\.5\. Expected one of drop_prob\."
    ):
        Strict(rate=0.5)


def test_numpy_scalars_are_numbers(key):
    x = normal((4, 8))
    for p in (np.float64(0.5), np.float32(0.5), np.int64(1)):
        assert mx.array_equal(dropout(x, p, key), dropout(x, float(p), key))


@pytest.mark.parametrize("shape", [(5,), (2, 1), (4, 3, 1, 6), (1, 1, 1, 1, 6)], ids=str)
def test_rates_that_do_not_broadcast(shape, key):
    message = rf"Received p of shape \({', '.join(map(str, shape))},?\), which does not"
    with pytest.raises(ValueError, match=message):
        dropout2d(mx.ones((4, 3, 3, 6)), mx.full(shape, 0.5), key)


@each
@pytest.mark.parametrize("dtype", [mx.int32, mx.uint8, mx.bool_], ids=str)
def test_integer_and_bool_inputs(subject, dtype, key):
    message = (
        rf"Received dtype {dtype}\. Expected a floating-point or complex dtype: x\.ast"
    )
    with pytest.raises(TypeError, match=message):
        subject.call(mx.ones(subject.shape(), dtype=dtype), 0.5, key)


@each
@pytest.mark.parametrize("x", [np.ones((2, 3, 3, 4), np.float32), [[[1.0]]], 1.0, None])
def test_inputs_that_are_no_array(subject, x, key):
    if subject.name == "channel_mask":
        pytest.skip("it takes no input")
    fix = ", before the rate." if isinstance(x, float) else ": mx.array(x)."
    message = f"Received input of type {type(x).__name__}. Expected an mx.array{fix}"
    with pytest.raises(TypeError, match=re.escape(message)):
        subject.call(x, 0.5, key)


@pytest.mark.parametrize(
    ("name", "ranks"), [("Dropout1d", (2, 3)), ("Dropout2d", (3, 4)), ("Dropout3d", (4, 5))]
)
@pytest.mark.parametrize("rank", range(7))
@pytest.mark.parametrize("training", [True, False])
def test_ranks_and_their_errors_are_those_of_mlx_nn(name, ranks, rank, training, key):
    layer = getattr(chandrop.nn, name)(key=key)
    layer.train(training)
    x = mx.ones((2,) * rank)
    function = getattr(chandrop.functional, name.lower())
    if rank in ranks:
        assert layer(x).shape == x.shape
        assert function(x, 0.5, key).shape == x.shape
        return
    message = (
        f"Received input with {rank} dimensions. "
        f"Expected {ranks[0]} or {ranks[1]} dimensions."
    )
    with pytest.raises(ValueError) as error:
        layer(x)
    assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        function(x, 0.5, key)
    assert str(error.value) == message
    if hasattr(mlx.nn, name):
        with pytest.raises(ValueError) as error:
            getattr(mlx.nn, name)()(x)
        assert str(error.value) == message


@pytest.mark.parametrize("axes", [4, -5, (1, 4), (0, -5)], ids=str)
def test_axes_out_of_range(axes, key):
    message = (
        r"Received spatial axis -?\d for an input with 4 dimensions\. Expected -4 <= a"
    )
    with pytest.raises(ValueError, match=message):
        dropout_channels(mx.ones((2, 3, 4, 5)), 0.5, key, axes)
    with pytest.raises(ValueError, match=message):
        channel_mask((2, 3, 4, 5), 0.5, key, axes)
    for mode in (True, False):
        with pytest.raises(ValueError, match=message):
            chandrop.nn.ChannelDropout(0.5, axes).train(mode)(mx.ones((2, 3, 4, 5)))


@pytest.mark.parametrize("axes", [(1, 1), (1, -3), (-1, 0, 3)], ids=str)
def test_axes_given_twice(axes, key):
    message = r"Received spatial axes \(.*\) for an input with 4 .* name axis \d twice"
    with pytest.raises(ValueError, match=message):
        dropout_channels(mx.ones((2, 3, 4, 5)), 0.5, key, axes)
    with pytest.raises(ValueError, match=message):
        channel_mask((2, 3, 4, 5), 0.5, key, list(axes))


@pytest.mark.parametrize(
    "axes",
    [
        *(1.0, (1.0,), "1", "12", None, (None,), True, (True,), [True, False], [1, False]),
        *({1}, {1, 0}, frozenset([1]), {1: 0}, {1: 0}.keys(), b"\x01", bytearray(b"\x01")),
        *(iter([1]), iter([True]), map(int, "1"), mx.array(1), mx.array([True])),
        *(np.array([True]), np.array([1.0]), object(), (mx.array([1, 0]),)),
    ],
    ids=kind_of,
)
def test_axes_that_are_no_integers(axes, key):
    message = r"Received .*\. Expected spatial axes such as 1 or \(1, 2\)\."
    with pytest.raises(TypeError, match=message):
        dropout_channels(mx.ones((2, 3)), 0.5, key, axes)
    with pytest.raises(TypeError, match=message):
        chandrop.nn.ChannelDropout(0.5, axes)


@each
@pytest.mark.parametrize("key", [0, 7, -1, True, None, np.zeros(2, np.uint32), (0, 1)])
def test_keys_of_another_type(subject, key):
    if key is None and subject.name[0].isupper():
        pytest.skip("a layer without a key uses its own")
    fix = rf"mx\.random\.key\({7 if isinstance(key, int) and key == 7 else 0}\)\."
    if isinstance(key, np.ndarray):
        fix = r"mx\.array\(key\), of uint32\."
    if isinstance(key, tuple):
        fix = r"mx\.random\.key\(0\), before the axes, as in dropout_channels\(x, 0\.5, key"
    message = rf"Received a key of type {type(key).__name__}\. Expected a key: {fix}"
    with pytest.raises(TypeError, match=message):
        subject.call(normal(subject.shape()), 0.5, key)


@each
@pytest.mark.parametrize("dtype", [mx.int32, mx.uint64, mx.float32], ids=str)
def test_keys_of_another_dtype(subject, dtype):
    message = rf"Received a key of dtype {dtype}\. Expected uint32, as mx\.random\.key\(0\)"
    with pytest.raises(TypeError, match=message):
        subject.call(normal(subject.shape()), 0.5, mx.array([0, 1]).astype(dtype))


@each
@pytest.mark.parametrize(
    "shape", [(), (1,), (3,), (4,), (6,), (3, 1), (2, 3), (3, 6), (2, 3, 6)], ids=str
)
def test_keys_of_another_shape(subject, shape):
    message = (
        r"Received a key of shape .*\. Expected \(2,\) for one key, as mx\.random\.key"
    )
    with pytest.raises(ValueError, match=message):
        subject.call(normal(subject.shape()), 0.5, mx.zeros(shape, dtype=mx.uint32))


@pytest.mark.parametrize(
    "shape", [(6,), (1, 6), (4, 6), (2, 4, 6), (1,), (3,), ()], ids=str
)
def test_every_key_has_two_words(shape):
    """Everything that takes a key says so, by the same words."""
    keys, x, logit = mx.zeros(shape, dtype=mx.uint32), mx.ones((4, 6)), mx.array(0.0)
    functional, thin, model = chandrop.functional, chandrop.thin, chandrop.nn.Dropout()
    calls = [
        lambda: check_key(keys),
        lambda: fold_in(keys, 1),
        lambda: example_keys(keys, 4),
        lambda: functional.concrete_dropout_channels(x, logit, keys, ()),
        lambda: thin.keep_channels(keys, 8, 0.5),
        lambda: thin.patch_dropout(x[None], 0.5, keys),
        lambda: thin.PatchDropout(0.5)(x[None], key=keys),
        lambda: thin.thin_dropout_channels(x, 0.5, keys, ()),
        lambda: thin.thin_drop_path(x, 0.5, keys, mx.tanh),
        lambda: thin.ThinDropPath(0.5)(x, mx.tanh, key=keys),
        lambda: chandrop.nn.functional_call(model, {}, x, key=keys),
        lambda: chandrop.nn.rekey(model, keys),
        lambda: chandrop.nn.set_keys(model, {"": keys}),
        lambda: chandrop.uncertainty.sample(model, keys, x),
        lambda: chandrop.uncertainty.predict(model, keys, x),
        *(lambda name=name: LAYERS[name](0.5, key=keys) for name in WITHOUT_OTHERS),
        *(
            lambda layer=layer: layer(0.5)(x, key=keys)
            for layer in (chandrop.nn.ConcreteDropout, thin.ThinDropout)
        ),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"Received a key of shape .*\. Expected \(2,\)"
        ):
            call()


@each
@pytest.mark.parametrize("batch", [0, 2, 4])
def test_a_batch_of_keys_that_does_not_match(subject, batch, key):
    shape = subject.shape(batch=3)
    if 0 in subject.spatial_axes(len(shape)):
        pytest.skip("axis 0 is spatial")
    keys = mx.random.split(key, 4)[:batch]
    with pytest.raises(ValueError, match=rf"Received a batch of {batch} keys") as error:
        subject.call(normal(shape), 0.5, keys)
    fix = "chandrop.random.example_keys(key, 3)"
    assert fix in str(error.value)
    subject.call(normal(shape), 0.5, eval(fix))


@each
def test_a_batch_of_keys_for_one_example(subject, key):
    shape = subject.shape()[1:]
    if len(shape) not in subject.ranks or 0 not in subject.spatial_axes(len(shape)):
        pytest.skip("it takes no unbatched input whose axis 0 is spatial")
    keys = mx.random.split(key, shape[0])
    with pytest.raises(
        ValueError, match=r"without a batch axis \(spatial axes \(0,.*\(2,\)"
    ):
        subject.call(normal(shape), 0.5, keys)


def test_a_batch_of_keys_where_axis_0_is_spatial(key):
    keys = mx.random.split(key, 3)
    with pytest.raises(
        ValueError, match=r"Received a batch of 3 keys .* without a batch axi"
    ):
        dropout_channels(mx.ones((3, 4)), 0.5, keys, -2)
    with pytest.raises(
        ValueError, match=r"Received a batch of 3 keys .* without a batch axi"
    ):
        dropout(mx.array(1.0), 0.5, keys)


def test_a_key_in_the_place_of_the_axes(key):
    with pytest.raises(TypeError, match="Received a key of type tuple"):
        dropout_channels(mx.ones((3, 4)), 0.5, (1,), key)


def test_integers_of_numpy_are_integers(key):
    mask = channel_mask((2, 3, 4), 0.5, key, 1)
    for one in (np.int64(1), np.array([1]), [np.int64(1)], (1,)):
        assert mx.array_equal(
            mask, channel_mask(np.array([2, 3, 4]).tolist(), 0.5, key, one)
        )


def test_sequences_of_axes(key):
    mask = channel_mask((2, 3, 4), 0.5, key, (0, 1))
    for axes in ([0, 1], range(2), mx.array([0, 1]), np.array([0, 1])):
        assert mx.array_equal(mask, channel_mask((2, 3, 4), 0.5, key, axes))


@pytest.mark.parametrize("shape", [(4, -1, 8), (-1,), (2**40, 8), (8, 2**31)], ids=str)
def test_shapes_of_no_array(shape, key):
    with pytest.raises(ValueError, match=r"Received shape .*Expected lengths from 0 to 2"):
        channel_mask(shape, 0.5, key, 0)
    channel_mask((2**31 - 1, 8), 0.5, key, 0)


@pytest.mark.parametrize(
    "shape", [(4.0, 3), "43", None, (True, 3), {4, 3}, 4, {4: 3}, iter((4, 3))], ids=kind_of
)
def test_shapes_that_are_no_integers(shape, key):
    channel_mask((4, 3), 0.5, key, ())
    with pytest.raises(
        TypeError, match=r"Received .*\. Expected a shape such as x\.shape\."
    ):
        channel_mask(shape, 0.5, key, ())
    assert channel_mask((4, 3), 0.5, key, ()).shape == (4, 3)


@pytest.mark.parametrize("dtype", [None, "float32", float], ids=repr)
def test_a_mask_of_no_dtype(dtype, key):
    with pytest.raises(
        TypeError, match=r"Received dtype .*\. Expected one such as mx\.float"
    ):
        channel_mask((4, 3), 0.5, key, (), dtype)


def test_a_batch_of_batches_of_keys(key):
    keys = mx.random.split(key, 6).reshape(3, 2, 2)
    with pytest.raises(
        ValueError, match=r"Received keys of shape \(3, 2, 2\)\. .*mx\.vmap"
    ):
        dropout(mx.ones((3, 2)), 0.5, keys)


@pytest.mark.parametrize("dtype", [mx.int32, mx.bool_], ids=str)
def test_a_mask_of_an_integer_dtype(dtype, key):
    with pytest.raises(
        TypeError, match=rf"Received dtype {dtype}\. Expected a floating-point"
    ):
        channel_mask((3, 4), 0.5, key, 0, dtype)


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_layers_check_what_they_are_built_with(name, key):
    layer = getattr(chandrop.nn, name)
    with pytest.raises(ValueError, match=RATE.format(1.5)):
        layer(1.5)
    with pytest.raises(
        TypeError, match=r"Received a key of type int\. .*mx\.random\.key\(3\)"
    ):
        layer(0.5, key=3)
    with pytest.raises(
        ValueError, match=r"Received keys of shape \(3, 2\)\. Expected one key"
    ):
        layer(0.5, key=mx.random.split(key, 3))
    with pytest.raises(TypeError, match="by position"):
        layer(0.5, key)


@pytest.mark.parametrize("data", [-1, 2**32, 2**64])
def test_fold_in_data_out_of_range(data, key):
    with pytest.raises(
        ValueError, match=rf"Received data {data}\. Expected 0 <= data < 2\*\*"
    ):
        fold_in(key, data)


@pytest.mark.parametrize("data", [1.0, "1", None, True, [1], np.array([1, 2])], ids=repr)
def test_fold_in_data_of_another_type(data, key):
    fix = r": mx\.array\(data\)\." if isinstance(data, (list, np.ndarray)) else r"\."
    expected = rf"Expected an int or an mx\.array of integers{fix}$"
    message = rf"Received data of type {type(data).__name__}\. {expected}"
    with pytest.raises(TypeError, match=message):
        fold_in(key, data)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bool_], ids=str)
def test_fold_in_data_of_another_dtype(dtype, key):
    with pytest.raises(
        TypeError, match=rf"Received data of dtype {dtype}\. Expected integer"
    ):
        fold_in(key, mx.array([1]).astype(dtype))


def test_fold_in_shapes_that_do_not_broadcast(key):
    with pytest.raises(
        ValueError, match=r"Received \(3,\) keys and data of shape \(4,\), wh"
    ):
        fold_in(mx.random.split(key, 3), mx.arange(4))


def test_fold_in_checks_its_key():
    with pytest.raises(TypeError, match=r"Expected a key: mx\.random\.key\(5\)\."):
        fold_in(5, 1)
    check_key(mx.random.key(5))


def test_example_keys(key):
    with pytest.raises(
        ValueError, match=r"Received keys of shape \(3, 2\)\. Expected one key"
    ):
        example_keys(mx.random.split(key, 3), 3)
    with pytest.raises(ValueError, match=r"Received n = -1 examples\. Expected n >= 0\."):
        example_keys(key, -1)
    for n in (2.0, True, None):
        with pytest.raises(
            TypeError, match=rf"Received n of type {type(n).__name__}\. Exp"
        ):
            example_keys(key, n)
    for offset in (2**32 - 7, np.uint32(2**32 - 7)):
        with pytest.raises(
            ValueError, match=r"fold in the step: example_keys\(fold_in\(key, s"
        ):
            example_keys(key, 8, offset)
    for offset in (1.5, "1", True, None, [1]):
        kind = type(offset).__name__
        message = rf"Received offset of type {kind}\. Expected an int or an mx\.array of"
        with pytest.raises(TypeError, match=message):
            example_keys(key, 8, offset)
    with pytest.raises(TypeError, match=r"Received offset of dtype .*float32\. Expected i"):
        example_keys(key, 8, mx.array(1.5))
    for offset in (-1, 2**32):
        with pytest.raises(
            ValueError, match=rf"offset {offset}\. Expected 0 <= offset < 2"
        ):
            example_keys(key, 8, offset)
    with pytest.raises(ValueError, match=r"Received an offset of shape \(3,\)\. .*fold_in"):
        example_keys(key, 3, mx.array([0, 5, 10]))


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_checks_its_call_in_any_mode_and_keeps_its_key(training, key):
    layer = chandrop.nn.Dropout1d(key=key).train(training)
    with pytest.raises(TypeError, match="Received a key of type int"):
        layer(mx.ones((4, 3, 2)), key=5)
    with pytest.raises(TypeError, match="Received dtype"):
        layer(mx.ones((4, 3, 2), dtype=mx.int32))
    with pytest.raises(TypeError, match="Received input of type list"):
        layer([1.0])
    layer = chandrop.nn.Dropout1d(mx.array([0.5, 0.5, 0.5]), key=key)
    with pytest.raises(ValueError, match="does not broadcast"):
        layer(mx.ones((4, 3, 2)))
    assert mx.array_equal(layer._key, key)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "axes", "lengths"),
    [
        ((2, 4, 3), 1, "4"),
        ((2, 5, 4, 3), (1, 2), "5, 4"),
        ((4, 6, 3), (-3, -2), "4, 6"),
        ((2, 9, 4, 5, 3), (1, 2, 3), "9, 4, 5"),
        ((2, 7, 4, 5), (2, 3), "4, 5"),
        ((4, 9, 5, 6, 8), (4, 0), "8, 4"),
    ],
)
def test_blocks_larger_than_the_input(shape, axes, lengths, training, key):
    message = (
        rf"Received block_size = 5 for spatial axes of lengths {lengths}\. "
        r"Expected at most 4\."
    )
    with pytest.raises(ValueError, match=message):
        chandrop.functional.drop_block(mx.ones(shape), 0.5, key, 5, axes)
    layer = chandrop.nn.DropBlock(0.5, 5, axes).train(training)
    with pytest.raises(ValueError, match=message):
        layer(mx.ones(shape))
    fits = chandrop.nn.DropBlock(0.5, 4, axes).train(training)
    assert fits(mx.ones(shape)).shape == shape


@pytest.mark.parametrize("axes", [(), []], ids=repr)
def test_blocks_along_no_axis(axes, key):
    message = r"Received no spatial axes\. .* along which blocks extend, such as \(1, 2\)\."
    with pytest.raises(ValueError, match=message):
        chandrop.functional.drop_block(mx.ones((2, 5, 3)), 0.5, key, 2, axes)
    with pytest.raises(ValueError, match=message):
        chandrop.functional.drop_block(mx.ones((2, 5, 3)), 0, key, 2, axes)
    with pytest.raises(ValueError, match=message):
        chandrop.nn.DropBlock(0.5, 2, axes)


@pytest.mark.parametrize("block_size", [0, -3])
def test_blocks_of_nothing(block_size, key):
    message = rf"Received block_size = {block_size}\. Expected at least 1\."
    with pytest.raises(ValueError, match=message):
        chandrop.functional.drop_block(mx.ones((2, 5, 4, 3)), 0.5, key, block_size, (1, 2))
    with pytest.raises(ValueError, match=message):
        chandrop.nn.DropBlock(0.5, block_size, (1, 2))


@pytest.mark.parametrize("block_size", [2.0, "3", None, True, (2, 2)], ids=repr)
def test_block_sizes_of_another_type(block_size, key):
    message = rf"Received block_size of type {type(block_size).__name__}\. Expected an in"
    with pytest.raises(TypeError, match=message):
        chandrop.functional.drop_block(mx.ones((2, 5, 4, 3)), 0.5, key, block_size, (1, 2))
    with pytest.raises(TypeError, match=message):
        chandrop.nn.DropBlock(0.5, block_size, (1, 2))


@pytest.mark.parametrize("rate", [0.1, 0.0, 0.999])
def test_a_rate_in_the_place_of_the_block_size(rate, key):
    x = mx.ones((2, 5, 4, 3))
    message = rf"Received block_size = {rate}\. Expected an int, after the rate: "
    with pytest.raises(TypeError, match=message):
        chandrop.nn.DropBlock(3, rate, (1, 2))
    with pytest.raises(TypeError, match=message) as error:
        chandrop.functional.drop_block(x, 3, key, rate, (1, 2))
    fixes = str(error.value).removesuffix(".").split("rate: ")[1].split(", or ")
    names = vars(chandrop.nn) | vars(chandrop.functional)
    names |= {"x": x, "key": key, "spatial_axes": (1, 2)}
    assert eval(fixes[0], names)(x).shape == eval(fixes[1], names).shape == x.shape


@pytest.mark.parametrize(
    "build",
    [
        chandrop.nn.AlphaDropout,
        chandrop.nn.GaussianDropout,
        chandrop.nn.ConcreteDropout,
        chandrop.nn.ChannelDropout,
        lambda p, axes: chandrop.nn.DropBlock(p, 1, axes),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_layers_of_any_layout_take_every_rank_that_has_the_axes(build, training):
    for rank in range(7):
        layer, x = build(0.5, (1, 2)).train(training), mx.ones((2,) * rank)
        if rank > 2:
            assert layer(x).shape == x.shape
            continue
        with pytest.raises(ValueError, match=rf"spatial axis . for an input with {rank} d"):
            layer(x)


@pytest.mark.parametrize("training", [True, False])
def test_a_scalar_has_no_path(training, key):
    with pytest.raises(ValueError, match=r"Received a scalar\. .*axis 0 is the batch"):
        chandrop.functional.drop_path(mx.array(1.0), 0.5, key)
    with pytest.raises(ValueError, match=r"Received a scalar\. .*axis 0 is the batch"):
        chandrop.nn.DropPath(0.5).train(training)(mx.array(1.0))


def test_arguments_by_place(key):
    with pytest.raises(
        TypeError,
        match=r"2 arguments for Dropout2d by.*Dropout2d\(p, groups=\.\.\., key=\.\.\.\)",
    ):
        chandrop.nn.Dropout2d(0.5, True)
    with pytest.raises(TypeError, match=r"DropBlock\(p, block_size, spatial_axes, group"):
        chandrop.nn.DropBlock(0.5, 3, 1, key)
    assert chandrop.nn.ChannelDropout(0.5, 1).p == 0.5


def test_arguments_in_another_order(key):
    x, model = mx.ones((4, 3)), mlx.nn.Sequential(chandrop.nn.Dropout(0.5))
    with pytest.raises(
        TypeError, match=r"a key after 7\. Expected .*: fold_in\(key, data\)"
    ):
        fold_in(7, key)
    with pytest.raises(TypeError, match=r"before: example_keys\(key, n\)\."):
        example_keys(8, key)
    with pytest.raises(TypeError, match=r"of type float\. Expected .*, before the rate\."):
        dropout(0.5, x, key)
    with pytest.raises(TypeError, match=r"before the axes: ChannelDropout\(0\.5, spatial_"):
        chandrop.nn.ChannelDropout((1, 2), 0.5)
    for call in (
        lambda: chandrop.nn.rekey(key, model),
        lambda: chandrop.nn.check_step(lambda x: x, model),
    ):
        with pytest.raises(TypeError, match=r"Module, as the first argument\."):
            call()
    with pytest.raises(ValueError, match=r"A key is given by its name: key=key\."):
        chandrop.nn.functional_call(model, {}, x, key)
    tokens = mx.zeros((4, 3), mx.uint32)
    with pytest.raises(ValueError, match=r"or dropout=False\.$"):
        chandrop.nn.functional_call(model, {}, tokens)


def test_arguments_of_attention(key):
    attention = chandrop.nn.MultiHeadAttention
    for word in ("p", "rate", "dropout_rate"):
        with pytest.raises(TypeError, match=rf"MultiHeadAttention takes no {word}=0\.1\."):
            attention(16, 4, **{word: 0.1})
    with pytest.raises(TypeError, match=r"MultiHeadAttention\(dims, num_heads, dropout=0"):
        attention(16, 4, dropout_p=0.1)
    with pytest.raises(TypeError, match=r"a float in the place of a width.*dropout=0\.1\)"):
        attention(16, 4, 0.1)

    class Scaled(attention):
        def __init__(self, dims, num_heads, temperature):
            super().__init__(dims, num_heads)
            self.temperature = temperature

    assert Scaled(16, 4, 0.5).temperature == 0.5
    module = attention(16, 4)
    for word in ("p", "dropout", "rate"):
        with pytest.raises(AttributeError, match=r"attention\.dropout\.p = 0\.2"):
            setattr(module, word, 0.2)
    module.dropout.p = 0.2
    module.dropout = chandrop.nn.AttentionDropout(0.3)
    assert module.dropout.p == 0.3
    q = mx.ones((2, 4, 3, 5))
    call = chandrop.functional.dropout_attention
    with pytest.raises(
        ValueError, match=r"shapes \(2, 4, 3, 5\), \(2, 3.*where G divides H"
    ):
        call(q, q[:, :3], q[:, :3], 0.5, key, scale=1.0)
    with pytest.raises(
        ValueError, match=r"and a mask of shape \(6, 5\)\. Expected .*broadc"
    ):
        call(q, q, q, 0.5, key, scale=1.0, mask=mx.ones((6, 5)))
    with pytest.raises(
        ValueError, match=r"^For the weights of attention: Received spatial"
    ):
        call(q, q, q, 0.5, key, scale=1.0, spatial_axes=4)
