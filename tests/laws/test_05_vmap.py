"""Law 5: ``vmap(f)(xs, keys)[i] == f(xs[i], keys[i])``, bit for bit."""

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import SUBJECTS, assert_same, normal

from chandrop.functional import channel_mask, dropout2d
from chandrop.random import example_keys, fold_in

each = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)


@each
@given(st.data())
def test_over_inputs_and_keys(subject, data):
    members = data.draw(st.integers(1, 4))
    xs = normal((members, *data.draw(subject.cases(4))))
    p = data.draw(st.floats(0, 1))
    keys = mx.random.split(mx.random.key(data.draw(st.integers(0, 2**32))), members)
    ys = mx.vmap(lambda x, key: subject.call(x, p, key))(xs, keys)
    for i in range(members):
        assert_same(ys[i], subject.call(xs[i], p, keys[i]))


@each
def test_over_keys_alone(subject, key):
    x = normal(subject.shape())
    keys = mx.random.split(key, 5)
    ys = mx.vmap(lambda key: subject.call(x, 0.5, key))(keys)
    for i in range(5):
        assert_same(ys[i], subject.call(x, 0.5, keys[i]))
    assert not mx.array_equal(ys[0], ys[1])


@each
def test_over_inputs_alone(subject, key):
    xs = normal((5, *subject.shape()))
    ys = mx.vmap(lambda x: subject.call(x, 0.5, key))(xs)
    for i in range(5):
        assert_same(ys[i], subject.call(xs[i], 0.5, key))


@each
def test_over_a_rate(subject, key):
    x = normal(subject.shape())
    rates = mx.array([0.0, 0.1, 0.5, 1.0])
    ys = mx.vmap(lambda p: subject.call(x, p, key))(rates)
    for i in range(4):
        assert_same(ys[i], subject.call(x, rates[i], key))
    keys = mx.random.split(key, 4)
    ys = mx.vmap(lambda p, key: subject.call(x, p, key))(rates, keys)
    for i in range(4):
        assert_same(ys[i], subject.call(x, rates[i], keys[i]))


@each
def test_any_in_and_out_axes(subject, key):
    shape = subject.shape()
    keys = mx.random.split(key, 3)
    for axis in range(len(shape) + 1):
        xs = normal((*shape[:axis], 3, *shape[axis:]))
        ys = mx.vmap(
            lambda x, key: subject.call(x, 0.5, key), in_axes=(axis, 1), out_axes=axis
        )(xs, keys.T)
        for i in range(3):
            expected = subject.call(mx.take(xs, i, axis), 0.5, keys[i])
            assert_same(mx.take(ys, i, axis), expected)


@each
def test_nested(subject, key):
    xs = normal((2, *subject.shape()))
    keys = mx.random.split(key, 6).reshape(2, 3, 2)
    over_keys = mx.vmap(lambda x, key: subject.call(x, 0.5, key), in_axes=(None, 0))
    ys = mx.vmap(over_keys)(xs, keys)
    for i in range(2):
        for j in range(3):
            assert_same(ys[i, j], subject.call(xs[i], 0.5, keys[i, j]))


@each
def test_over_batches_of_keys(subject, key):
    shape = subject.shape()
    if 0 in subject.spatial_axes(len(shape)):
        pytest.skip("axis 0 is spatial")
    xs = normal((2, *shape))
    keys = mx.random.split(key, 2 * shape[0]).reshape(2, shape[0], 2)
    rates = mx.array([0.25, 0.75])
    ys = mx.vmap(subject.call)(xs, rates, keys)
    for i in range(2):
        assert_same(ys[i], subject.call(xs[i], rates[i], keys[i]))


def test_the_short_run_multiplication(key):
    xs = normal((3, 2, 40, 104, 2))
    keys = mx.random.split(key, 3)
    ys = mx.vmap(lambda x, key: dropout2d(x, 0.5, key))(xs, keys)
    for i in range(3):
        assert_same(ys[i], dropout2d(xs[i], 0.5, keys[i]))


def test_channel_mask(key):
    keys = mx.random.split(key, 3)
    masks = mx.vmap(lambda key: channel_mask((4, 5, 6), 0.5, key, 1))(keys)
    for i in range(3):
        assert_same(masks[i], channel_mask((4, 5, 6), 0.5, keys[i], 1))


def test_fold_in_and_example_keys(key):
    keys = mx.random.split(key, 3)
    data = mx.array([7, 8, 9])
    folded = mx.vmap(fold_in)(keys, data)
    offsets = mx.vmap(lambda key, offset: example_keys(key, 4, offset))(keys, data)
    shared = mx.vmap(lambda data: fold_in(key, data))(data)
    crossed = mx.vmap(lambda key: fold_in(key, data))(keys)
    for i in range(3):
        assert_same(folded[i], fold_in(keys[i], data[i]))
        assert_same(offsets[i], example_keys(keys[i], 4, int(data[i])))
        assert_same(shared[i], fold_in(key, data[i]))
        assert_same(crossed[i], fold_in(keys[i], data))
