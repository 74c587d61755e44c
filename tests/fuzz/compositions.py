"""Random compositions of transforms, against a plain loop in NumPy.

A composition is a random member of the family in one to four transforms. Its reference
is an affine function: the member's by its definition, for vmap a loop, for checkpoint,
compile and export the same function, and for derivatives their closed form.
"""

import mlx.core as mx
import numpy as np
from fuzz.definitions import fold_in, split
from fuzz.inputs import assert_equal, random_values, random_view, rounded
from fuzz.limits import limit_of
from fuzz.members import random_key, random_member
from fuzz.transforms import Export, Place, Shapes, Twice, Vmap, random_transform


def calls_of(transforms):
    """How often a composition is called.

    A second vmap of an imported function has a wrong shape in MLX; see docs/mlx-limits.md.
    """
    kinds = [type(transform) for transform in transforms]
    first_export = kinds.index(Export) if Export in kinds else len(kinds)
    return 1 if Vmap in kinds[first_export:] else 2


class Composition:
    """A random composition, with the inputs that it is called with.

    Args:
        seed: what all of it depends on.
        compiles: whether mx.compile may be among the transforms.
    """

    def __init__(self, seed, *, compiles=True):
        rng = np.random.default_rng(seed)
        self.dtype = [mx.float32, mx.float32, mx.float16, mx.bfloat16, mx.complex64][
            rng.integers(5)
        ]
        # So that no power of the scale is beyond the dtype's range.
        limit = {mx.float16: 0.3, mx.bfloat16: 0.5}.get(self.dtype, 0.9)
        self.member = member = random_member(rng, limit)
        shapes = Shapes(
            member.shape, member.key_shape, member.rate.shape, member.output_shape
        )
        state = None if member.layer is None else member.layer.state
        self.transforms, self.draws = [], 1
        for _ in range(rng.integers(1, 5)):
            transform = random_transform(
                rng, shapes, state, self.dtype, self.draws, compiles=compiles
            )
            self.transforms.append(transform)
            shapes = transform.outer
            self.draws *= 2 if isinstance(transform, Twice) else 1
        self.shapes = shapes
        calls = range(calls_of(self.transforms))
        rounds = any(transform.rounds for transform in self.transforms)
        self.exactly = member.exact and not rounds
        special = member.multiplies and self.exactly and self.dtype != mx.complex64
        special = special and rng.random() < 0.1
        self.x = [
            random_view(rng, random_values(rng, shapes.x, special=special), self.dtype)
            for _ in calls
        ]
        self.keys = [random_key(rng, shapes.key) for _ in calls]
        self.rates = [self._rate(rng) for _ in calls]
        mx.eval(self.x)

    def __str__(self):
        text = f"{self.member.text}, {self.dtype} {self.member.shape}"
        for transform in self.transforms:
            text = f"{transform}({text})"
        return text

    def _rate(self, rng):
        """The member's rates, or parts of them, for each member of a vmap over them."""
        shape = self.shapes.rate
        parts = rng.choice(np.array([1, 0.75, 0.5], np.float32), shape)
        return np.asarray(np.resize(self.member.rate, shape) * parts, np.float32)

    def limit(self, error=None):
        """What MLX cannot do of this, as an error tells, or does wrong in silence."""
        return limit_of([type(t).__name__.lower() for t in self.transforms], error)

    def run(self):
        """Raises AssertionError where a call is not as the reference has it."""
        function, reference = self.member.call, self._define
        for transform in self.transforms:
            function = transform.of(function)
            reference = transform.plain(reference)
        positions = np.arange(np.prod(self.shapes.x, dtype=int)).reshape(self.shapes.x)
        layer = self.member.layer
        own_key = None if layer is None else np.array(layer._key)
        for x, key, rate in zip(self.x, self.keys, self.rates, strict=True):
            y = function(x, mx.array(key), mx.array(rate))
            if layer is not None:
                own_key = self._draw_keys(own_key)
            expected = self._evaluated(reference(positions, key, rate, Place()), x)
            assert_equal(y, expected, exactly=self.exactly, dtype=self.dtype)
            if layer is not None:
                np.testing.assert_array_equal(
                    np.array(layer._key), own_key, "the layer's next key"
                )

    def _draw_keys(self, own_key):
        """Splits off the keys that a layer draws with, and gives its next one."""
        self._subkeys = []
        for _ in range(self.draws):
            advanced, key = split(own_key)
            self._subkeys.append(key)
            if self.member.advances:
                own_key = advanced
        return own_key

    def _define(self, positions, key, rate, place):
        if self.member.layer is not None:
            key = self._subkeys[place.draw]
            for i in place.members:
                key = fold_in(key, i)
        return self.member.define(positions, key, rate)

    def _evaluated(self, affine, x):
        x = np.array(x) if self.dtype == mx.complex64 else np.array(x.astype(mx.float32))
        read = x.ravel()[affine.source] if x.size else np.zeros(affine.shape, x.dtype)
        with np.errstate(all="ignore"):
            if not self.exactly:
                return affine.scale * read + affine.shift
            return rounded(rounded(affine.scale, self.dtype) * read, self.dtype)
