"""Random layers without chandrop: each draws by its definition."""

from zlib import crc32

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from fuzz import definitions
from fuzz.definitions import by_example, fold_in, keeps_all, on_channels, split, tokens_left

from chandrop.functional import drop_block

TEMPERATURE = 0.5
BLOCK = 2


def _blocks(shape, key, rate):
    """Which blocks a key draws is what the function says of it, alone and eagerly."""
    mask = drop_block(mx.ones(shape), rate, mx.array(key), BLOCK, 1)
    return np.array(mask), np.float32(0)


# For inputs ``(B, L, C)``, what each kind of layer draws.
DRAWS = {
    "dropout": on_channels(definitions.dropping),
    "dropout of mlx.nn": on_channels(definitions.dropping),
    "channels": on_channels(definitions.dropping, (1,)),
    "groups": on_channels(definitions.dropping, (1,), 2),
    "alpha": on_channels(definitions.alpha, (1,)),
    "gaussian": on_channels(definitions.gaussian),
    "path": on_channels(definitions.dropping, (1, 2)),
    "block": _blocks,
    "thin": definitions.thin(2),
    "thin path": definitions.thin(0),
    # Of attention weights, ``(B, H, L, L)``.
    "attended": on_channels(definitions.dropping),
    "attended keys": on_channels(definitions.dropping, (2,)),
    "attended heads": on_channels(definitions.dropping, (2, 3)),
    # Of a parameter.
    "connections": on_channels(definitions.dropping),
    "shared connections": on_channels(definitions.dropping, (1,)),
}


class PlainLayer(nn.Module):
    """A random layer that holds its key, and the member that it is in, in plain sight."""

    def __init__(self):
        super().__init__()
        self.key, self.members = np.zeros(2, np.uint32), ()

    def next_key(self):
        self.key, key = split(self.key)
        for i in self.members:
            key = fold_in(key, i)
        return key


class Plain(PlainLayer):
    """Multiplies by what its definition draws."""

    def __init__(self, kind, p):
        super().__init__()
        self.kind, self.p = kind, p
        if kind == "concrete":
            self.logit = mx.array(np.log(p / (1 - p)), mx.float32)

    def __call__(self, x):
        if not self.training or self._keeps_all(x.shape):
            return x
        key = self.next_key()
        if self.kind == "concrete":
            return x * self._concrete(x.shape, key)
        if self.kind == "patches":
            return x[tuple(map(mx.array, tokens_left(x.shape, key, self.p)))]
        draw = DRAWS[self.kind]
        if "thin" in self.kind or "connections" in self.kind:
            # One draw for all examples.
            scale, shift = draw(x.shape, key.reshape(2), self.p)
        else:
            scale, shift = by_example(draw, x.shape, key, self.p)
        return x * mx.array(scale) + mx.array(shift)

    def _keeps_all(self, shape):
        if self.kind == "concrete":
            return False
        if self.kind == "patches":
            return keeps_all(self.p, (shape[1] - 1,), 0)
        return keeps_all(self.p, shape, {"thin": 2, "thin path": 0}.get(self.kind))

    def _concrete(self, shape, key):
        """With the gradient of the rate, so in MLX."""

        def uniform(shape, key, rate):
            return np.array(mx.random.uniform(shape=shape, key=key)), np.float32(0)

        u = mx.array(by_example(on_channels(uniform, (1,)), shape, key, None)[0])
        rate = mx.sigmoid(self.logit)
        odds = mx.exp((self.logit + mx.log(u / (1 - u))) / TEMPERATURE)
        return 1 / (1 + odds) / (1 - rate)


class PlainConnections(Plain):
    """Holds the parameters of a module, and calls it with one of them dropped."""

    def __init__(self, module, kind, p, name):
        super().__init__(kind, p)
        self.name = name
        dict.update(self, module.parameters())
        # So that the parameters keep their paths.
        object.__setattr__(self, "module", module)

    def __call__(self, x):
        for name in self.module.parameters():
            self.module[name] = self[name]
        self.module[self.name] = super().__call__(self[self.name])
        return self.module(x)


class PlainAttention(nn.MultiHeadAttention):
    """Drops the weights that a softmax gives."""

    def __init__(self, width, heads, kind, p):
        super().__init__(width, heads)
        self.dropout = Plain(kind, p)

    def __call__(self, queries, keys, values, mask=None):
        q, k, v = (
            mx.stack(mx.split(project(x), self.num_heads, axis=-1), axis=1)
            for project, x in (
                (self.query_proj, queries),
                (self.key_proj, keys),
                (self.value_proj, values),
            )
        )
        scores = mx.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5
        if mask == "causal":
            later = np.triu(np.ones(scores.shape[2:], bool), 1)
            scores = mx.where(mx.array(later), -mx.inf, scores)
        y = self.dropout(mx.softmax(scores, axis=-1)) @ v
        return self.out_proj(mx.concatenate([y[:, h] for h in range(y.shape[1])], axis=-1))


class PlainNoise(nn.Module):
    """Adds normal numbers, in eval mode, too."""

    def __init__(self, width):
        super().__init__()
        self.scale, self.next_key = mx.ones(width), PlainLayer()

    def __call__(self, x):
        key = self.next_key.next_key()
        if key.shape == (1, 2):
            key = key[0]
        noise, _ = by_example(_normal, x.shape, key, None)
        return x + self.scale * mx.array(noise)


def _normal(shape, key, rate):
    return np.array(mx.random.normal(shape, key=mx.array(key))), np.float32(0)


def plain_layers(model):
    """The plain layers by the smallest of their paths."""
    found = {}
    for path, layer in sorted(model.named_modules(), key=lambda item: item[0]):
        # Modules without arrays are equal, as dicts.
        if isinstance(layer, PlainLayer) and all(
            layer is not one for one in found.values()
        ):
            found[path] = layer
    return found


def give_keys(model, key):
    """Gives each plain layer the key that is derived from one key and its path."""
    for path, layer in plain_layers(model).items():
        layer.key = fold_in(np.array(key), crc32(path.encode()))
