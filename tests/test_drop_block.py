"""DropBlock: blocks, shares and borders, against counts and a NumPy reference."""

from itertools import product

import mlx.core as mx
import numpy as np
import pytest
from binomial import Binomial
from subjects import assert_same, normal

from chandrop.functional import drop_block, dropout
from chandrop.functional._drop_block import _any_in_block, _bernoulli_in_pairs
from chandrop.random import example_keys

SIZES = [
    ((9,), 4),
    ((7, 7), 7),
    ((9, 4), 3),
    ((6, 6), 2),
    ((5, 8), 5),
    ((5, 5), 1),
    ((2, 3, 4), 2),
]
# Where an array of (batch, channels, *spatial) has its axes in each layout.
LAST, FIRST, BETWEEN = "channels last", "channels first", "channels between"
each_layout = pytest.mark.parametrize("layout", [LAST, FIRST, BETWEEN])


def order(layout, ndim):
    """The axes of (batch, channels, *spatial) in the order of a layout."""
    if layout == FIRST:
        return tuple(range(ndim))
    if layout == LAST:
        return (0, *range(2, ndim), 1)
    return (0, 2, 1, *range(3, ndim))


def spatial_axes(layout, ndim):
    axes = order(layout, ndim)
    return tuple(axes.index(axis) for axis in range(2, ndim))


def drop(x, p, key, block_size, layout=LAST, **options):
    """Drops blocks of (batch, channels, *spatial) in a layout, and goes back from it."""
    axes = order(layout, x.ndim)
    turned = mx.transpose(x, axes)
    y = drop_block(turned, p, key, block_size, spatial_axes(layout, x.ndim), **options)
    return mx.transpose(y, np.argsort(axes).tolist())


