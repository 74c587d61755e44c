"""A function of an input that reads one element for each element that it gives.

``y = shift + scale * x.flat[source]``. Every member of the family is of this kind for
given keys, and every transform makes of such a function another one.
"""

from typing import NamedTuple

import numpy as np


class Affine(NamedTuple):
    """Each field has the output's shape."""

    scale: np.ndarray
    shift: np.ndarray
    source: np.ndarray

    @property
    def shape(self):
        return self.source.shape


def stacked(functions, axis):
    """The outputs of several functions, along a new axis."""
    return Affine(*(np.stack(parts, axis) for parts in zip(*functions, strict=True)))


def after(first, second):
    """What `second` makes of the output of `first`."""
    scale, shift, source = (part.ravel()[second.source] for part in first)
    return Affine(second.scale * scale, second.scale * shift + second.shift, source)


def gathered(values, source, positions):
    """For each position in the input, the sum of the values that were read from there."""
    sums = np.zeros(1 + max(positions.max(initial=0), source.max(initial=0)))
    np.add.at(sums, source.ravel(), values.ravel())
    return sums[positions]


def scattered(values, source, positions):
    """For each element of the output, the value at the position that it reads."""
    table = np.zeros(1 + max(positions.max(initial=0), source.max(initial=0)))
    table[positions] = values
    return table[source]
