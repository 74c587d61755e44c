"""Law 4: masks are independent across channels, examples, layers and keys.

Two streams of independent bits, each 1 with probability 1/2, agree in a share of places
that is binomial with rate 1/2 exactly; so do a stream and itself shifted. Every test
finds a 1 % error in the agreement of any pair of its streams (a correlation of 0.01)
with 99 % power.
"""

from itertools import combinations

import mlx.core as mx
import numpy as np
import pytest
from binomial import Binomial
from subjects import DROPPING

import chandrop
from chandrop.functional import channel_mask, dropout
from chandrop.random import example_keys, fold_in

pytestmark = pytest.mark.statistical(false_alarms=1e-8)


def check_pairs(streams, false_alarms, pairs=None):
    """Every pair of rows of `streams` agrees in half of its places."""
    streams = np.asarray(streams)
    pairs = list(combinations(range(len(streams)), 2)) if pairs is None else pairs
    test = Binomial(0.5, false_alarms, counts=len(pairs))
    test.check([(streams[a] == streams[b]).sum() for a, b in pairs], streams.shape[1])


def draws_for(pairs, false_alarms):
    return Binomial(0.5, false_alarms, counts=pairs).draws


def bits_of(keys, n):
    """The first `n` bits drawn with each key: ``(n, keys)``."""
    ones = mx.ones((keys.shape[0], n))
    return np.array(dropout(ones, 0.5, keys) > 0).T


def test_across_channels_and_examples(get_key, false_alarms):
    n = draws_for(120, false_alarms)
    mask = np.array(channel_mask((n, 1, 1, 16), 0.5, get_key(), (1, 2)) > 0)
    check_pairs(mask[:, 0, 0].T, false_alarms)


def test_across_neighbouring_examples(get_key, false_alarms):
    n = draws_for(120, false_alarms)
    mask = np.array(channel_mask((16, 1, n), 0.5, get_key(), 1) > 0)
    check_pairs(mask[:, 0], false_alarms)


@pytest.mark.parametrize("subject", DROPPING, ids=lambda s: s.name)
def test_across_keys(subject, get_key, false_alarms):
    n = draws_for(6, false_alarms)
    x = mx.ones(subject.many(n))
    axes = subject.spatial_axes(x.ndim)
    keys = mx.random.split(get_key(), 4)
    streams = [
        np.array(mx.max(subject.call(x, 0.5, key), axes) > 0).ravel() for key in keys
    ]
    check_pairs(streams, false_alarms)


def test_across_successive_calls_of_a_layer_and_across_layers(get_key, false_alarms):
    n = draws_for(28, false_alarms)
    mx.random.seed(20261122)
    layers = [chandrop.nn.Dropout1d(), chandrop.nn.Dropout1d()]
    ones = mx.ones((n, 1, 1))
    streams = [np.array(layer(ones) > 0).ravel() for _ in range(4) for layer in layers]
    check_pairs(streams, false_alarms)


def test_layers_built_from_the_global_stream(false_alarms):
    """The bits of their keys, one after the other, are fair and independent at any lag.

    A fair independent stream agrees with itself, shifted, in half of its places, and
    these agreements are independent again.
    """
    lags = range(1, 65)
    fair = Binomial(0.5, false_alarms / 2)
    shifted = Binomial(0.5, false_alarms / 2, counts=len(lags))
    layers = max(fair.draws, shifted.draws) // 64 + 2
    mx.random.seed(20261122)
    keys = np.array([np.array(chandrop.nn.Dropout()._key) for _ in range(layers)])
    bits = np.unpackbits(keys.view(np.uint8))
    fair.check(bits.sum(), len(bits))
    places = len(bits) - 64
    agreements = [(bits[:places] == bits[lag : lag + places]).sum() for lag in lags]
    shifted.check(agreements, places)


def test_across_example_keys(get_key, false_alarms):
    n = draws_for(28, false_alarms)
    streams = bits_of(example_keys(get_key(), n), 8)
    check_pairs(streams, false_alarms)


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_interleaved_streams_of_fold_in(lag, get_key, false_alarms):
    """Key ``n``'s bits against key ``n + lag``'s, place by place and crosswise."""
    places = 4
    n = draws_for(places * places, false_alarms)
    bits = bits_of(fold_in(get_key(), mx.arange(n + lag)), places)
    streams = np.concatenate([bits[:, :n], bits[:, lag:]])
    pairs = [(a, places + b) for a in range(places) for b in range(places)]
    check_pairs(streams, false_alarms, pairs)


def test_interleaved_streams_of_example_keys(get_key, false_alarms):
    """Steps, layers and examples folded in one after the other, as a training run does."""
    steps, layers, places = 2, 2, 2
    n = draws_for(28, false_alarms)
    key = get_key()
    streams = np.concatenate(
        [
            bits_of(example_keys(fold_in(fold_in(key, step), layer), n), places)
            for step in range(steps)
            for layer in range(layers)
        ]
    )
    check_pairs(streams, false_alarms)


def test_the_order_of_folding_matters(get_key, false_alarms):
    """``fold_in(fold_in(key, a), b)`` is not a function of a and b in any order."""
    n = draws_for(1, false_alarms)
    side = int(np.ceil(np.sqrt(n * 2))) + 1
    keys = fold_in(fold_in(get_key(), mx.arange(side))[:, None], mx.arange(side))
    bits = bits_of(keys.reshape(-1, 2), 1).reshape(side, side)
    upper = np.triu_indices(side, 1)
    n = len(upper[0])
    Binomial(0.5, false_alarms).check((bits[upper] == bits.T[upper]).sum(), n)


def test_fold_in_against_split_and_its_own_key(get_key, false_alarms):
    n = draws_for(15, false_alarms)
    keys = mx.random.split(get_key(), n)
    halves = mx.vmap(mx.random.split)(keys)
    folded = [fold_in(keys, data) for data in (0, 1, 2**32 - 1)]
    derived = [keys, halves[:, 0], halves[:, 1], *folded]
    check_pairs(np.concatenate([bits_of(each, 1) for each in derived]), false_alarms)


def test_no_two_of_half_a_million_keys_are_equal(key, false_alarms):
    """By the birthday bound, n keys of 64 bits collide in n**2 / 2**65 of all runs."""
    n = 500_000
    assert n**2 / 2**65 < false_alarms
    keys = np.array(fold_in(key, mx.arange(n))).view(np.uint64)
    assert len(np.unique(keys)) == n
