"""Which channels are kept: how many, how likely, and by which key."""

from itertools import combinations

import mlx.core as mx
import numpy as np
import pytest
from binomial import Binomial
from hypothesis import given
from hypothesis import strategies as st
from subjects import assert_same

from chandrop.random import example_keys
from chandrop.thin import keep_channels


@given(
    channels=st.integers(1, 300),
    p=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_fixed_number_in_ascending_order(channels, p, seed):
    kept = keep_channels(mx.random.key(seed), channels, p)
    assert kept.dtype == mx.uint32
    assert kept.shape == (max(1, round((1 - p) * channels)),)
    kept = np.array(kept).astype(int)
    assert (np.diff(kept) > 0).all()
    assert 0 <= kept[0] <= kept[-1] < channels


@pytest.mark.parametrize(
    ("channels", "p", "expected"),
    [(64, 0.5, 32), (10, 0.25, 8), (4, 0.1, 4), (3, 0.99, 1), (1, 0.9, 1), (7, 0, 7)],
)
def test_how_many(channels, p, expected, key):
    assert keep_channels(key, channels, p).size == expected


def many(key, channels, p, draws):
    """What many keys keep, as bools (draws, channels)."""
    kept = mx.vmap(lambda key: keep_channels(key, channels, p))(mx.random.split(key, draws))
    whole = np.zeros((draws, channels), bool)
    np.put_along_axis(whole, np.array(kept).astype(int), True, axis=1)
    return whole


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize(("channels", "p"), [(5, 0.6), (6, 0.5), (7, 0.3)], ids=str)
def test_every_set_is_equally_likely(channels, p, get_key, false_alarms):
    """10 % off for any one set is found; so are marginals and pairs that are off."""
    k = round((1 - p) * channels)
    sets = list(combinations(range(channels), k))
    test = Binomial(1 / len(sets), false_alarms, counts=len(sets), deviation=0.1)
    kept = many(get_key(), channels, p, test.draws)
    numbers = kept @ (1 << np.arange(channels))
    counts = [(numbers == sum(1 << channel for channel in s)).sum() for s in sets]
    assert sum(counts) == test.draws
    test.check(counts, test.draws)


@pytest.mark.statistical(false_alarms=1e-9)
@pytest.mark.parametrize(("channels", "p"), [(32, 0.5), (24, 0.75)], ids=str)
def test_channels_and_pairs_are_kept_as_often_as_drawn_without_replacement(
    channels, p, get_key, false_alarms
):
    """A channel with probability k / C, a pair with k (k - 1) / (C (C - 1))."""
    k = round((1 - p) * channels)
    pair_rate = k * (k - 1) / (channels * (channels - 1))
    pairs = channels * (channels - 1) // 2
    single = Binomial(k / channels, false_alarms / 2, counts=channels, deviation=0.1)
    double = Binomial(pair_rate, false_alarms / 2, counts=pairs, deviation=0.1)
    draws = max(single.draws, double.draws)
    kept = many(get_key(), channels, p, draws).astype(np.int64)
    together = kept.T @ kept
    single.check(np.diag(together), draws)
    double.check(together[np.triu_indices(channels, 1)], draws)


def test_vmap_is_the_loop(key):
    keys = mx.random.split(key, 8)
    together = mx.vmap(lambda key: keep_channels(key, 9, 0.4))(keys)
    assert_same(
        together.astype(mx.float32),
        mx.stack([keep_channels(key, 9, 0.4) for key in keys]).astype(mx.float32),
    )


def test_one_key_for_all_examples_is_one_key(key):
    np.testing.assert_array_equal(
        keep_channels(key[None], 9, 0.4), keep_channels(key, 9, 0.4)
    )


def test_compiled_without_a_retrace_for_a_new_key(compiles, get_key):
    traces = []

    @mx.compile
    def compiled(key):
        traces.append(key)
        return keep_channels(key, 9, 0.4)

    for key in [get_key() for _ in range(8)]:
        np.testing.assert_array_equal(compiled(key), keep_channels(key, 9, 0.4))
    # The first function of a process may be traced twice.
    assert len(traces) <= 2


def test_the_key_has_no_gradient(key):
    x = mx.arange(9.0)
    gradient = mx.grad(lambda key: x[keep_channels(key, 9, 0.4)].sum())(key)
    assert not gradient.any()


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (1, ValueError, r"Received p = 1\. Expected 0 <= p < 1, as at least one channel"),
        (1.0, ValueError, r"Received p = 1\.0\. Expected 0 <= p < 1"),
        (-0.1, ValueError, r"Received p = -0\.1\. Expected 0 <= p < 1, .* is kept\.$"),
        (50, ValueError, r"for 50 % pass 0\.5\.$"),
        (100, ValueError, r"Received p = 100\. .* is kept\.$"),
        (float("nan"), ValueError, r"Received p = nan"),
        (mx.array(0.5), TypeError, r"type array\. Expected a number in \[0, 1\), since"),
        (np.array([0.5]), TypeError, r"type ndarray\. .*p\.item\(\)"),
        ("0.5", TypeError, r"type str\. Expected a number"),
        (True, TypeError, r"type bool\. Expected a number"),
    ],
    ids=str,
)
def test_rates_that_fix_no_number(p, error, message, key):
    with pytest.raises(error, match=message):
        keep_channels(key, 8, p)


@pytest.mark.parametrize(
    ("channels", "error", "message"),
    [
        (0, ValueError, r"Received channels = 0\. Expected at least 1\."),
        (-3, ValueError, r"Received channels = -3"),
        (2**33, ValueError, r"Received channels = 8589934592\. Expected less than 2\*\*31"),
        (8.0, TypeError, r"Received channels of type float\. Expected an int"),
        (True, TypeError, r"Received channels of type bool"),
    ],
    ids=str,
)
def test_numbers_of_channels(channels, error, message, key):
    with pytest.raises(error, match=message):
        keep_channels(key, channels, 0.5)


def test_keys(key):
    with pytest.raises(TypeError, match=r"mx\.random\.key\(0\)"):
        keep_channels(0, 8, 0.5)
    for keys in (example_keys(key, 4), example_keys(key, 4)[None], key[None, None]):
        with pytest.raises(ValueError, match=r"keys of shape .*\. Expected one key, \(2,"):
            keep_channels(keys, 8, 0.5)
