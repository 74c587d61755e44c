"""sample and predict notice calls that are not pure."""

import copy
from types import SimpleNamespace
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import pytest
from subjects import assert_same

from chandrop.functional import dropout
from chandrop.nn import Dropout, functional_call
from chandrop.random import fold_in
from chandrop.uncertainty import predict, sample

each_chunk = pytest.mark.parametrize("chunk", [None, 1, 2])
DRAWS = "draws from MLX's global stream"


@pytest.fixture
def keys(key):
    return mx.random.split(key, 4)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def __call__(self, x):
        return self.dropout(x + mx.random.normal(x.shape))


def noisy(key, x):
    return dropout(x + mx.random.normal(x.shape), 0.5, key)


@each_chunk
@pytest.mark.parametrize("fn", [Noisy(), noisy], ids=["model", "function"])
def test_draws_from_the_global_stream(fn, chunk, keys):
    before = mx.random.state[0].tolist()
    with pytest.raises(ValueError, match=DRAWS):
        sample(fn, keys, mx.ones((2, 3)), chunk=chunk)
    with pytest.raises(ValueError, match=DRAWS):
        predict(fn, keys, mx.ones((2, 3)), chunk=chunk)
    assert mx.random.state[0].tolist() == before


@each_chunk
def test_draws_by_a_key_that_derives_from_the_samples(chunk, keys):
    model = nn.Sequential(nn.Linear(3, 8), Dropout(0.5))

    def network(key, x):
        x = x + mx.random.normal(x.shape, key=fold_in(key, 0))
        return functional_call(model, {}, x, key=key[None], dropout=True)

    samples = sample(network, keys, mx.ones((2, 3)), chunk=chunk)
    assert not mx.allclose(samples[0], samples[1])


@pytest.mark.parametrize("carried", [False, True])
def test_draws_within_transforms(carried, keys, compiles):
    stream = {"inputs": mx.random.state, "outputs": mx.random.state} if carried else {}
    for transform in (lambda f: mx.compile(f, **stream), mx.vmap, mx.grad):
        mx.random.seed(7)
        with pytest.raises(ValueError, match=DRAWS):
            transform(lambda x: sample(noisy, keys, x).sum())(mx.ones((2, 3)))
        # What raises in a trace leaves the stream that it carries in the trace.
        if not carried:
            assert mx.random.state[0].tolist() == [0, 7]
    mx.random.seed(0)


@pytest.mark.parametrize("carried", [False, True])
def test_pure_calls_within_transforms(carried, keys, compiles):
    """The stream also moves between calls, and is carried by a trace that draws outside."""
    stream = {"inputs": mx.random.state, "outputs": mx.random.state} if carried else {}

    def mean(x):
        samples = sample(lambda key, x: dropout(x, 0.5, key), keys, x)
        return (samples + mx.random.normal(x.shape)).sum()

    for transform in (lambda f: mx.compile(f, **stream), mx.vmap, mx.grad):
        mx.eval(transform(mean)(mx.ones((2, 3))))


def test_a_compiled_model_that_carries_the_stream_without_drawing(keys, compiles):
    """MLX puts another array in the stream's place, with the same words."""
    call = mx.compile(lambda x: x * 2, inputs=mx.random.state, outputs=mx.random.state)
    before = mx.random.state[0]
    call(mx.ones(3))
    assert mx.random.state[0] is not before
    for chunk in (None, 1):
        samples = sample(
            lambda key, x: dropout(call(x), 0.5, key), keys, mx.ones(64), chunk=chunk
        )
        assert set(samples.flatten().tolist()) == {0, 4}


def test_layers_that_are_built_in_the_call(keys):
    """They draw their keys, or weights, from the global stream, unless given a key."""
    with pytest.raises(ValueError, match="Build layers before the call"):
        sample(lambda key, x: Dropout(0.5)(x), keys, mx.ones(3))
    sample(lambda key, x: Dropout(0.5, key=key)(x), keys, mx.ones(3))


class Cache:
    """As mlx-lm's KVCache: it is written in place, or grows."""

    def __init__(self):
        self.keys, self.offset = None, 0
        self.limits = (4, mx.zeros(1))

    def update(self, x):
        n = x.shape[1]
        if self.keys is None:
            self.keys = mx.zeros((x.shape[0], 16, x.shape[2]))
        self.keys[:, self.offset : self.offset + n] = x
        self.offset += n
        return self.keys[:, : self.offset]


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 3), Dropout(0.5)
        self.eval()

    def __call__(self, x, caches):
        return caches[0].update(self.dropout(self.linear(x))).sum(1)


@each_chunk
@pytest.mark.parametrize("filled", [False, True])
def test_a_key_value_cache(filled, chunk, keys):
    model, x, cache = Cached(), mx.ones((2, 5, 3)), [Cache()]
    if filled:
        model(x, cache)
    held = vars(cache[0]).copy()
    words = None if held["keys"] is None else held["keys"].tolist()
    changed = r"args\[1\]\[0\]\.offset"
    if not filled:
        changed = rf"args\[1\]\[0\]\.keys, {changed}"
    with pytest.raises(ValueError, match=rf"changes its arguments: {changed}\. ") as error:
        sample(model, keys, x, cache, chunk=chunk)
    assert vars(cache[0]) == held
    assert cache[0].keys is held["keys"]
    assert words is None or cache[0].keys.tolist() == words

    advice = str(error.value).split("of a cache: ")[1].rstrip(".")
    names = {
        "sample": sample,
        "functional_call": functional_call,
        "copy": copy,
        "model": model,
        "cache": cache,
        "keys": keys,
        "x": x,
    }
    samples = eval(advice, names)
    assert vars(cache[0]) == held
    for key, one in zip(keys, samples, strict=True):
        own = copy.deepcopy(cache)
        expected = functional_call(model, {}, x, own, key=key[None], dropout=True)
        assert mx.allclose(one, expected, rtol=1e-5)


