"""Every function and layer, as one kind of thing: a pure function of (x, p, key)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn
from hypothesis import strategies as st
from mlx.utils import tree_flatten

import chandrop


@dataclass(frozen=True)
class Subject:
    """A function or layer under test.

    call: ``(x, p, key) -> y``.
    spatial_axes: for the rank of an input, the axes that share one draw, or one rate.
    ranks: the ranks that it takes, the last of them batched.
    drops: whether it multiplies whole channels by 0 or ``1 / (1 - p)``.
    shifts: whether it adds something, too.
    least: the least length of an axis.
    """

    name: str
    call: Callable[[mx.array, float | mx.array, mx.array], mx.array]
    spatial_axes: Callable[[int], tuple[int, ...]]
    ranks: tuple[int, ...]
    drops: bool = True
    shifts: bool = False
    least: int = 1

    def shift(self, shape, p, key):
        return self.call(mx.zeros(shape), p, key)

    def multiplier(self, shape, p, key):
        return self.call(mx.ones(shape), p, key) - self.shift(shape, p, key)

    def mask_shape(self, shape):
        axes = self.spatial_axes(len(shape))
        return tuple(1 if axis in axes else n for axis, n in enumerate(shape))

    def shape(self, batch=3, space=4, channels=5):
        """A batched input shape whose axes all differ."""
        rank = self.ranks[-1]
        return (batch, *range(space, space + rank - 2), channels)[:rank]

    def many(self, draws):
        """A batched input shape with at least `draws` entries in its mask, and few more."""
        rank = self.ranks[-1]
        spatial_axes = self.spatial_axes(rank)
        side = math.ceil(draws ** (1 / (rank - len(spatial_axes))))
        return tuple(2 if axis in spatial_axes else side for axis in range(rank))

    def cases(self, max_side=5):
        """Hypothesis: shapes that it takes."""
        return st.sampled_from(self.ranks).flatmap(
            lambda rank: st.tuples(*[st.integers(self.least, max_side)] * rank)
        )


def _named(spatial_ndim):
    return lambda rank: tuple(range(rank - 1 - spatial_ndim, rank - 1))


def _layer(cls):
    return lambda x, p, key: cls(p)(x, key=key)


def _channels(axes):
    return lambda x, p, key: chandrop.functional.dropout_channels(x, p, key, axes)


def _mask(axes):
    return lambda x, p, key: (
        x * chandrop.functional.channel_mask(x.shape, p, key, axes, x.dtype)
    )


def _noise(function, axes):
    return lambda x, p, key: function(x, p, key, axes)


def _block(axes):
    return lambda x, p, key: chandrop.functional.drop_block(x, p, key, 2, axes)


def _noise_layer(cls, axes):
    return lambda x, p, key: cls(p, axes)(x, key=key)


def _block_layer(axes):
    return lambda x, p, key: chandrop.nn.DropBlock(p, 2, axes)(x, key=key)


def _channel_layer(axes):
    return lambda x, p, key: chandrop.nn.ChannelDropout(p, axes)(x, key=key)


SUBJECTS = [
    Subject("dropout", chandrop.functional.dropout, _named(0), (1, 3)),
    Subject("dropout1d", chandrop.functional.dropout1d, _named(1), (2, 3)),
    Subject("dropout2d", chandrop.functional.dropout2d, _named(2), (3, 4)),
    Subject("dropout3d", chandrop.functional.dropout3d, _named(3), (4, 5)),
    Subject("dropout_channels:channels-first", _channels((2, -1)), lambda _: (2, 3), (4,)),
    Subject("dropout_channels:NCL", _channels(-1), lambda rank: (rank - 1,), (2, 3)),
    Subject("dropout_channels:stochastic-depth", _channels((1, 2)), lambda _: (1, 2), (3,)),
    Subject("dropout_channels:apart", _channels((1, 3)), lambda _: (1, 3), (5,)),
    Subject("channel_mask", _mask((-3, 2)), lambda _: (1, 2), (4,)),
    Subject("Dropout", _layer(chandrop.nn.Dropout), _named(0), (1, 3)),
    Subject("Dropout1d", _layer(chandrop.nn.Dropout1d), _named(1), (2, 3)),
    Subject("Dropout2d", _layer(chandrop.nn.Dropout2d), _named(2), (3, 4)),
    Subject("Dropout3d", _layer(chandrop.nn.Dropout3d), _named(3), (4, 5)),
    Subject("ChannelDropout", _channel_layer((1, -2)), lambda _: (1, 2), (4,)),
    Subject("ChannelDropout:NCHW", _channel_layer((2, 3)), lambda _: (2, 3), (4,)),
]
SUBJECTS += [
    Subject(
        "drop_path",
        chandrop.functional.drop_path,
        lambda rank: tuple(range(1, rank)),
        (2, 4),
    ),
    Subject(
        "drop_path:not scaled",
        lambda x, p, key: chandrop.functional.drop_path(x, p, key, scale=False),
        lambda rank: tuple(range(1, rank)),
        (2, 4),
        drops=False,
    ),
    Subject(
        "alpha_dropout_channels",
        _noise(chandrop.functional.alpha_dropout_channels, (1, 2)),
        lambda _: (1, 2),
        (4,),
        drops=False,
        shifts=True,
    ),
    Subject(
        "AlphaDropout:channels-first",
        _noise_layer(chandrop.nn.AlphaDropout, (2, 3)),
        lambda _: (2, 3),
        (4,),
        drops=False,
        shifts=True,
    ),
    Subject(
        "gaussian_dropout_channels",
        _noise(chandrop.functional.gaussian_dropout_channels, (1, 2)),
        lambda _: (1, 2),
        (4,),
        drops=False,
    ),
    Subject(
        "GaussianDropout:sequences",
        _noise_layer(chandrop.nn.GaussianDropout, 1),
        lambda _: (1,),
        (3,),
        drops=False,
    ),
]
# The axes that blocks extend along, what these are for the rank of an input, and the ranks.
_BLOCKS = {
    "sequences": (1, lambda _: (1,), (3,)),
    "sequences, channels-first": (-1, lambda rank: (rank - 1,), (2, 3)),
    "images": ((-3, -2), _named(2), (3, 4)),
    "images, channels-first": ((2, 3), lambda _: (2, 3), (4,)),
    "volumes": ((-4, -3, -2), _named(3), (4, 5)),
    "apart": ((3, 1), lambda _: (1, 3), (5,)),
}
SUBJECTS += [
    Subject(f"drop_block:{name}", _block(axes), *others, drops=False, least=2)
    for name, (axes, *others) in _BLOCKS.items()
]
SUBJECTS += [
    Subject(
        "DropBlock:channels-first",
        _block_layer((2, 3)),
        lambda _: (2, 3),
        (4,),
        drops=False,
        least=2,
    )
]
DROPPING = [subject for subject in SUBJECTS if subject.drops]
FUNCTIONS = [subject for subject in SUBJECTS if subject.name[0].islower()]


def normal(shape, dtype=mx.float32, seed=1):
    """An input without zeros, so that ``y / x`` shows the mask."""
    x = mx.random.normal(shape, key=mx.random.key(seed))
    return mx.where(mx.abs(x) < 0.01, 1.0, x).astype(dtype)


def bits(array):
    """The bits of an array, so that -0 and nan compare too."""
    import numpy as np

    if array.dtype == mx.complex64:
        array = mx.stack([mx.real(array), mx.imag(array)])
    width = {2: mx.uint16, 4: mx.uint32, 8: mx.uint64}[array.dtype.size]
    return np.array(array.view(width))


def assert_same(a, b):
    """Same shape, dtype and bits."""
    import numpy as np

    assert a.shape == b.shape
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(bits(a), bits(b))


def assert_trees_close(a, b, rtol=1e-5, atol=1e-6):
    """Same names, and arrays that differ by rounding at most."""
    import numpy as np

    a, b = dict(tree_flatten(a)), dict(tree_flatten(b))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=atol, err_msg=name)


@dataclass(frozen=True)
class Layer:
    """A layer under test that draws by its own key, and the shape of a batch for it."""

    build: Callable[[mx.array], mlx.nn.Module]
    shape: tuple[int, ...]

    @property
    def name(self):
        layer = repr(self.build(mx.random.key(0)))
        return f"{layer.replace('p=0.4', '').replace('(, ', '(')} of {self.shape}"


def _built(cls, shape, **own):
    return Layer(lambda key: cls(0.4, key=key, **own), shape)


LAYERS = [
    _built(chandrop.nn.Dropout, (4, 6)),
    _built(chandrop.nn.Dropout1d, (4, 3, 6)),
    _built(chandrop.nn.Dropout2d, (4, 3, 5, 6)),
    _built(chandrop.nn.Dropout3d, (4, 2, 3, 3, 6)),
    _built(chandrop.nn.ChannelDropout, (4, 6, 3, 5), spatial_axes=(2, 3)),
    _built(chandrop.nn.DropPath, (4, 3, 6)),
    _built(chandrop.nn.DropPath, (4, 3, 6), scale=False),
    _built(chandrop.nn.DropBlock, (4, 5, 6), block_size=3, spatial_axes=1),
    _built(chandrop.nn.DropBlock, (4, 5, 6, 6), block_size=3, spatial_axes=(1, 2)),
    _built(chandrop.nn.DropBlock, (4, 6, 5, 6), block_size=3, spatial_axes=(2, 3)),
    _built(chandrop.nn.DropBlock, (4, 3, 5, 4, 6), block_size=2, spatial_axes=(1, 2, 3)),
    _built(chandrop.thin.ThinDropout, (4, 3, 6)),
    _built(chandrop.thin.PatchDropout, (4, 7, 6)),
    _built(chandrop.thin.PatchDropout, (4, 7, 3), prefix_tokens=2),
]
LAYERS += [
    _built(cls, shape, spatial_axes=axes)
    for cls in (
        chandrop.nn.AlphaDropout,
        chandrop.nn.GaussianDropout,
        chandrop.nn.ConcreteDropout,
    )
    for shape, axes in {(4, 6): (), (4, 3, 6): 1, (4, 6, 3, 5): (2, 3)}.items()
]
