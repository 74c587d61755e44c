"""Checks are remembered, but not for what Python holds equal: 1, 1.0 and True."""

import mlx.core as mx
import pytest

import chandrop.nn
from chandrop.functional import (
    alpha_dropout_channels,
    channel_mask,
    concrete_dropout_channels,
    drop_block,
    dropout_channels,
    gaussian_dropout_channels,
)
from chandrop.functional._bernoulli import _threshold
from chandrop.functional._channels import _channels
from chandrop.functional._coefficients import _numbers
from chandrop.functional._drop_block import _formula
from chandrop.thin import thin_dropout_channels

SHAPE = (3, 4, 6)
FUNCTIONS = {
    "dropout_channels": dropout_channels,
    "alpha_dropout_channels": alpha_dropout_channels,
    "gaussian_dropout_channels": gaussian_dropout_channels,
    "channel_mask": lambda x, p, key, axes, **groups: channel_mask(
        x.shape, p, key, axes, **groups
    ),
    "drop_block": lambda x, p, key, axes, **groups: drop_block(
        x, p, key, 1, axes, **groups
    ),
    "ChannelDropout": lambda x, p, key, axes, **groups: chandrop.nn.ChannelDropout(
        p, axes, **groups
    )(x, key=key),
    "AlphaDropout": lambda x, p, key, axes, **groups: chandrop.nn.AlphaDropout(
        p, axes, **groups
    )(x, key=key),
    "GaussianDropout": lambda x, p, key, axes, **groups: chandrop.nn.GaussianDropout(
        p, axes, **groups
    )(x, key=key),
    "DropBlock": lambda x, p, key, axes, **groups: chandrop.nn.DropBlock(
        p, 1, axes, **groups
    )(x, key=key),
}
WITHOUT_GROUPS = {
    "thin_dropout_channels": thin_dropout_channels,
    "concrete_dropout_channels": lambda x, p, key, axes: concrete_dropout_channels(
        x, mx.array(0.0), key, axes
    ),
    "ConcreteDropout": lambda x, p, key, axes: chandrop.nn.ConcreteDropout(0.5, axes)(
        x, key=key
    ),
}
each = pytest.mark.parametrize("name", FUNCTIONS)
each_order = pytest.mark.parametrize("right_first", [True, False])


@pytest.fixture(autouse=True)
def forgotten():
    for cached in (_channels, _numbers, _threshold, _formula):
        cached.cache_clear()
    chandrop._checks.axes_and_mask_shape.cache_clear()


def assert_apart(right, wrong, message, right_first):
    """The wrong call is an error and the right one none, whichever comes first."""
    if right_first:
        right()
        right()
    for _ in range(2):
        with pytest.raises(TypeError, match=message):
            wrong()
    right()
    with pytest.raises(TypeError, match=message):
        wrong()


@each
@each_order
def test_a_rate_that_is_a_bool(name, right_first, key):
    x, function = mx.ones(SHAPE), FUNCTIONS[name]
    for right, wrong in ((1, True), (1.0, True), (0, False)):
        assert_apart(
            lambda p=right: function(x, p, key, 1),
            lambda p=wrong: function(x, p, key, 1),
            "Received p of type bool",
            right_first,
        )


@each
@each_order
@pytest.mark.parametrize("groups", [True, 1.0])
def test_groups_that_are_no_int(name, groups, right_first, key):
    x, function = mx.ones(SHAPE), FUNCTIONS[name]
    assert_apart(
        lambda: function(x, 0.5, key, 1, groups=1),
        lambda: function(x, 0.5, key, 1, groups=groups),
        rf"Received groups of type {type(groups).__name__}\. Expected an int",
        right_first,
    )


@pytest.mark.parametrize("name", [*FUNCTIONS, *WITHOUT_GROUPS])
@each_order
@pytest.mark.parametrize("axes", [True, 1.0, (True,), [True], (1.0,), [1.0]], ids=repr)
def test_axes_that_are_no_ints(name, axes, right_first, key):
    x, function = mx.ones(SHAPE), (FUNCTIONS | WITHOUT_GROUPS)[name]
    for right in (1, (1,), [1]):
        assert_apart(
            lambda axes=right: function(x, 0.5, key, axes),
            lambda: function(x, 0.5, key, axes),
            r"Received .*\. Expected spatial axes such as 1 or \(1, 2\)\.",
            right_first,
        )


@pytest.mark.parametrize("name", [*FUNCTIONS, *WITHOUT_GROUPS])
@each_order
@pytest.mark.parametrize("axes", [(1, True), (0, True), (0, 1.0), (False, 1)], ids=repr)
def test_some_axes_that_are_no_ints(name, axes, right_first, key):
    x, function = mx.ones(SHAPE), (FUNCTIONS | WITHOUT_GROUPS)[name]
    assert_apart(
        lambda: function(x, 0.5, key, (0, 1)),
        lambda: function(x, 0.5, key, axes),
        r"Received .*\. Expected spatial axes such as 1 or \(1, 2\)\.",
        right_first,
    )


@each_order
@pytest.mark.parametrize("shape", [(4.0, 1, 6), (4, True, 6), (4, 1, 6.0)], ids=repr)
def test_a_shape_that_holds_no_ints(shape, right_first, key):
    assert_apart(
        lambda: channel_mask((4, 1, 6), 0.5, key, 1),
        lambda: channel_mask(shape, 0.5, key, 1),
        r"Received \(4.*\)\. Expected a shape such as x\.shape\.",
        right_first,
    )


@each_order
@pytest.mark.parametrize("block_size", [True, 1.0])
def test_a_block_size_that_is_no_int(block_size, right_first, key):
    x = mx.ones(SHAPE)
    assert_apart(
        lambda: drop_block(x, 0.5, key, 1, 1),
        lambda: drop_block(x, 0.5, key, block_size, 1),
        rf"Received block_size of type {type(block_size).__name__}",
        right_first,
    )


@pytest.mark.parametrize("dtypes", [(mx.float32, mx.float16), (mx.float16, mx.float32)])
def test_dtypes_of_one_shape(dtypes, key):
    for dtype in dtypes:
        assert dropout_channels(mx.ones(SHAPE, dtype=dtype), 0.3, key, 1).dtype == dtype
        assert channel_mask(SHAPE, 0.3, key, 1, dtype).dtype == dtype
    with pytest.raises(TypeError, match="Received dtype"):
        dropout_channels(mx.ones(SHAPE, dtype=mx.int32), 0.3, key, 1)


def test_rates_that_are_equal_give_equal_masks(key):
    """An int, a float and -0.0 are one rate."""
    x = mx.ones(SHAPE)
    for rates in ((0, 0.0, -0.0), (1, 1.0)):
        first = dropout_channels(x, rates[0], key, 1)
        for rate in rates:
            assert mx.array_equal(dropout_channels(x, rate, key, 1), first)
