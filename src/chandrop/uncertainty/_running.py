"""Means and variances of samples that arrive in chunks and are not kept."""

import mlx.core as mx

from chandrop.uncertainty._sums import total


class RunningMean:
    def __init__(self) -> None:
        self.samples = 0
        self.mean = mx.array(0.0)

    def add(self, samples: mx.array) -> None:
        """Adds a chunk of samples, along axis 0."""
        self.samples += len(samples)
        mean = total(samples) / len(samples)
        self.mean = self.mean + (mean - self.mean) * (len(samples) / self.samples)


class RunningVariance:
    """The mean and the variance, computed from the differences to the first sample.

    Where the mean is large compared with the deviation, float32 would have no digits left
    for the deviation otherwise.

    Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance: analysis
    and recommendations", The American Statistician 37, 1983, equation 2.1.
    """

    def __init__(self) -> None:
        self.samples = 0
        self.variance = mx.array(0.0)
        self._first = mx.array(0.0)
        self._difference = mx.array(0.0)

    @property
    def mean(self) -> mx.array:
        return self._first + self._difference

    def add(self, samples: mx.array) -> None:
        """Adds a chunk of samples, along axis 0."""
        if self.samples == 0:
            self._first = samples[0]
        self.samples += len(samples)
        share = len(samples) / self.samples
        differences = samples - self._first
        mean = total(differences) / len(samples)
        variance = total((differences - mean) ** 2) / len(samples)
        apart = mean - self._difference
        self._difference = self._difference + apart * share
        within = self.variance + (variance - self.variance) * share
        self.variance = within + apart**2 * (share * (1 - share))

    def arrays(self) -> list[mx.array]:
        return [self._first, self._difference, self.variance]
