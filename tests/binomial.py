"""The one statistical test: a count of independent draws against its exact distribution.

A test says which relative error in the rate it must find and with which power, and how
often it may be wrong when there is none; its sample size follows. (After TensorFlow
Probability's ``statistical_testing``.)
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import binom


@dataclass(frozen=True)
class Binomial:
    """A two-sided exact test that counts have the rate `rate`.

    Attributes:
        rate: the probability of what is counted.
        false_alarms: how often `check` may fail on right code, for all its counts together.
        counts: how many counts `check` gets.
        deviation: the relative error in the rate that one count alone must find ...
        power: ... with this probability.
    """

    rate: float
    false_alarms: float
    counts: int = 1
    deviation: float = 0.01
    power: float = 0.99

    def interval(self, draws):
        """The counts of `draws` that pass, both ends included."""
        tail = self.false_alarms / self.counts / 2
        return binom.ppf(tail, draws, self.rate), binom.isf(tail, draws, self.rate)

    @cached_property
    def draws(self):
        """The fewest draws for a count, within 2 %, that find the deviation."""
        draws = 1000
        while min(self._power(draws, sign) for sign in (-1, 1)) < self.power:
            draws = int(draws * 1.02)
        return draws

    def _power(self, draws, sign):
        low, high = self.interval(draws)
        wrong = min(self.rate * (1 + sign * self.deviation), 1.0)
        return binom.cdf(low - 1, draws, wrong) + binom.sf(high, draws, wrong)

    def check(self, counts, draws):
        """Fails unless every count of `draws` is within the exact bounds."""
        counts = np.asarray(counts)
        assert counts.size <= self.counts, (
            "more counts than the false alarms are split over"
        )
        assert draws >= self.draws, f"{draws} draws cannot find what {self.draws} can"
        low, high = self.interval(draws)
        outside = counts[(counts < low) | (counts > high)]
        assert outside.size == 0, (
            f"{outside} of {draws} are outside [{low:.0f}, {high:.0f}], "
            f"the interval for a rate of {self.rate}"
        )
