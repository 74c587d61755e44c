"""DropBlock: blocks, shares and borders, against counts and a NumPy reference."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from binomial import Binomial
from subjects import assert_same, normal

from chandrop.functional import drop_block2d, drop_block3d, dropout
from chandrop.functional._drop_block import _any_in_block
from chandrop.random import balanced_keys
from chandrop.random._samples import bernoulli_in_pairs

SIZES = [((7, 7), 7), ((9, 4), 3), ((6, 6), 2), ((5, 8), 5), ((5, 5), 1), ((2, 3, 4), 2)]


def drop(x, p, key, block_size, **options):
    function = drop_block2d if x.ndim == 4 else drop_block3d
    return function(x, p, key, block_size, **options)


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("lengths", "block_size"), SIZES, ids=str)
def test_every_position_is_dropped_with_probability_p(
    lengths, block_size, p, get_key, false_alarms
):
    """Corners, edges and inside: 10 % off at any one position is found.

    The channels and examples of one position are independent.
    """
    positions = int(np.prod(lengths))
    test = Binomial(p, false_alarms, counts=positions, deviation=0.1)
    x = mx.ones((-(-test.draws // 64), *lengths, 64))
    y = drop(x, p, get_key(), block_size)
    dropped = np.array((y == 0).sum((0, -1)))
    test.check(dropped.ravel(), x.shape[0] * 64)


@pytest.mark.parametrize(("lengths", "block_size"), SIZES, ids=str)
def test_what_is_dropped_is_a_union_of_blocks(lengths, block_size, key):
    """Of whole ones, and at the border of what it leaves of them."""
    y = np.array(drop(mx.ones((20, *lengths, 8)), 0.3, key, block_size))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    dropped = np.moveaxis(y == 0, -1, 1).reshape(-1, *lengths)
    starts = [range(1 - block_size, n) for n in lengths]
    for map_ in dropped:
        covered = np.zeros_like(map_)
        for start in product(*starts):
            block = tuple(slice(max(s, 0), s + block_size) for s in start)
            if map_[block].all():
                covered[block] = True
        np.testing.assert_array_equal(covered, map_)
    assert dropped.any()


@pytest.mark.parametrize(("lengths", "block_size"), SIZES, ids=str)
def test_any_in_block_is_numpys(lengths, block_size, key):
    """Against a loop over all windows, for seeds of every shape."""
    seeds_shape = (1, 3, *(n + block_size - 1 for n in lengths), 2)
    seeds = mx.random.bernoulli(0.2, seeds_shape, key=key).astype(mx.uint8)
    axes = list(range(2, 2 + len(lengths)))
    covered = _any_in_block(seeds, block_size, axes)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.array(seeds), [block_size] * len(axes), axes
    )
    expected = windows.max(tuple(range(seeds.ndim, windows.ndim)))
    np.testing.assert_array_equal(covered, expected)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_blocks_of_one_element_are_dropout(p, key):
    """The share alone: the draws are others."""
    x = mx.ones((64, 16, 16, 16))
    blocks, elements = drop_block2d(x, p, key, 1), dropout(x, p, key)
    assert (blocks == 0).mean().item() == pytest.approx(p, rel=0.05)
    assert (elements == 0).mean().item() == pytest.approx(p, rel=0.05)


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (32, 20)], ids=str)
@pytest.mark.parametrize("block_size", [2, 7])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_share_is_p_within_5_percent(size, block_size, p, key):
    """As a reader would check it: the share of zeros in some millions of elements."""
    batch = 4_000_000 // (size[0] * size[1] * 32)
    y = drop_block2d(mx.ones((batch, *size, 32)), p, key, block_size)
    assert (y == 0).mean().item() == pytest.approx(p, rel=0.05)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups_share_their_blocks(groups, key):
    x = mx.ones((3, 5, 6, 12))
    y = np.array(drop_block2d(x, 0.3, key, 3, groups=groups))
    of_group = y.reshape(3, 5, 6, groups, 12 // groups)
    assert (of_group == of_group[..., :1]).all()
    first = of_group[..., 0]
    pairs = [(a, b) for a in range(groups) for b in range(a)]
    assert all((first[..., a] != first[..., b]).any() for a, b in pairs)


def test_rates_per_channel_group_and_example(key):
    x = normal((3, 5, 6, 4))
    y = drop_block2d(x, mx.array([0.0, 1.0, 0.5, 0.0]), key, 3)
    assert_same(y[..., 0], x[..., 0])
    assert (y[..., 1] == 0).all()
    y = drop_block2d(x, mx.array([0.0, 1.0]), key, 3, groups=2)
    assert_same(y[..., :2], x[..., :2])
    assert (y[..., 2:] == 0).all()
    keys = mx.random.split(key, 3)
    rates = mx.array([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    y = drop_block2d(x, rates, keys, 3)
    assert_same(y[0], x[0])
    assert (y[2] == 0).all()
    assert_same(y[1], drop_block2d(x[1], mx.array(0.5), keys[1], 3))


@pytest.mark.parametrize("shape", [(0, 5, 5, 3), (2, 0, 5, 3), (2, 5, 5, 0)], ids=str)
def test_empty_inputs(shape, key):
    for p in (0.5, mx.array(0.5)):
        assert_same(drop_block2d(mx.zeros(shape), p, key, 3), mx.zeros(shape))


def test_float64_on_the_cpu(key):
    with mx.stream(mx.cpu):
        x = normal((4, 5, 5, 8)).astype(mx.float64)
        y = drop_block2d(x, 0.3, key, 3)
        mask = np.array(drop_block2d(mx.ones(x.shape), 0.3, key, 3)) > 0
        np.testing.assert_allclose(np.array(y), np.array(x) * mask / 0.7, rtol=1e-15)


def test_balanced_members_are_dropped_equally_often(key):
    """At a block of one element, where a position is one seed."""
    members = mx.vmap(lambda key: drop_block2d(mx.ones((4, 5, 3)), 0.25, key, 1))(
        balanced_keys(key, 8)
    )
    assert ((members == 0).sum(0) == 2).all()


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_two_draws_of_one_word_are_independent(p, get_key, false_alarms):
    """Each is true at its rate, and both at the square of it: 2 % off is found."""
    tests = [Binomial(r, false_alarms / 3, deviation=0.02) for r in (p, p, p * p)]
    n = max(test.draws for test in tests)
    pairs = np.array(bernoulli_in_pairs(mx.array([p, 0])[:1], (n, 2, 1), get_key()))
    first, second = pairs[:, 0, 0], pairs[:, 1, 0]
    for test, count in zip(tests, (first, second, first & second), strict=True):
        test.check(count.sum(), n)


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_any_length_may_be_drawn_in_pairs(length, key):
    drawn = bernoulli_in_pairs(mx.array([0.5, 0])[:1], (7, length, 3), key)
    assert drawn.shape == (7, length, 3)
    none = bernoulli_in_pairs(mx.array([0.0, 1.0]), (1, 100, 2), key)
    assert not none[..., 0].any()
    assert none[..., 1].all()
