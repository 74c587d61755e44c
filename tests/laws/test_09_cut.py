"""Law 9: with a key per example, results do not depend on how a batch is cut."""

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import SUBJECTS, assert_same, normal

from chandrop.functional import channel_mask
from chandrop.random import example_keys

BATCHED = [s for s in SUBJECTS if 0 not in s.spatial_axes(s.ranks[-1])]
each = pytest.mark.parametrize("subject", BATCHED, ids=lambda s: s.name)


@each
@given(st.data())
def test_any_cut(subject, data):
    batch = data.draw(st.integers(1, 9))
    cuts = sorted(data.draw(st.lists(st.integers(0, batch), max_size=3)))
    p = data.draw(st.floats(0, 1))
    key = mx.random.key(data.draw(st.integers(0, 2**32)))
    x = normal(subject.shape(batch=batch))
    whole = subject.call(x, p, example_keys(key, batch))
    for start, stop in zip([0, *cuts], [*cuts, batch], strict=True):
        part = subject.call(x[start:stop], p, example_keys(key, stop - start, start))
        assert_same(whole[start:stop], part)


@each
def test_one_example_with_its_own_key(subject, key):
    x = normal(subject.shape(batch=6))
    keys = mx.random.split(key, 6)
    y = subject.call(x, 0.5, keys)
    for i in range(6):
        assert_same(y[i : i + 1], subject.call(x[i : i + 1], 0.5, keys[i]))


@each
def test_rates_of_any_shape(subject, key):
    x = normal(subject.shape(batch=4))
    keys = mx.random.split(key, 4)
    mask_shape = subject.mask_shape(x.shape)
    for shape in (
        mask_shape,
        (1, *mask_shape[1:]),
        (4,) + (1,) * (x.ndim - 1),
        mask_shape[-1:],
    ):
        rates = mx.random.uniform(shape=shape, key=key)
        y = subject.call(x, rates, keys)
        rates = mx.broadcast_to(rates, mask_shape)
        for i in range(4):
            assert_same(y[i : i + 1], subject.call(x[i : i + 1], rates[i : i + 1], keys[i]))


@each
def test_accumulated_gradients(subject, key):
    x = normal(subject.shape(batch=6))

    def gradient(x, keys):
        return mx.grad(lambda x: (subject.call(x, 0.5, keys) ** 2).sum())(x)

    whole = gradient(x, example_keys(key, 6))
    parts = [gradient(x[i : i + 2], example_keys(key, 2, i)) for i in (0, 2, 4)]
    assert_same(whole, mx.concatenate(parts))


@each
def test_an_empty_part(subject, key):
    x = mx.zeros((0, *subject.shape()[1:]))
    for p in (0.5, mx.array(0.5)):
        assert_same(subject.call(x, p, example_keys(key, 0)), x)
        assert_same(subject.call(x, p, key), x)


@each
def test_one_key_for_all_examples_is_one_network(subject, key):
    x = mx.ones(subject.shape(batch=5))
    y = subject.call(x, 0.5, mx.broadcast_to(key, (5, 2)))
    for i in range(5):
        assert_same(y[i], y[0])
    short = subject.call(x[:2], 0.5, mx.broadcast_to(key, (2, 2)))
    assert_same(short, y[:2])
    assert_same(subject.call(x, 0.5, key[None]), y)
    assert_same(mx.vmap(lambda key: subject.call(x, 0.5, key))(key[None, None])[0], y)


@each
def test_one_key_for_all_examples_and_rates_of_any_shape(subject, key):
    x = mx.ones(subject.shape(batch=4))
    mask_shape = subject.mask_shape(x.shape)
    for shape in (mask_shape, (1, *mask_shape[1:]), (4,) + (1,) * (x.ndim - 1)):
        rates = mx.random.uniform(shape=shape, key=key)
        y = subject.call(x, rates, key[None])
        assert_same(y, subject.call(x, rates, mx.broadcast_to(key, (4, 2))))
    empty = mx.zeros((0, *x.shape[1:]))
    assert_same(subject.call(empty, 0.5, key[None]), empty)


def test_channel_mask(key):
    whole = channel_mask((6, 3, 8), 0.5, example_keys(key, 6), 1)
    part = channel_mask((4, 3, 8), 0.5, example_keys(key, 4, 2), 1)
    assert_same(whole[2:], part)
