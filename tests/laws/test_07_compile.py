"""Law 7: compiled equals eager bit for bit; a new key is a new mask without a retrace."""

import os
import subprocess
import sys
import textwrap

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from compiler import literals_survive_compilation
from hypothesis import given, settings
from hypothesis import strategies as st
from subjects import DROPPING, SUBJECTS, assert_same, normal

import chandrop
from chandrop.functional import dropout2d, dropout_channels
from chandrop.random import example_keys, fold_in

pytestmark = pytest.mark.usefixtures("compiles")
# Two of those that drop blocks are enough for the C++ compiler, which takes long.
_BLOCKS = ("drop_block:sequences", "drop_block:images, channels-first")
each = pytest.mark.parametrize(
    "subject",
    [s for s in SUBJECTS if not s.name.startswith("drop_block") or s.name in _BLOCKS],
    ids=lambda s: s.name,
)
each_dropping = pytest.mark.parametrize("subject", DROPPING, ids=lambda s: s.name)


def assert_compiled(subject, compiled, eager):
    """The same bits, but where MLX itself, or a formula, has numbers that it shortens."""
    if subject.drops or literals_survive_compilation():
        assert_same(compiled, eager)
    else:
        np.testing.assert_allclose(compiled, eager, rtol=1e-5, atol=1e-6)


class Traced:
    """Compiles a function and counts how often it is traced."""

    def __init__(self, function, **state):
        self.traces = 0

        def count(*args):
            self.traces += 1
            return function(*args)

        self.call = mx.compile(count, **state)

    def __call__(self, *args):
        return self.call(*args)


@each
@pytest.mark.parametrize("p", [0, 0.3, 1 / 3, 1])
def test_equals_eager(subject, p, key):
    x = normal(subject.shape())
    compiled = mx.compile(lambda x, key: subject.call(x, p, key))
    assert_compiled(subject, compiled(x, key), subject.call(x, p, key))


@settings(max_examples=15)
@given(st.data())
def test_any_shape_and_axes(data):
    ndim = data.draw(st.integers(1, 4))
    x = normal(data.draw(st.tuples(*[st.integers(1, 6)] * ndim)))
    axes = data.draw(st.lists(st.integers(0, ndim - 1), unique=True))
    p = data.draw(st.floats(0, 1))
    key = mx.random.key(data.draw(st.integers(0, 2**32)))
    compiled = mx.compile(lambda x, key: dropout_channels(x, p, key, axes))
    assert_same(compiled(x, key), dropout_channels(x, p, key, axes))


@each
def test_a_new_key_is_a_new_mask_without_a_retrace(subject, get_key):
    x = normal(subject.shape())
    compiled = Traced(lambda x, key: subject.call(x, 0.3, key))
    ys = []
    for _ in range(4):
        key = get_key()
        ys.append(compiled(x, key))
        assert_compiled(subject, ys[-1], subject.call(x, 0.3, key))
    assert compiled.traces == 1
    assert not all(mx.array_equal(y, ys[0]) for y in ys)


@each
def test_a_traced_rate(subject, key):
    x = normal(subject.shape())
    compiled = Traced(subject.call)
    for rate in (0.0, 0.1, 0.3, 0.7, 1.0):
        assert_compiled(
            subject, compiled(x, mx.array(rate), key), subject.call(x, mx.array(rate), key)
        )
    assert compiled.traces == 1


@each_dropping
def test_between_other_operations(subject, key):
    def block(x, key):
        return subject.call(mx.maximum(x, 0), 0.3, key) + 1

    x = normal(subject.shape())
    assert_compiled(subject, mx.compile(block)(x, key), block(x, key))


@each
def test_gradient(subject, key):
    def gradient(x, key):
        return mx.grad(lambda x: (subject.call(x, 0.3, key) ** 2).sum())(x)

    x = normal(subject.shape())
    assert_compiled(subject, mx.compile(gradient)(x, key), gradient(x, key))


@each_dropping
def test_a_batch_of_keys(subject, key):
    x = normal(subject.shape())
    if 0 in subject.spatial_axes(x.ndim):
        pytest.skip("axis 0 is spatial")
    keys = mx.random.split(key, x.shape[0])
    compiled = mx.compile(lambda x, keys: subject.call(x, 0.3, keys))
    assert_compiled(subject, compiled(x, keys), subject.call(x, 0.3, keys))


