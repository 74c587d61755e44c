"""Shared masks: groups of channels, and one mask for the batch, against NumPy."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import assert_same, normal

from chandrop.functional import (
    alpha_dropout_channels,
    channel_mask,
    drop_block,
    dropout1d,
    dropout2d,
    dropout3d,
    dropout_channels,
    gaussian_dropout_channels,
)
from chandrop.nn import (
    AlphaDropout,
    ChannelDropout,
    DropBlock,
    Dropout,
    Dropout1d,
    Dropout2d,
    GaussianDropout,
)
from chandrop.random import example_keys

MEMBERS = {
    "dropout": dropout_channels,
    "alpha": alpha_dropout_channels,
    "gaussian": gaussian_dropout_channels,
    "block": lambda x, p, key, axes, groups: drop_block(x, p, key, 2, axes, groups=groups),
}
each = pytest.mark.parametrize("function", MEMBERS.values(), ids=MEMBERS.keys())


@given(st.data())
def test_a_group_has_one_draw(data):
    """The mask of as many channels as groups, repeated by NumPy."""
    ndim = data.draw(st.integers(1, 4))
    groups, size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    channel_axis = data.draw(st.integers(0, ndim - 1))
    after = range(channel_axis + 1, ndim)
    before = data.draw(st.sets(st.integers(0, channel_axis - 1))) if channel_axis else set()
    axes = (*before, *after)
    shape = list(data.draw(st.tuples(*[st.integers(1, 4)] * ndim)))
    shape[channel_axis] = groups
    p = data.draw(st.floats(0, 1))
    key = mx.random.key(data.draw(st.integers(0, 2**32)))
    small = np.array(channel_mask(shape, p, key, axes))
    shape[channel_axis] = groups * size
    x = normal(shape)
    y = dropout_channels(x, p, key, axes, groups=groups)
    np.testing.assert_array_equal(y, np.array(x) * np.repeat(small, size, channel_axis))
    mask = channel_mask(shape, p, key, axes, groups=groups)
    assert_same(x * mask, y)


@each
def test_as_many_groups_as_channels_is_no_group(function, key):
    x = normal((3, 4, 5, 6))
    one_each = function(x, 0.4, key, (1, 2), groups=6)
    assert_same(one_each, function(x, 0.4, key, (1, 2), groups=None))


@each
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_channels_of_a_group_are_alike(function, groups, key):
    y = np.array(function(mx.ones((8, 4, 5, 6)), 0.5, key, (1, 2), groups=groups))
    by_group = y.reshape(8, 4, 5, groups, 6 // groups)
    np.testing.assert_array_equal(
        by_group, np.broadcast_to(by_group[..., :1], by_group.shape)
    )
    others = [by_group[..., i, 0] for i in range(groups)]
    assert all((a != b).any() for i, a in enumerate(others) for b in others[:i])


@each
def test_the_laws_with_groups(function, key, compiles):
    x, keys = normal((3, 4, 5, 6)), mx.random.split(key, 3)

    def call(x, key):
        return function(x, 0.4, key, (1, 2), groups=3)

    xs = normal((3, *x.shape))
    ys = mx.vmap(call)(xs, keys)
    for i in range(3):
        assert_same(ys[i], call(xs[i], keys[i]))
    np.testing.assert_allclose(mx.compile(call)(x, key), call(x, key), rtol=1e-5, atol=1e-6)
    multiplier = call(mx.ones(x.shape), key) - call(mx.zeros(x.shape), key)
    gradient = mx.grad(lambda x: call(x, key).sum())(x)
    np.testing.assert_allclose(gradient, multiplier, rtol=1e-5, atol=1e-6)
    parts = [call(x[a:b], example_keys(key, b - a, a)) for a, b in [(0, 2), (2, 3)]]
    assert_same(mx.concatenate(parts), call(x, example_keys(key, 3)))
    assert_same(call(x, key[None]), call(x, mx.broadcast_to(key, (3, 2))))


@each
def test_one_mask_for_the_whole_batch(function, key):
    """By a batch of one key."""
    y = function(mx.ones((5, 4, 5, 6)), 0.5, key[None], (1, 2), groups=None)
    assert_same(y, mx.broadcast_to(y[:1], y.shape))
    assert not mx.array_equal(y[0], mx.broadcast_to(y[0, :, :, :1], y[0].shape))


def test_one_mask_for_the_whole_batch_through_spatial_axes(key):
    x = mx.ones((5, 4, 5, 6))
    y = dropout_channels(x, 0.5, key, (0, 1, 2))
    small = dropout_channels(x[:1, :1, :1], 0.5, key, (0, 1, 2))
    assert_same(y, mx.broadcast_to(small, x.shape))


def test_whole_groups_of_a_grouped_convolution(key):
    """The outputs of a dropped group are 0, and no other output reads it."""
    convolution = nn.Conv2d(12, 8, 3, groups=4, bias=False)
    x = normal((6, 5, 5, 12))
    dropped = dropout2d(x, 0.5, key, groups=4)
    y = np.array(convolution(dropped)).reshape(6, 3, 3, 4, 2)
    kept = np.array(dropped[:, 0, 0].reshape(6, 4, 3) != 0)
    assert (kept == kept[..., :1]).all()
    kept = kept[..., 0]
    assert kept.any()
    assert not kept.all()
    full = np.array(convolution(x)).reshape(6, 3, 3, 4, 2) * 2
    for example in range(6):
        for group in range(4):
            expected = full[example, :, :, group] * kept[example, group]
            np.testing.assert_allclose(
                y[example, :, :, group], expected, rtol=1e-4, atol=1e-5
            )


def test_a_rate_for_each_group(key):
    x = normal((4, 3, 3, 6))
    y = dropout2d(x, mx.array([0.0, 1.0, 0.0]), key, groups=3)
    assert_same(y[..., :2], x[..., :2])
    assert (y[..., 2:4] == 0).all()
    assert_same(y[..., 4:], x[..., 4:])


def test_the_layouts_take_groups(key):
    for function, shape in [
        (dropout1d, (3, 4, 6)),
        (dropout2d, (3, 4, 4, 6)),
        (dropout3d, (3, 2, 4, 4, 6)),
    ]:
        x = normal(shape)
        axes = tuple(range(1, len(shape) - 1))
        expected = dropout_channels(x, 0.4, key, axes, groups=2)
        assert_same(function(x, 0.4, key, groups=2), expected)


def test_layers(key):
    x = normal((3, 4, 4, 6))
    _, sub = mx.random.split(key)
    layer = Dropout2d(0.4, groups=3, key=key)
    assert repr(layer) == "Dropout2d(p=0.4, groups=3)"
    assert_same(layer(x), dropout2d(x, 0.4, sub, groups=3))
    assert_same(
        ChannelDropout(0.4, (2, 3), groups=2, key=key)(x),
        dropout_channels(x, 0.4, sub, (2, 3), groups=2),
    )
    assert_same(
        AlphaDropout(0.4, (1, 2), groups=2, key=key)(x),
        alpha_dropout_channels(x, 0.4, sub, (1, 2), groups=2),
    )
    assert_same(
        GaussianDropout(0.4, 1, groups=2, key=key)(x[0]),
        gaussian_dropout_channels(x[0], 0.4, sub, 1, groups=2),
    )
    assert_same(
        DropBlock(0.4, 2, (1, 2), groups=1, key=key)(x),
        drop_block(x, 0.4, sub, 2, (1, 2), groups=1),
    )
    assert_same(
        Dropout(0.4, groups=2, key=key)(x), dropout_channels(x, 0.4, sub, (), groups=2)
    )


@each
@pytest.mark.parametrize("groups", [4, 5, 7, 12])
def test_groups_that_do_not_divide_the_channels(function, groups, key):
    message = (
        rf"Received groups = {groups} for 6 channels \(axis 3.*Expected a divisor of 6"
    )
    with pytest.raises(ValueError, match=message):
        function(mx.ones((3, 4, 5, 6)), 0.5, key, (1, 2), groups=groups)


@each
@pytest.mark.parametrize("groups", [0, -1])
def test_fewer_groups_than_one(function, groups, key):
    with pytest.raises(ValueError, match=rf"Received groups = {groups}\. Expected at lea"):
        function(mx.ones((3, 4, 5, 6)), 0.5, key, (1, 2), groups=groups)


@each
@pytest.mark.parametrize("groups", [2.0, "2", True], ids=repr)
def test_groups_of_another_type(function, groups, key):
    with pytest.raises(TypeError, match=r"Received groups of type \w+\. Expected an int"):
        function(mx.ones((3, 4, 5, 6)), 0.5, key, (1, 2), groups=groups)


@pytest.mark.parametrize("layer", [Dropout, Dropout1d, Dropout2d, AlphaDropout])
def test_layers_check_groups_when_built_and_called(layer):
    with pytest.raises(ValueError, match="Expected at least 1"):
        layer(groups=0)
    with pytest.raises(TypeError, match="Received groups of type float"):
        layer(groups=2.0)
    shape = (3, 4, 6) if layer is Dropout1d else (3, 4, 4, 6)
    for training in (True, False):
        with pytest.raises(ValueError, match="Expected a divisor of 6"):
            layer(groups=4).train(training)(mx.ones(shape))


def test_groups_without_a_channel_axis(key):
    with pytest.raises(ValueError, match=r"whose 2 axes are all spatial\. .* channels"):
        dropout_channels(mx.ones((3, 4)), 0.5, key, (0, 1), groups=2)


def test_groups_along_the_axis_of_the_keys(key):
    x = normal((6,))
    assert dropout_channels(x, 0.5, key, (), groups=2).shape == (6,)
    for groups in (1, 2):
        message = f"a batch of keys, and {groups} groups along its axis 0"
        with pytest.raises(ValueError, match=message):
            dropout_channels(x, 0.5, mx.random.split(key, 6), (), groups=groups)


def test_rates_of_channels_where_there_are_groups(key):
    with pytest.raises(ValueError, match=r"p of shape \(6,\).*group of channels"):
        dropout2d(mx.ones((3, 4, 4, 6)), mx.full((6,), 0.5), key, groups=3)
