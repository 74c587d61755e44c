"""Means and variances over samples that come in chunks and are not kept."""

from typing import Any

import mlx.core as mx

from chandrop.uncertainty._sums import total


class RunningMean:
    """The mean of samples."""

    def __init__(self) -> None:
        self.samples = 0
        self.mean: Any = 0.0

    def add(self, samples: mx.array) -> None:
        """Takes a chunk of samples in, along axis 0."""
        self.merge(total(samples) / len(samples), len(samples))

    def merge(self, mean: mx.array, samples: int) -> None:
        """Takes the mean of a chunk in."""
        self.samples += samples
        self.mean = self.mean + (mean - self.mean) * (samples / self.samples)


class RunningVariance:
    """The mean of samples and their variance around it.

    It works with the differences to the first sample: where the mean is large beside the
    deviation, float32 would otherwise have no digits left for it.

    Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance: analysis
    and recommendations", The American Statistician 37, 1983, equation 2.1.
    """

    def __init__(self) -> None:
        self._first: Any = None
        self._difference = RunningMean()
        self._variance = RunningMean()

    @property
    def samples(self) -> int:
        """How many there were."""
        return self._difference.samples

    @property
    def mean(self) -> Any:
        """The mean of all samples."""
        return self._first + self._difference.mean

    @property
    def variance(self) -> Any:
        """The mean of the squared deviations from it."""
        return self._variance.mean

    def add(self, samples: mx.array) -> None:
        """Takes a chunk of samples in, along axis 0."""
        if self._first is None:
            self._first = samples[0]
        differences = samples - self._first
        mean = total(differences) / len(samples)
        variance = total((differences - mean) ** 2) / len(samples)
        apart = mean - self._difference.mean
        self._difference.merge(mean, len(samples))
        self._variance.merge(variance, len(samples))
        share = len(samples) / self.samples
        self._variance.mean += apart**2 * (share * (1 - share))

    def arrays(self) -> list[mx.array]:
        """Gives what is held."""
        return [self._first, self._difference.mean, self._variance.mean]
