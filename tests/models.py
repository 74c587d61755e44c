"""Whole models, one with each kind of layer, and a way to see the masks that they draw."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import mlx.core as mx
import mlx.nn as nn

import chandrop
from chandrop.nn import (
    AlphaDropout,
    AttentionDropout,
    ChannelDropout,
    DropBlock,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    GaussianDropout,
    KeyedLayer,
    KeyStream,
    MultiHeadAttention,
    WeightDropout,
)
from chandrop.nn._call_context import path_in_tool_call


class Conv1dNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions = [nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 8, 3)]
        self.dropout = Dropout1d(0.5)
        self.head = nn.Linear(8, 2)

    def __call__(self, x):
        x = self.dropout(mx.tanh(self.convolutions[0](x)))
        return self.head(mx.tanh(self.convolutions[1](x)).mean(1))


class Conv2dNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions = [nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3)]
        self.dropouts = [Dropout2d(0.3), Dropout(0.4)]
        self.head = nn.Linear(8, 2)

    def __call__(self, x):
        x = self.dropouts[0](mx.tanh(self.convolutions[0](x)))
        return self.head(self.dropouts[1](mx.tanh(self.convolutions[1](x)).mean((1, 2))))


class Conv3dNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions = [nn.Conv3d(2, 6, 3, padding=1), nn.Conv3d(6, 4, 3)]
        self.dropout = Dropout3d(0.5)
        self.head = nn.Linear(4, 2)

    def __call__(self, x):
        x = self.dropout(mx.tanh(self.convolutions[0](x)))
        return self.head(mx.tanh(self.convolutions[1](x)).mean((1, 2, 3)))


class BatchNormNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 8)
        self.norm = nn.BatchNorm(8)
        self.norm.running_mean = mx.linspace(-0.5, 0.5, 8)
        self.dropout = Dropout(0.3)
        self.head = nn.Linear(8, 2)

    def __call__(self, x):
        return self.head(self.dropout(mx.tanh(self.norm(self.linear(x)))))


class Reused(nn.Module):
    """One dropout layer at two places, and one block called twice."""

    def __init__(self):
        super().__init__()
        self.dropout = Dropout(0.25)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), self.dropout)
        self.again = self.block
        self.first = nn.Linear(6, 8)

    def __call__(self, x):
        return self.again(self.block(self.dropout(self.first(x))))


class InDicts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linears = {"first": nn.Linear(6, 8), "rest": [nn.Linear(8, 8)]}
        self.dropouts = {"first": Dropout(0.5), "rest": [{"last": Dropout(0.2)}]}

    def __call__(self, x):
        x = self.dropouts["first"](mx.tanh(self.linears["first"](x)))
        return self.dropouts["rest"][0]["last"](mx.tanh(self.linears["rest"][0](x)))


class Recurrent(nn.Module):
    """The same channels are dropped at all time steps."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 8)
        self.dropout = ChannelDropout(0.4, spatial_axes=1)
        self.head = nn.Linear(8, 2)

    def __call__(self, x):
        hidden, _ = self.lstm(x)
        return self.head(self.dropout(hidden))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = chandrop.nn.convert(nn.TransformerEncoder(1, 8, 2, 16, 0.2))

    def __call__(self, x):
        return self.encoder(x, None)


class Attention(nn.Module):
    """A transformer whose attention drops weights, too."""

    def __init__(self):
        super().__init__()
        self.encoder = chandrop.nn.convert(nn.TransformerEncoder(1, 8, 2, 16, 0.2))
        self.encoder.layers[0].attention = MultiHeadAttention(8, 2, dropout=0.3)

    def __call__(self, x):
        return self.encoder(x, None)


class Family(nn.Module):
    """The members that are not plain dropout, with groups and arrays of rates."""

    def __init__(self):
        super().__init__()
        self.linears = [nn.Linear(6, 8), nn.Linear(8, 8)]
        self.block = DropBlock(0.2, 2, (1, 2), groups=4)
        self.path = DropPath(mx.array(0.25))
        self.gaussian = GaussianDropout(0.2, (1, 2), groups=2)
        self.alpha = AlphaDropout(0.2, (1, 2))
        self.head = nn.Linear(8, 2)

    def __call__(self, x):
        x = self.block(mx.tanh(self.linears[0](x)))
        x = self.gaussian(x + self.path(mx.tanh(self.linears[1](x))))
        return self.head(mx.tanh(self.alpha(x)).mean((1, 2)))


