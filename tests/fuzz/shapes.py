"""Random shapes and axes."""

import math

LONG = (97, 211, 499, 1009, 4099, 2**14)
MOST = 20_000


def pick(rng, options):
    return options[int(rng.integers(len(options)))]


def random_shape(rng, ndim, least=0):
    """Short axes; at times one is empty, a large prime, or as long as a flattened map."""
    shape = [max(int(n), least) for n in rng.integers(1, 6, ndim)]
    if ndim and rng.random() < 0.2:
        special = int(rng.integers(ndim))
        shape[special] = pick(rng, LONG if least else (0, *LONG))
        others = [axis for axis in range(ndim) if axis != special]
        while others and math.prod(shape) > MOST:
            shape[others.pop()] = max(1, least)
    return tuple(shape)


def random_axes(rng, ndim, least=0, most=None):
    """Some axes in any order."""
    most = ndim if most is None else min(most, ndim)
    count = int(rng.integers(least, most + 1))
    return tuple(int(axis) for axis in rng.permutation(ndim)[:count])


def from_either_end(rng, axes, ndim):
    """The same axes, some of them counted from the last."""
    return tuple(axis - ndim if rng.random() < 0.5 else axis for axis in axes)


def last_of_others(ndim, axes):
    """The last axis that is not among `axes`; None if all are."""
    return max((axis for axis in range(ndim) if axis not in axes), default=None)


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]