class Pair(NamedTuple):
    first: object
    second: object


def grow(held):
    held.append(1)


def rename(held):
    held["b"] = held.pop("a")


def assign(held):
    held.first.n = 2


@pytest.mark.parametrize(
    ("make", "change", "place"),
    [
        (lambda: [0], grow, r"args\[0\]"),
        (lambda: {"a": [0]}, lambda held: grow(held["a"]), r"args\[0\]\['a'\]"),
        (lambda: {"a": 0}, rename, r"args\[0\]\['a'\], args\[0\]\['b'\]"),
        (lambda: Pair(SimpleNamespace(n=1), 0), assign, r"args\[0\]\[0\]\.n"),
        (lambda: [0, 1], lambda held: held.reverse(), r"args\[0\]\[0\], args\[0\]\[1\]"),
        (lambda: [mx.ones(1)], lambda held: held.insert(0, held.pop() * 1), r"\[0\]\[0\]"),
        (lambda: [0] * 9, lambda held: held.__setitem__(slice(9), [1] * 9), "and 6 others"),
    ],
)
def test_places_that_change(make, change, place, keys):
    def network(key, held):
        change(held)
        return key

    held, unchanged = make(), make()
    with pytest.raises(ValueError, match=f"arguments: .*{place}"):
        sample(network, keys, held)
    assert str(held) == str(unchanged)


@each_chunk
def test_arrays_that_are_changed_in_place(chunk, keys):
    """Each call is given copies, so that no key sees what another has written."""
    x, held = mx.ones(3), [mx.ones(3), {"a": (mx.ones(3),)}, SimpleNamespace(b=mx.ones(3))]

    def network(key, x, held):
        x += 1
        held[0][0] = 5
        held[1]["a"][0][:] = 7
        held[2].b *= 2
        return x + held[0] + held[1]["a"][0] + held[2].b, held[1]

    total, returned = sample(network, keys, x, held, chunk=chunk)
    assert_same(total, mx.broadcast_to(mx.array([16.0, 12, 12]), (4, 3)))
    assert_same(returned["a"][0], mx.full((4, 3), 7.0))
    for array in (x, held[0], held[1]["a"][0], held[2].b):
        assert_same(array, mx.ones(3))

    def summed(key, x):
        x += 1
        return x

    assert_same(predict(summed, keys, x, "regression", chunk=chunk).mean, x + 1)


def test_arguments_that_stay_as_they_were(keys):
    """Cycles, aliases, modules, functions, what is assigned anew but equal."""
    cycle = [mx.ones(3), "name", None, float("nan"), mx.float32, 2, (1, 2)]
    cycle.append(cycle)
    held = SimpleNamespace(cycle=cycle, same=cycle[0], model=Cached(), function=abs, n=1.5)
    held.itself = held

    def network(key, x, held):
        assert held.same is held.cycle[0]
        held.n, held.cycle[6], held.cycle[4] = float("1.5"), (1, 2), x.dtype
        held.cycle[3] = float("nan")
        held.model.calls = [1]
        return dropout(x * held.cycle[7][0], 0.5, key)

    first = cycle[0]
    assert sample(network, keys, mx.ones(3), held).shape == (4, 3)
    assert held.cycle is cycle
    assert cycle[0] is first
    assert cycle[7] is cycle


def test_gradients_of_arrays_in_arguments(keys):
    def loss(x):
        return sample(lambda key, held: held["x"] * held["x"], keys, {"x": x}).sum()

    assert_same(mx.grad(loss)(mx.ones(3)), mx.full((3,), 8.0))


def test_arguments_are_put_back_if_the_call_raises(keys):
    def failing(key, held):
        held.append(1)
        raise RuntimeError("the function failed")

    held = [mx.ones(1)]
    first = held[0]
    with pytest.raises(RuntimeError, match="the function failed"):
        sample(failing, keys, held)
    assert len(held) == 1
    assert held[0] is first


def test_layers_that_draw_by_their_own_key(keys):
    """Under mx.vmap all samples would have one mask."""
    model = nn.Sequential(nn.Linear(3, 3), Dropout(0.5))
    with pytest.raises(ValueError, match=r"calls a Dropout\(p=0\.5\) without a key"):
        sample(lambda key, x: model(x), keys, mx.ones((2, 3)))
    samples = sample(
        lambda key, x: functional_call(model, {}, x, key=key, dropout=True),
        keys,
        mx.ones((2, 3)),
    )
    assert not mx.array_equal(samples[0], samples[1])

    def locked(key, x):
        """One mask for all samples, by a key that is given."""
        return functional_call(model, {}, x, key=mx.random.key(1), dropout=True)

    samples = sample(locked, keys, mx.ones((2, 3)))
    assert_same(samples[0], samples[1])
