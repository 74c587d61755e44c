"""Balanced keys: masks as with a key of its own for each member, even for all together."""

import math
from itertools import combinations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from binomial import Binomial
from subjects import SUBJECTS, assert_same, normal

from chandrop.functional import channel_mask, dropout2d
from chandrop.nn import Dropout, Dropout2d, functional_call, get_keys, rekey, set_keys
from chandrop.random import balanced_keys, example_keys, fold_in

MEMBERS = [1, 2, 4, 8, 32]
each = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)


def drops(keys, p, channels=512):
    """What each member drops: ``(S, channels)``."""
    return np.array(mx.vmap(lambda key: channel_mask((channels,), p, key, ()) == 0)(keys))


def check_even(dropped, p):
    """Each channel is dropped by p * S members, rounded up or down."""
    members = len(dropped)
    low, high = math.floor(p * members), math.ceil(p * members)
    counts = set(dropped.sum(0).flatten().tolist())
    assert counts <= {low, high}
    return counts


@pytest.mark.parametrize("n", MEMBERS)
def test_places_are_four_random_orders(n, key):
    keys = np.array(balanced_keys(key, n))
    assert keys.shape == (n, 6)
    assert keys.dtype == np.uint32
    assert len(np.unique(keys[:, :2], axis=0)) == 1
    for places in keys[:, 2:].T:
        assert sorted(places) == [i * 2**32 // n for i in range(n)]
    if n == 32:
        assert len({tuple(places) for places in keys[:, 2:].T}) == 4


@pytest.mark.parametrize("n", MEMBERS)
@pytest.mark.parametrize("p", [0.5, 0.25, 0.1, 0.7])
def test_every_channel_is_dropped_equally_often(n, p, key):
    counts = check_even(drops(balanced_keys(key, n), p), p)
    assert len(counts) == (1 if (p * n).is_integer() else 2)


def test_rounding_leaves_counts_even(key):
    check_even(drops(balanced_keys(key, 64), 0.25, channels=300_000), 0.25)


def test_layers_and_steps_are_independent(key):
    """Of what one member drops in one layer or step, it drops p in another."""
    member = balanced_keys(key, 8)[3]
    others = [fold_in(fold_in(member, layer), step) for layer in (0, 1) for step in (0, 1)]
    masks = np.array([channel_mask((100_000,), 0.5, other, ()) for other in others]) > 0
    for first, second in combinations(masks, 2):
        assert abs((first == second).mean() - 0.5) < 0.01


def test_rates_zero_and_one(key):
    keys = balanced_keys(key, 8)
    for p in (0, 1, mx.array(0.0), mx.array(1.0)):
        assert (drops(keys, p, channels=4096) == bool(p)).all()


@each
def test_vmap_is_the_loop(subject, key):
    x, keys = normal(subject.shape()), balanced_keys(key, 4)
    together = mx.vmap(lambda key: subject.call(x, 0.5, key))(keys)
    for i in range(4):
        assert_same(together[i], subject.call(x, 0.5, keys[i]))


@pytest.mark.parametrize("keys_for", ["all examples", "each example"])
def test_compiled_is_eager(keys_for, key, compiles):
    def call(x, key):
        drawn = key if keys_for == "all examples" else example_keys(key, len(x))
        return dropout2d(x, 0.5, drawn)

    x, compiled = normal((4, 3, 3, 8)), mx.compile(call)
    for member in balanced_keys(key, 2):
        assert_same(compiled(x, member), call(x, member))


def test_gradients_are_the_mask(key):
    member = balanced_keys(key, 4)[1]
    x = normal((2, 3, 3, 8))

    def loss(x, key):
        return dropout2d(x, 0.5, key).sum()

    by_x, by_key = mx.grad(loss, argnums=(0, 1))(x, member.astype(mx.uint32))
    assert_same(by_x, mx.broadcast_to(channel_mask(x.shape, 0.5, member, (1, 2)), x.shape))
    assert not by_key.any()


def test_a_batch_of_balanced_keys(key):
    keys = balanced_keys(key, 8)

    def member(key):
        return channel_mask((5, 64), 0.3, example_keys(key, 5), ())

    together = mx.vmap(member)(keys)
    check_even(np.array(together) == 0, 0.3)
    end = channel_mask((3, 64), 0.3, example_keys(keys[3], 3, offset=2), ())
    assert_same(together[3, 2:], end)


def test_fold_in_hands_the_place_on(key):
    keys = balanced_keys(key, 4)
    folded = fold_in(keys[:, None], mx.arange(3))
    assert folded.shape == (4, 3, 6)
    assert_same(folded[..., :2], fold_in(keys[:, None, :2], mx.arange(3)))
    assert_same(folded[..., 2:], mx.broadcast_to(keys[:, None, 2:], (4, 3, 4)))


@pytest.mark.parametrize("training", [True, False])
def test_whole_models(training, key):
    model = nn.Sequential(nn.Linear(4, 64), Dropout(0.25), nn.Identity(), Dropout(0.3))
    model.train(training)
    model.layers[0] = nn.Identity()
    x = mx.ones((5, 64))

    def member(key):
        first = functional_call(model.layers[1], {}, x, key=key, dropout=True)
        both = functional_call(model, {}, x, key=key, dropout=True)
        return first, both

    keys = balanced_keys(key, 8)
    first, both = mx.vmap(member)(keys)
    check_even(np.array(first) == 0, 0.25)
    assert_same(both[6], member(keys[6])[1])
    # Each layer's are even, so that what any of two drops is dropped by 2 to 5 members.
    counts = (np.array(both) == 0).sum(0)
    assert counts.min() >= 2
    assert counts.max() <= 5
    for one_for_all in (keys[0][None], mx.broadcast_to(keys[0], (5, 6))):
        y = functional_call(model, {}, x, key=one_for_all, dropout=True)
        assert_same(y, mx.broadcast_to(y[:1], y.shape))


def test_layers_advance_and_keep_their_place(key):
    keys = balanced_keys(key, 8)
    layers = [Dropout2d(0.25) for _ in keys]
    for layer, member in zip(layers, keys, strict=True):
        rekey(layer, member)
    seen = []
    for _ in range(2):
        seen.append(np.array([layer(mx.ones((2, 1, 1, 64))) == 0 for layer in layers]))
        check_even(seen[-1], 0.25)
    assert (seen[0] != seen[1]).any()
    for layer, member in zip(layers, keys, strict=True):
        rekey(layer, example_keys(member, 2))
    for _ in range(2):
        check_even(np.array([layer(mx.ones((2, 1, 1, 64))) == 0 for layer in layers]), 0.25)
    saved = get_keys(layers[3])
    again = layers[3](mx.ones((2, 1, 1, 64)))
    set_keys(layers[3], saved)
    assert_same(layers[3](mx.ones((2, 1, 1, 64))), again)


RATE = 0.3


@pytest.mark.statistical(false_alarms=2e-8)
def test_each_member_alone_is_independent(false_alarms, key):
    members, channels = 4, 2
    test = Binomial(RATE, false_alarms / 2, counts=members * channels, deviation=0.02)
    both = Binomial(RATE**2, false_alarms / 2, counts=members, deviation=0.05)
    draws = max(test.draws, both.draws)
    keys = balanced_keys(key, members)

    def member(key):
        return channel_mask((draws, channels), RATE, example_keys(key, draws), ()) == 0

    dropped = np.array(mx.vmap(member)(keys))
    test.check(dropped.sum(1), draws)
    both.check(dropped.all(-1).sum(1), draws)


def both_drop(p, first, second):
    """The probability that both of two members drop a channel, from their places."""
    members = 2**32
    chances = []
    for apart in (int(a) - int(b) for a, b in zip(first, second, strict=True)):
        # An odd multiple of `apart`, modulo 2**32, is any odd multiple of its power of 2.
        power = apart & -apart
        multiples = np.arange(power, members, 2 * power) / members
        overlap = np.maximum(p - multiples, 0) + np.maximum(p - (1 - multiples), 0)
        chances.append(overlap.mean())
    return np.mean(chances)


@pytest.mark.statistical(false_alarms=2e-8)
def test_pairs_of_members(false_alarms, key):
    p, members = 0.6, 8
    keys = balanced_keys(key, members)
    pairs = list(combinations(range(members), 2))
    places = np.array(keys)[:, 2:]
    tests = [
        Binomial(
            both_drop(p, places[a], places[b]),
            false_alarms / len(pairs),
            deviation=0.1,
        )
        for a, b in pairs
    ]
    draws = max(test.draws for test in tests)
    dropped = drops(keys, p, channels=draws)
    for (a, b), test in zip(pairs, tests, strict=True):
        test.check((dropped[a] & dropped[b]).sum(), draws)
    # Members complement one another: pairs coincide less often than independent ones do.
    assert np.mean([test.rate for test in tests]) < p**2


@pytest.mark.parametrize(
    ("n", "near"), [(0, 1), (-1, 1), (3, 4), (6, 8), (12, 16), (2**21, 2**20)]
)
def test_numbers_of_members_that_are_no_powers_of_two(n, near, key):
    message = rf"Received n = {n} members\. Expected a power of two .*such as {near};"
    with pytest.raises(ValueError, match=message):
        balanced_keys(key, n)


@pytest.mark.parametrize("n", [4.0, True, "4", None], ids=repr)
def test_numbers_of_members_that_are_no_ints(n, key):
    with pytest.raises(TypeError, match=r"Received n of type"):
        balanced_keys(key, n)


def test_not_of_several_keys(key):
    for keys in (mx.random.split(key, 3), balanced_keys(key, 4)[0]):
        with pytest.raises(ValueError, match=r"Received a key of shape .*Expected one key"):
            balanced_keys(keys, 4)
    with pytest.raises(TypeError, match=r"mx\.random\.key\(0\)"):
        balanced_keys(0, 4)
