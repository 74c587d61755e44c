"""Law 3: the mean over keys is ``x``, within an exact binomial bound."""

import mlx.core as mx
import numpy as np
import pytest
from binomial import Binomial
from subjects import DROPPING

from chandrop.functional import dropout1d

RATES = (0.1, 0.5, 0.9)


@pytest.mark.statistical(false_alarms=1e-8)
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("subject", DROPPING, ids=lambda s: s.name)
def test_rate(subject, p, get_key, false_alarms):
    """A dropped share off by 1 % of p is found with 99 % power."""
    test = Binomial(rate=p, false_alarms=false_alarms)
    x = mx.ones(subject.many(2**18))
    dropped, draws = 0, 0
    while draws < test.draws:
        y = subject.call(x, p, get_key())
        kept = np.array(mx.max(y, subject.spatial_axes(x.ndim)))
        np.testing.assert_allclose(kept[kept > 0], 1 / (1 - p), rtol=3e-7)
        dropped += (kept == 0).sum()
        draws += kept.size
    test.check(dropped, draws)


@pytest.mark.statistical(false_alarms=1e-8)
def test_rates_per_channel(get_key, false_alarms):
    """Every channel is dropped at its own rate; an error of 1 % in one is found."""
    rates = [0.2, 0.5, 0.75]
    tests = [Binomial(rate, false_alarms / len(rates)) for rate in rates]
    draws = max(test.draws for test in tests)
    x = mx.ones((draws, 2, len(rates)))
    dropped = np.array(dropout1d(x, mx.array(rates), get_key()) == 0).all(1).sum(0)
    for test, count in zip(tests, dropped, strict=True):
        test.check(count, draws)