class Weights(nn.Module):
    """Parameters are dropped: some connections, the states of an LSTM, and a filter."""

    def __init__(self):
        super().__init__()
        self.first = WeightDropout(nn.Linear(5, 8), mx.array([0.2] * 8)[:, None])
        self.lstm = WeightDropout(nn.LSTM(8, 8), 0.4, name="Wh")
        self.convolution = WeightDropout(nn.Conv1d(8, 8, 2, groups=4), 0.3, 1)
        self.head = nn.Linear(8, 2)

    def __call__(self, x):
        hidden, _ = self.lstm(mx.tanh(self.first(x)))
        return self.head(mx.tanh(self.convolution(x=hidden)).mean(1))


class Autoencoder(nn.Module):
    """A variational one, which draws in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 8), nn.Linear(4, 6)
        self.dropout = Dropout(0.3)
        self.next_key = KeyStream()

    def __call__(self, x):
        mean, log = mx.split(mx.tanh(self.dropout(self.encoder(x))), 2, axis=-1)
        return self.decoder(mean + mx.exp(log) * self.noise(mean))

    def noise(self, like):
        key = self.next_key()
        if key.ndim == 1:
            return mx.random.normal(like.shape, like.dtype, key=key)
        shape = like.shape[1:]
        return mx.vmap(lambda key: mx.random.normal(shape, like.dtype, key=key))(key)


@dataclass(frozen=True)
class Model:
    """A model under test: how it is built, and the shape of one example.

    plain: whether all its layers multiply channels by 0 or ``1 / (1 - p)``.
    cut: whether it takes a key for each example.
    """

    build: Callable[[], nn.Module]
    example: tuple[int, ...]
    convolutions: bool = False
    calls: int = 1
    plain: bool = True
    cut: bool = True

    @property
    def name(self):
        return self.build.__name__

    def make(self):
        """The model, always with the same weights and keys."""
        mx.random.seed(5)
        return self.build()

    def x(self, batch=4):
        return mx.random.normal((batch, *self.example), key=mx.random.key(batch))


MODELS = [
    Model(Conv1dNetwork, (7, 3), convolutions=True),
    Model(Conv2dNetwork, (6, 5, 2), convolutions=True, calls=2),
    Model(Conv3dNetwork, (4, 5, 4, 2), convolutions=True),
    Model(BatchNormNetwork, (6,)),
    Model(Reused, (6,), calls=3),
    Model(InDicts, (6,), calls=2),
    Model(Recurrent, (4, 5)),
    Model(Transformer, (4, 8), calls=2),
    Model(Attention, (5, 8), calls=3, plain=False),
    Model(Family, (4, 4, 6), calls=4, plain=False),
    Model(Weights, (4, 5), convolutions=True, plain=False, cut=False),
    Model(Autoencoder, (6,), plain=False),
]


@dataclass(frozen=True)
class Draw:
    """What a dropout layer did in one call: it multiplied by `mask` and added `shift`."""

    path: str
    layer: KeyedLayer
    mask: mx.array
    shift: mx.array

    @property
    def spatial_axes(self):
        elementwise = isinstance(self.layer, Dropout)
        return () if elementwise else tuple(range(1, self.mask.ndim - 1))

    @property
    def both(self):
        return mx.stack([self.mask, self.shift])


def _attention(on_weights):
    """Attention in plain MLX, with a function of a layer, its weights and a key."""

    def call(layer, q, k, v, *, scale, mask, key=None):
        assert mask is None
        weights = mx.softmax(scale * q @ k.swapaxes(-1, -2), axis=-1, precise=True)
        return on_weights(layer, weights, key=key) @ v

    return mock.patch.object(AttentionDropout, "__call__", call)


@contextmanager
def recorded():
    """Records every draw of chandrop's layers, in the order of the calls."""
    draws = []
    call = KeyedLayer.__call__

    def recording(layer, x, *, key=None):
        before = layer._key
        shift = call(layer, mx.zeros_like(x), key=key)
        layer._key = before
        mask = call(layer, mx.ones_like(x), key=key) - shift
        draws.append(Draw(path_in_tool_call(layer), layer, mask, shift))
        return x * mask + shift

    with mock.patch.object(KeyedLayer, "__call__", recording), _attention(recording):
        yield draws


@contextmanager
def replayed(draws):
    """Does what was drawn, one draw after the other, in place of chandrop's layers."""
    remaining = iter(draws)

    def replaying(layer, x, *, key=None):
        path_in_tool_call(layer)  # as a layer that draws does
        mask, shift = next(remaining)
        return x * mask + shift

    with mock.patch.object(KeyedLayer, "__call__", replaying), _attention(replaying):
        yield
