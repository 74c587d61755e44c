"""Random blocks of models, for inputs ``(B, L, C)``, with chandrop's layers or without."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
from fuzz.plain import (
    BLOCK,
    TEMPERATURE,
    Plain,
    PlainAttention,
    PlainConnections,
    PlainNoise,
)
from fuzz.shapes import pick

from chandrop.nn import (
    AlphaDropout,
    ChannelDropout,
    ConcreteDropout,
    DropBlock,
    Dropout,
    DropPath,
    GaussianDropout,
    KeyStream,
    MultiHeadAttention,
    WeightDropout,
    checkpoint,
)
from chandrop.thin import PatchDropout, ThinDropout, ThinDropPath, ThinSequential

WIDTH = 4


class Feed(nn.Module):
    def __init__(self, mix, activation, drop):
        super().__init__()
        self.mix, self.activation, self.drop = mix, activation, drop

    def __call__(self, x):
        return self.drop(self.activation(self.mix(x)))


class Recurrent(nn.Module):
    def __init__(self, cell, drop):
        super().__init__()
        self.cell, self.drop = cell, drop

    def __call__(self, x):
        hidden = self.cell(x)
        return self.drop(hidden[0] if isinstance(hidden, tuple) else hidden)


class Attention(nn.Module):
    def __init__(self, attention, mask, drop):
        super().__init__()
        self.attention, self.mask, self.drop = attention, mask, drop

    def __call__(self, x):
        return x + self.drop(self.attention(x, x, x, self.mask))


class Noise(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale, self.next_key = mx.ones(width), KeyStream()

    def __call__(self, x):
        key = self.next_key()
        if key.ndim == 1:
            return x + self.scale * mx.random.normal(x.shape, key=key)
        noise = mx.vmap(lambda key: mx.random.normal(x.shape[1:], key=key))(key)
        return x + self.scale * noise


class Residual(nn.Module):
    def __init__(self, inner, path):
        super().__init__()
        self.inner, self.path = inner, path

    def __call__(self, x):
        return x + self.path(self.inner(x))


class ThinResidual(Residual):
    def __call__(self, x):
        return x + self.path(x, self.inner)


class Normalised(nn.Module):
    def __init__(self, norm, inner):
        super().__init__()
        self.norm, self.inner = norm, inner

    def __call__(self, x):
        return self.inner(self.norm(x))


class Shared(nn.Module):
    """One block at two places, and one dropout in two."""

    def __init__(self, inner, drop):
        super().__init__()
        self.z_inner, self.drop = inner, drop
        self.again = [inner, {"drop": drop}]

    def __call__(self, x):
        x = self.drop(self.z_inner(x))
        return self.again[1]["drop"](self.again[0](x))


class InContainers(nn.Module):
    def __init__(self, first, second, third):
        super().__init__()
        self.parts = {"first": first, "rest": [second, {"last": third}]}

    def __call__(self, x):
        x = self.parts["rest"][0](self.parts["first"](x))
        return self.parts["rest"][1]["last"](x)


class Checkpointed(nn.Module):
    def __init__(self, inner, wrap):
        super().__init__()
        self.inner = inner
        object.__setattr__(self, "wrap", wrap)

    def __call__(self, x):
        return self.wrap(self.inner)(x)


LAYERS = {
    "dropout": Dropout,
    "dropout of mlx.nn": Dropout,
    "channels": lambda p: ChannelDropout(p, 1),
    "groups": lambda p: ChannelDropout(p, (-2,), groups=2),
    "alpha": lambda p: AlphaDropout(p, 1),
    "gaussian": GaussianDropout,
    "concrete": lambda p: ConcreteDropout(p, 1, temperature=TEMPERATURE),
    "path": DropPath,
    "block": lambda p: DropBlock(p, BLOCK, 1),
    "thin": ThinDropout,
    "thin path": ThinDropPath,
    "patches": PatchDropout,
}
ATTENDED = {"attended": (), "attended keys": 2, "attended heads": (2, 3)}
CONNECTIONS = {"connections": (), "shared connections": 1}
WRAPS = {"chandrop's": checkpoint, "mlx.nn's": nn.utils.checkpoint}

# Which layers a model is built of: chandrop's, of them some of mlx.nn, or plain ones.
OURS = SimpleNamespace(
    drop=lambda kind, p: LAYERS[kind](p),
    attention=lambda width, heads, kind, p: MultiHeadAttention(
        width, heads, dropout=p, spatial_axes=ATTENDED[kind]
    ),
    connected=lambda module, kind, p, name: WeightDropout(
        module, p, CONNECTIONS[kind], name=name
    ),
    noise=Noise,
    chain=ThinSequential,
    thin_residual=ThinResidual,
    wrap=WRAPS.get,
)
UNCONVERTED = SimpleNamespace(**vars(OURS))
UNCONVERTED.drop = lambda kind, p: (
    nn.Dropout(p) if kind == "dropout of mlx.nn" else LAYERS[kind](p)
)
PLAIN = SimpleNamespace(
    drop=Plain,
    attention=PlainAttention,
    connected=PlainConnections,
    noise=PlainNoise,
    chain=nn.Sequential,
    thin_residual=Residual,
    wrap=lambda kind: lambda module: module,
)


@dataclass(frozen=True)
class Block:
    """A random block: how it is built of either kind of layers."""

    text: str
    build: Callable[[SimpleNamespace], nn.Module]

    def has(self, *words):
        return any(word in self.text for word in words)

    def __str__(self):
        return self.text


def random_model(rng):
    """A chain of random blocks, with at least one random layer."""
    blocks = [random_block(rng, 2) for _ in range(rng.integers(1, 4))]
    blocks.append(_drop(rng))
    # Not within a block, whose output may be added to its input.
    if rng.random() < 0.2:
        blocks.insert(int(rng.integers(len(blocks))), _drop(rng, ("patches",)))
    return Block(
        " | ".join(map(str, blocks)),
        lambda of: nn.Sequential(*(block.build(of) for block in blocks)),
    )


def random_block(rng, depth):
    kinds = [_feed, _feed, _convolution, _recurrent, _attention, _noise, _thin]
    if depth:
        kinds += [_residual, _thin_residual, _normalised, _shared, _in_containers]
        kinds += [_checkpointed, _checkpointed]
    return pick(rng, kinds)(rng, depth - 1)


def _drop(rng, kinds=("dropout", "dropout of mlx.nn", "channels", "groups", "alpha",
                      "gaussian", "concrete", "path", "block", "thin")):  # fmt: skip
    kind, p = _kind_and_rate(rng, kinds)
    return Block(f"{kind} {p}", lambda of: of.drop(kind, p))


def _kind_and_rate(rng, kinds):
    kind, p = pick(rng, kinds), pick(rng, (0.1, 0.25, 0.4, 0.5, 0.6))
    if kind != "concrete" and rng.random() < 0.05:
        p = 0.0
    return kind, p


def _connected(rng, build, name="weight"):
    """A module, at times with entries of a parameter dropped."""
    if rng.random() < 0.6:
        return Block("all", lambda of: build())
    kind, p = _kind_and_rate(rng, list(CONNECTIONS))
    return Block(f"{kind} {p}", lambda of: of.connected(build(), kind, p, name))


def _feed(rng, depth):
    drop, activation = _drop(rng), pick(rng, (nn.Tanh, nn.GELU, nn.Softplus))
    mix = _connected(rng, lambda: nn.Linear(WIDTH, WIDTH))
    return Block(
        f"feed({mix}, {drop})",
        lambda of: Feed(mix.build(of), activation(), drop.build(of)),
    )


def _convolution(rng, depth):
    drop = _drop(rng)
    mix = _connected(rng, lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1))
    return Block(
        f"convolution({mix}, {drop})",
        lambda of: Feed(mix.build(of), nn.Tanh(), drop.build(of)),
    )


def _recurrent(rng, depth):
    drop, kind = _drop(rng), pick(rng, (nn.RNN, nn.GRU, nn.LSTM))
    cell = _connected(rng, lambda: kind(WIDTH, WIDTH), "Whh" if kind is nn.RNN else "Wh")
    return Block(
        f"{kind.__name__}({cell}, {drop})",
        lambda of: Recurrent(cell.build(of), drop.build(of)),
    )


def _attention(rng, depth):
    drop, mask = _drop(rng), pick(rng, (None, "causal"))
    if rng.random() < 0.3:
        attention = Block("of mlx.nn", lambda of: nn.MultiHeadAttention(WIDTH, 2))
    else:
        kind, p = _kind_and_rate(rng, list(ATTENDED))
        attention = Block(f"{kind} {p}", lambda of: of.attention(WIDTH, 2, kind, p))
    return Block(
        f"attention({attention}, {mask}, {drop})",
        lambda of: Attention(attention.build(of), mask, drop.build(of)),
    )


def _noise(rng, depth):
    return Block("noise", lambda of: of.noise(WIDTH))


def _thin(rng, depth):
    thin, other = _drop(rng, ("thin",)), _drop(rng, ("dropout", "channels", "gaussian"))
    parts = (lambda: nn.Linear(WIDTH, 6), nn.ReLU, nn.Tanh, lambda: nn.Linear(6, WIDTH))

    def build(of):
        first, activation, second, last = (part() for part in parts)
        return of.chain(first, activation, thin.build(of), second, other.build(of), last)

    return Block(f"chain({thin}, {other})", build)


def _residual(rng, depth):
    inner, path = random_block(rng, depth), _drop(rng, ("path",))
    return Block(
        f"residual({inner}, {path})", lambda of: Residual(inner.build(of), path.build(of))
    )


def _thin_residual(rng, depth):
    # Without random layers inside, which would draw for the kept examples alone.
    inner, path = (
        Block("linear", lambda of: nn.Linear(WIDTH, WIDTH)),
        _drop(rng, ("thin path",)),
    )
    return Block(
        f"thin residual({inner}, {path})",
        lambda of: of.thin_residual(inner.build(of), path.build(of)),
    )


def _normalised(rng, depth):
    inner, norm = random_block(rng, depth), pick(rng, _NORMS)
    return Block(
        f"{norm.__name__}({inner})", lambda of: Normalised(norm(WIDTH), inner.build(of))
    )


_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm)


def _shared(rng, depth):
    inner, drop = random_block(rng, depth), _drop(rng)
    return Block(
        f"shared({inner}, {drop})", lambda of: Shared(inner.build(of), drop.build(of))
    )


def _in_containers(rng, depth):
    parts = [random_block(rng, depth), _drop(rng), random_block(rng, depth)]
    return Block(
        f"containers({', '.join(map(str, parts))})",
        lambda of: InContainers(*(part.build(of) for part in parts)),
    )


def _checkpointed(rng, depth):
    inner, kind = random_block(rng, depth), pick(rng, list(WRAPS))
    return Block(
        f"checkpoint of {kind}({inner})",
        lambda of: Checkpointed(inner.build(of), of.wrap(kind)),
    )
