"""Random transforms of MLX, each with what it makes of an affine function.

``of`` transforms a function of ``(x, key, rate)`` by MLX. ``plain`` transforms its
reference, a function of ``(positions, key, rate, place)`` that gives an :class:`Affine`:
of the positions in the whole input, of keys and rates in NumPy, and of the place of the
call among all of them.
"""

import tempfile
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from fuzz.affine import Affine, after, gathered, scattered, stacked
from fuzz.shapes import pick


class Shapes(NamedTuple):
    """The shapes of a function's arguments, and of its output."""

    x: tuple[int, ...]
    key: tuple[int, ...]
    rate: tuple[int, ...]
    y: tuple[int, ...]


class Place(NamedTuple):
    """Which of the calls of the member one is.

    Attributes:
        members: the indices of the members of the vmaps around, the outermost first.
        draw: the number of the call among those that follow one another.
    """

    members: tuple[int, ...] = ()
    draw: int = 0


@dataclass
class Transform:
    """A transform that changes neither shapes nor values.

    shapes: of the function that is transformed.
    state: what the layer holds, if the function is one that draws by its own key.
    dtype: of the input.
    draws: how often the function calls the member.
    """

    shapes: Shapes
    state: Any
    dtype: mx.Dtype
    draws: int
    # Whether the result is one of arithmetic, and so rounded.
    rounds = False

    @classmethod
    def random(cls, rng, shapes, *others):
        return cls(shapes, *others)

    @property
    def outer(self):
        """The shapes of the transformed function."""
        return self.shapes

    def of(self, function):
        raise NotImplementedError

    def plain(self, reference):
        return reference

    def __str__(self):
        return type(self).__name__.lower()


class Checkpoint(Transform):
    def of(self, function):
        return mx.checkpoint(function)


class Compile(Transform):
    def of(self, function):
        return mx.compile(function, inputs=self.state, outputs=self.state)


class Export(Transform):
    def of(self, function):
        *shapes, _ = self.shapes
        dtypes = (self.dtype, mx.uint32, mx.float32)
        examples = map(mx.zeros, shapes, dtypes)
        with tempfile.NamedTemporaryFile(suffix=".mlxfn") as file:
            mx.export_function(file.name, function, *examples)
            imported = mx.import_function(file.name)
        return lambda *args: imported(*args)[0]


@dataclass
class Vmap(Transform):
    """Over some of the arguments, and at least one, each along an axis of its own."""

    length: int = 1
    axes: tuple[int | None, ...] = (0, 0, 0)
    out_axis: int = 0

    @classmethod
    def random(cls, rng, shapes, *others):
        def axis(shape):
            return int(rng.integers(-len(shape) - 1, len(shape) + 1))

        mapped = pick(rng, [m for m in np.ndindex(2, 2, 2) if any(m)])
        axes = [axis(s) if m else None for s, m in zip(shapes[:3], mapped, strict=True)]
        return cls(shapes, *others, int(rng.integers(1, 4)), tuple(axes), axis(shapes.y))

    @property
    def outer(self):
        def wide(shape, axis):
            if axis is None:
                return shape
            place = axis % (len(shape) + 1)
            return (*shape[:place], self.length, *shape[place:])

        return Shapes(*map(wide, self.shapes, (*self.axes, self.out_axis)))

    def of(self, function):
        return mx.vmap(function, in_axes=self.axes, out_axes=self.out_axis)

    def plain(self, reference):
        def looped(*arguments):
            *arrays, place = arguments
            each = []
            for i in range(self.length):
                own = [
                    array if axis is None else np.asarray(array.take(i, axis))
                    for array, axis in zip(arrays, self.axes, strict=True)
                ]
                inside = place._replace(members=(*place.members, i))
                each.append(reference(*own, inside))
            return stacked(each, self.out_axis)

        return looped

    def __str__(self):
        return f"vmap[{self.length}, {self.axes} to {self.out_axis}]"


class Grad(Transform):
    """The gradient of half the sum of squares."""

    rounds = True

    @property
    def outer(self):
        return self.shapes._replace(y=self.shapes.x)

    def of(self, function):
        def total(x, key, rate):
            y = function(x, key, rate)
            # Not y ** 2, whose third derivative at 0 is nan in MLX.
            return (y * y).sum() / 2

        return mx.grad(total)

    def plain(self, reference):
        def gradient(positions, *others):
            scale, shift, source = reference(positions, *others)
            return Affine(
                gathered(scale * scale, source, positions),
                gathered(scale * shift, source, positions),
                positions,
            )

        return gradient


class Vjp(Grad):
    """The vjp with a constant cotangent, times the input."""

    def of(self, function):
        cotangent = mx.array(_pattern(self.shapes.y)).astype(self.dtype)

        def back(x, *others):
            _, (vjp,) = mx.vjp(lambda x: function(x, *others), [x], [cotangent])
            return x * vjp

        return back

    def plain(self, reference):
        def back(positions, *others):
            scale, _, source = reference(positions, *others)
            vjp = gathered(scale * _pattern(self.shapes.y), source, positions)
            return Affine(vjp, np.zeros_like(vjp), positions)

        return back


class Jvp(Transform):
    """The jvp with a tangent that is a multiple of the input."""

    rounds = True

    def of(self, function):
        factor = mx.array(_pattern(self.shapes.x)).astype(self.dtype)

        def forth(x, *others):
            _, (jvp,) = mx.jvp(lambda x: function(x, *others), [x], [factor * x])
            return jvp

        return forth

    def plain(self, reference):
        def forth(positions, *others):
            scale, shift, source = reference(positions, *others)
            tangent = scattered(_pattern(self.shapes.x), source, positions)
            return Affine(scale * tangent, np.zeros_like(shift, np.float64), source)

        return forth


class Twice(Transform):
    """One call after another, the second of what the first gives."""

    rounds = True

    def of(self, function):
        return lambda x, *others: function(function(x, *others), *others)

    def plain(self, reference):
        def twice(positions, key, rate, place):
            first = reference(positions, key, rate, place)
            among_outputs = np.arange(positions.size).reshape(positions.shape)
            later = place._replace(draw=place.draw + self.draws)
            return after(first, reference(among_outputs, key, rate, later))

        return twice


def _pattern(shape):
    """A few numbers, repeated, with which a product is rounded once at most."""
    return np.resize(np.array([1, -2, 0.5, 3, -1], np.float32), shape)


def random_transform(rng, shapes, state, dtype, draws, *, compiles):
    """One of them that can be for a function; those that compile take long."""
    kinds = [Vmap, Vmap, Vmap, Checkpoint]
    if dtype != mx.complex64:
        kinds += [Grad, Vjp, Jvp]
    if state is None:
        kinds.append(Export)
    if shapes.x == shapes.y and dtype != mx.float16:
        kinds.append(Twice)
    if compiles:
        kinds += [Compile, Compile]
    return pick(rng, kinds).random(rng, shapes, state, dtype, draws)
