"""Sums and means of many numbers.

MLX adds float32 numbers one by one: on the CPU, the sum of 10^7 times 0.1 is off by 9 %.
These functions add blocks, and then the sums of the blocks, which keeps the rounding small.
"""

import mlx.core as mx

_BLOCK = 32


def mean(values: mx.array) -> mx.array:
    """Returns the mean of all `values`."""
    return total(values.flatten()) / values.size


def total(values: mx.array) -> mx.array:
    """Returns the sum along axis 0."""
    while len(values) > _BLOCK:
        values = _blocks(values).sum(1)
    return values.sum(0)


def total_by_bin(values: mx.array, bins: mx.array, n: int) -> mx.array:
    """Returns the sums along axis 0 of the `values` in bin 0, 1, ..., n - 1."""
    blocks = mx.arange(len(values)) // _BLOCK
    sums = mx.zeros((-(-len(values) // _BLOCK), n, *values.shape[1:]))
    return total(sums.at[blocks, bins].add(values))


def cumulative(values: mx.array) -> mx.array:
    """Returns the cumulative sums of a vector."""
    if len(values) <= _BLOCK:
        return mx.cumsum(values)
    within = mx.cumsum(_blocks(values), axis=1)
    before = cumulative(within[:, -1]) - within[:, -1]
    return (within + before[:, None]).flatten()[: len(values)]


class RunningMean:
    """The mean of samples that arrive in chunks, along axis 0, and are not kept."""

    def __init__(self) -> None:
        self.samples = 0
        self.mean = mx.array(0.0)

    def add(self, samples: mx.array) -> None:
        self.samples += len(samples)
        mean = total(samples) / len(samples)
        self.mean = self.mean + (mean - self.mean) * (len(samples) / self.samples)


class RunningVariance:
    """The mean and variance of such samples, computed from differences to the first one.

    float32 would have too few digits for a deviation that is small beside the mean.

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


def _blocks(values: mx.array) -> mx.array:
    # Not mx.pad, which old versions of MLX cannot vmap.
    padding = mx.zeros((-len(values) % _BLOCK, *values.shape[1:]), dtype=values.dtype)
    return mx.unflatten(mx.concatenate([values, padding]), 0, (-1, _BLOCK))
