"""Law 1: same arguments, same bits: across calls, devices and processes."""

import hashlib
import subprocess
import sys
import textwrap

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from subjects import FUNCTIONS, SUBJECTS, assert_same, bits, normal

from chandrop.random import example_keys, fold_in


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
@given(st.data())
def test_calls(subject, data):
    x = normal(data.draw(subject.cases()))
    p = data.draw(st.floats(0, 1))
    key = mx.random.key(data.draw(st.integers(0, 2**64 - 1)))
    before = mx.array(key), mx.array(x)
    y = subject.call(x, p, key)
    mx.random.uniform()
    assert_same(y, subject.call(x, p, mx.array(key)))
    assert_same(key, before[0])
    assert_same(x, before[1])


@pytest.mark.parametrize("subject", FUNCTIONS, ids=lambda s: s.name)
def test_the_global_stream_is_left_alone(subject, key):
    before = mx.array(mx.random.state[0])
    subject.call(normal(subject.shape()), 0.5, key)
    assert_same(mx.random.state[0], before)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_devices(subject, key):
    if mx.default_device() == mx.Device(mx.cpu):
        pytest.skip("there is one device here")
    x = normal(subject.shape())
    with mx.stream(mx.cpu):
        y = subject.call(x, 0.4, key)
    with mx.stream(mx.gpu):
        assert_same(subject.call(x, 0.4, key), y)


def test_processes(key):
    script = textwrap.dedent("""
        import hashlib
        import mlx.core as mx
        import numpy as np
        from chandrop.functional import dropout2d
        from chandrop.random import example_keys
        mx.random.seed(99)
        key = mx.random.key(20261122)
        x = mx.arange(1.0, 1 + 4 * 3 * 2 * 7).reshape(4, 3, 2, 7)
        y = dropout2d(x, 0.3, example_keys(key, 4))
        print(hashlib.sha256(np.array(y).tobytes()).hexdigest())
    """)
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    from chandrop.functional import dropout2d

    x = mx.arange(1.0, 1 + 4 * 3 * 2 * 7).reshape(4, 3, 2, 7)
    y = dropout2d(x, 0.3, example_keys(key, 4))
    assert other.stdout.strip() == hashlib.sha256(bits(y).tobytes()).hexdigest()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_fold_in(seed, data):
    key = mx.random.key(seed)
    assert_same(fold_in(key, data), fold_in(mx.array(key), data))
    assert_same(fold_in(key, mx.array([data], dtype=mx.uint32))[0], fold_in(key, data))


def test_fold_in_broadcasts(key):
    keys = mx.random.split(key, 3)
    table = fold_in(keys[:, None], mx.arange(4))
    assert table.shape == (3, 4, 2)
    for i in range(3):
        for j in range(4):
            assert_same(table[i, j], fold_in(keys[i], j))
    assert_same(fold_in(keys, 2), table[:, 2])
    assert_same(
        fold_in(key, mx.arange(6).reshape(2, 3)).reshape(6, 2), fold_in(key, mx.arange(6))
    )


def test_fold_in_takes_integers_modulo_2_to_the_32(key):
    assert_same(fold_in(key, mx.array(-1)), fold_in(key, 2**32 - 1))
    assert_same(fold_in(key, mx.array(2**32 + 5, dtype=mx.int64)), fold_in(key, 5))


@given(st.integers(0, 6), st.integers(0, 2**32 - 7))
def test_example_keys(n, offset):
    key = mx.random.key(3)
    keys = example_keys(key, n, offset)
    assert keys.shape == (n, 2)
    for place in range(n):
        assert_same(keys[place], fold_in(key, offset + place))
    assert_same(keys, example_keys(key, n, mx.array(offset, dtype=mx.uint32)))