@each_dropping
def test_vmap_inside(subject, key):
    xs = normal((3, *subject.shape()))
    keys = mx.random.split(key, 3)
    ensemble = mx.vmap(lambda x, key: subject.call(x, 0.3, key))
    assert_compiled(subject, mx.compile(ensemble)(xs, keys), ensemble(xs, keys))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.complex64], ids=str)
def test_dtypes(dtype, key):
    x = normal((3, 4, 5, 6), dtype)
    compiled = mx.compile(lambda x, key: dropout2d(x, 0.3, key))
    assert_same(compiled(x, key), dropout2d(x, 0.3, key))


@pytest.mark.parametrize(
    "shape", [(2, 8, 8, 64), (2, 40, 104, 2), (2, 16, 1024, 2)], ids=str
)
def test_every_way_to_multiply(shape, key):
    x = normal(shape)
    compiled = mx.compile(lambda x, key: dropout2d(mx.maximum(x, 0), 0.3, key))
    assert_same(compiled(x, key), dropout2d(mx.maximum(x, 0), 0.3, key))


def test_many_rates_equal_eager(get_key):
    """No rate's scale loses its last bit on the way through a compiled kernel."""
    rates = [0.05, 0.1, 1 / 3, 0.45, 0.6, 0.7, 0.85, 0.99]
    keys = mx.random.split(get_key(), len(rates))
    x = normal((16, 2, 2, 64))

    def all_rates(x):
        return [dropout2d(x, p, key) for p, key in zip(rates, keys, strict=True)]

    for compiled, eager in zip(mx.compile(all_rates)(x), all_rates(x), strict=True):
        assert_same(compiled, eager)


def kernels(folder, *rates, channels=4):
    """The sources of what MLX compiles for dropout after a relu, at each of the rates."""
    script = """
        import sys
        import mlx.core as mx
        from chandrop.functional import dropout2d
        key, x = mx.random.key(0), mx.ones((1, 3, 3, int(sys.argv[1])))
        for p in map(float, sys.argv[2:]):
            mx.eval(mx.compile(lambda x: dropout2d(mx.maximum(x, 0), p, key))(x))
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, (channels, *rates))],
        env=os.environ | {"TMPDIR": str(folder)},
        check=True,
    )
    return {path.name: path.read_text() for path in folder.rglob("*.cpp")}


on_cpu = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="kernels are files on the CPU alone"
)


@on_cpu
def test_a_new_rate_is_no_new_kernel(tmp_path):
    """MLX writes numbers into kernels: a rate among them would be one more run of g++."""
    assert kernels(tmp_path, 0.1).keys() == kernels(tmp_path, 0.1, 1 / 3, 0.5).keys()


@on_cpu
@pytest.mark.parametrize(("channels", "comparison"), [(8, "LessEqual()"), (7, "Less()")])
def test_the_mask_is_not_drawn_in_the_loop_over_the_input(channels, comparison, tmp_path):
    """Or it would be for every element anew: 13 times slower after a relu.

    An even number is drawn from the words of keys, an odd one by mx.random.bernoulli.
    """
    sources = kernels(tmp_path, 0.3, channels=channels).values()
    assert any(comparison in source for source in sources)
    assert any("Maximum()" in source for source in sources)
    assert not any(comparison in source and "Maximum()" in source for source in sources)


def test_keys(key):
    def derive(key, data):
        return fold_in(key, data), example_keys(key, 5, data)

    compiled = Traced(derive)
    for data in (0, 1, 2**32 - 6):
        data = mx.array(data, dtype=mx.uint32)
        for one, other in zip(compiled(key, data), derive(key, data), strict=True):
            assert_same(one, other)
    assert compiled.traces == 1


def test_a_layer_advances_its_key_in_a_compiled_step(key):
    """With the usual ``inputs=state, outputs=state``, as eager, and without a retrace."""

    def run(steps, compile_step):
        model = nn.Sequential(chandrop.nn.Dropout(0.5, key=key))
        state = [model.state]
        step = Traced(model, inputs=state, outputs=state) if compile_step else model
        ys = [step(mx.ones((4, 64))) for _ in range(steps)]
        return ys, model.layers[0]._key, step

    compiled, compiled_key, step = run(3, True)
    eager, eager_key, _ = run(3, False)
    for one, other in zip(compiled, eager, strict=True):
        assert_same(one, other)
    assert_same(compiled_key, eager_key)
    assert not mx.array_equal(compiled[0], compiled[1])
    assert step.traces == 1