@pytest.mark.statistical(false_alarms=1e-9)
@each_layout
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("lengths", "block_size"), SIZES, ids=str)
def test_every_position_is_dropped_with_probability_p(
    lengths, block_size, p, layout, get_key, false_alarms
):
    """Corners, edges and inside: 10 % off at any one position is found.

    The channels and examples of one position are independent.
    """
    positions = int(np.prod(lengths))
    test = Binomial(p, false_alarms, counts=positions, deviation=0.1)
    x = mx.ones((-(-test.draws // 64), 64, *lengths))
    y = drop(x, p, get_key(), block_size, layout)
    dropped = np.array((y == 0).sum((0, 1)))
    test.check(dropped.ravel(), x.shape[0] * 64)


@each_layout
@pytest.mark.parametrize(("lengths", "block_size"), SIZES, ids=str)
def test_what_is_dropped_is_a_union_of_blocks(lengths, block_size, layout, key):
    """Of whole ones, and at the border of what it leaves of them."""
    y = np.array(drop(mx.ones((20, 8, *lengths)), 0.3, key, block_size, layout))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    dropped = (y == 0).reshape(-1, *lengths)
    starts = [range(1 - block_size, n) for n in lengths]
    for map_ in dropped:
        covered = np.zeros_like(map_)
        for start in product(*starts):
            block = tuple(slice(max(s, 0), s + block_size) for s in start)
            if map_[block].all():
                covered[block] = True
        np.testing.assert_array_equal(covered, map_)
    assert dropped.any()


@pytest.mark.statistical(false_alarms=1e-9)
@each_layout
def test_maps_of_other_channels_and_examples_are_independent(layout, get_key, false_alarms):
    """Two maps agree at a position as often as independent ones: 2 % off is found."""
    test = Binomial(0.5, false_alarms, counts=2, deviation=0.02)
    n = -(-test.draws // 8)
    dropped = np.array(drop(mx.ones((n, 16, 4, 4)), 0.5, get_key(), 2, layout) == 0)
    corner = dropped[:, :, 0, 0]
    test.check(
        [
            (corner[:, ::2] == corner[:, 1::2]).sum(),
            (corner[:, ::2] == np.roll(corner, 1, 0)[:, ::2]).sum(),
        ],
        n * 8,
    )


@pytest.mark.parametrize(
    ("shape", "named", "counted"),
    [
        ((3, 6, 8), (1,), 1),
        ((3, 8, 6), (2,), -1),
        ((6, 8), (0,), -2),
        ((3, 6, 5, 8), (1, 2), (-2, -3)),
        ((3, 8, 6, 5), (2, 3), [3, 2]),
        ((6, 5, 8), (0, 1), (-3, -2)),
        ((3, 6, 2, 5, 8), (1, 3), (-2, 1)),
        ((6, 3, 8, 5), (0, 3), (-1, 0)),
    ],
    ids=str,
)
def test_axes_by_any_name_and_in_any_order(shape, named, counted, key):
    x = normal(shape)
    y = drop_block(x, 0.3, key, 3, named)
    assert_same(y, drop_block(x, 0.3, key, 3, counted))
    assert not mx.array_equal(y, drop_block(x, 0.3, mx.random.key(1), 3, named))
    other = next(axis for axis in range(x.ndim) if axis not in named)
    assert not mx.array_equal(y, drop_block(x, 0.3, key, 2, (*named, other)))


@each_layout
@pytest.mark.parametrize("lengths", [(6,), (6, 5), (4, 3, 5)], ids=str)
def test_keys_for_each_example(lengths, layout, key):
    """Each example is what it is alone, with a batch or without, however it is cut."""
    x = normal((5, 4, *lengths))
    if layout == BETWEEN and len(lengths) == 1:
        pytest.skip("an interval lies before the channels or after them")
    turned = mx.transpose(x, order(layout, x.ndim))
    axes = spatial_axes(layout, x.ndim)
    keys = example_keys(key, 5)
    y = drop_block(turned, 0.4, keys, 3, axes)
    unbatched = tuple(axis - 1 for axis in axes)
    for i in range(5):
        assert_same(y[i : i + 1], drop_block(turned[i : i + 1], 0.4, keys[i], 3, axes))
        assert_same(y[i], drop_block(turned[i], 0.4, keys[i], 3, unbatched))
    part = drop_block(turned[2:], 0.4, example_keys(key, 3, 2), 3, axes)
    assert_same(y[2:], part)
    alike = drop_block(turned, 0.4, key[None], 3, axes)
    assert_same(alike, drop_block(turned, 0.4, mx.broadcast_to(key, (5, 2)), 3, axes))
    in_vmap = mx.vmap(lambda x, key: drop_block(x, 0.4, key, 3, unbatched))(turned, keys)
    assert_same(in_vmap, y)


def test_an_axis_of_blocks_takes_no_keys(key):
    keys = mx.random.split(key, 6)
    with pytest.raises(ValueError, match=r"a batch of 6 keys .* without a batch axis \(sp"):
        drop_block(mx.ones((6, 8)), 0.5, keys, 3, 0)


@pytest.mark.parametrize(("lengths", "block_size"), SIZES, ids=str)
@pytest.mark.parametrize("first", [1, 2])
def test_any_in_block_is_numpys(lengths, block_size, first, key):
    """Against a loop over all windows, for seeds of every shape."""
    padded = [n + block_size - 1 for n in lengths]
    seeds_shape = [(3, *padded, 2), (3, 2, *padded)][first - 1]
    seeds = mx.random.bernoulli(0.2, seeds_shape, key=key).astype(mx.uint8)
    axes = list(range(first, first + len(lengths)))
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
    blocks, elements = drop_block(x, p, key, 1, (1, 2)), dropout(x, p, key)
    assert (blocks == 0).mean().item() == pytest.approx(p, rel=0.05)
    assert (elements == 0).mean().item() == pytest.approx(p, rel=0.05)


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (32, 20)], ids=str)
@pytest.mark.parametrize("block_size", [2, 7])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_share_is_p_within_5_percent(size, block_size, p, key):
    """As a reader would check it: the share of zeros in some millions of elements."""
    batch = 4_000_000 // (size[0] * size[1] * 32)
    y = drop_block(mx.ones((batch, *size, 32)), p, key, block_size, (1, 2))
    assert (y == 0).mean().item() == pytest.approx(p, rel=0.05)


@each_layout
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_groups_share_their_blocks(groups, layout, key):
    y = np.array(drop(mx.ones((3, 12, 5, 6)), 0.3, key, 3, layout, groups=groups))
    of_group = y.reshape(3, groups, 12 // groups, 5, 6)
    assert (of_group == of_group[:, :, :1]).all()
    first = of_group[:, :, 0]
    pairs = [(a, b) for a in range(groups) for b in range(a)]
    assert all((first[:, a] != first[:, b]).any() for a, b in pairs)
    assert (first != first[:1]).any()


@each_layout
def test_rates_per_channel_group_and_example(layout, key):
    x = normal((3, 4, 5, 6))
    channel = order(layout, 4).index(1)

    def for_channels(*rates):
        return mx.array(rates).reshape(-1, *[1] * (3 - channel))

    y = drop(x, for_channels(0.0, 1.0, 0.5, 0.0), key, 3, layout)
    assert_same(y[:, 0], x[:, 0])
    assert (y[:, 1] == 0).all()
    y = drop(x, for_channels(0.0, 1.0), key, 3, layout, groups=2)
    assert_same(y[:, :2], x[:, :2])
    assert (y[:, 2:] == 0).all()
    keys = mx.random.split(key, 3)
    rates = mx.array([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    y = drop(x, rates, keys, 3, layout)
    assert_same(y[0], x[0])
    assert (y[2] == 0).all()
    assert_same(y[1:2], drop(x[1:2], mx.array(0.5), keys[1], 3, layout))


@pytest.mark.parametrize("shape", [(0, 5, 5, 3), (2, 0, 5, 3), (2, 5, 5, 0)], ids=str)
def test_empty_inputs(shape, key):
    for p in (0.5, mx.array(0.5)):
        assert_same(drop_block(mx.zeros(shape), p, key, 3, (1, 2)), mx.zeros(shape))


def test_float64_on_the_cpu(key):
    with mx.stream(mx.cpu):
        x = normal((4, 5, 5, 8)).astype(mx.float64)
        y = drop_block(x, 0.3, key, 3, (1, 2))
        mask = np.array(drop_block(mx.ones(x.shape), 0.3, key, 3, (1, 2))) > 0
        np.testing.assert_allclose(np.array(y), np.array(x) * mask / 0.7, rtol=1e-15)


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_two_draws_of_one_word_are_independent(p, get_key, false_alarms):
    """Each is true at its rate, and both at the square of it: 2 % off is found."""
    tests = [Binomial(r, false_alarms / 3, deviation=0.02) for r in (p, p, p * p)]
    n = max(test.draws for test in tests)
    rate = mx.array([p, 0])[:1]
    # Along an axis of length 2, the two are draws of one word: for the whole in one order.
    pairs = np.array(_bernoulli_in_pairs(-2, (n, 2, 1), get_key(), rate))
    first, second = pairs[:, 0, 0], pairs[:, 1, 0]
    for test, count in zip(tests, (first, second, first & second), strict=True):
        test.check(count.sum(), n)


@pytest.mark.parametrize("axis", [-1, -2, -3])
@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_any_length_may_be_drawn_in_pairs(length, axis, key):
    shape = [7, 4, 3]
    shape[axis] = length
    drawn = _bernoulli_in_pairs(axis, shape, key, mx.array([0.5, 0])[:1])
    assert drawn.shape == tuple(shape)
    assert drawn.dtype == mx.uint8
    assert set(drawn.flatten().tolist()) <= {0, 1}


@pytest.mark.parametrize("axis", [-2, -3])
def test_rates_0_and_1_in_pairs(axis, key):
    """Where a rate is an array, it is constant along the axis of the pairs."""
    drawn = _bernoulli_in_pairs(axis, (10, 100, 2), key, mx.array([0.0, 1.0]))
    assert not drawn[..., 0].any()
    assert drawn[..., 1].all()
