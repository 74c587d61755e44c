"""Random layers without chandrop: each multiplies by what its definition draws."""

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
}


class Plain(nn.Module):
    """A random layer that holds its key, and the member that it is in, in plain sight."""

    def __init__(self, kind, p):
        super().__init__()
        self.kind, self.p = kind, p
        self.key, self.members = np.zeros(2, np.uint32), ()
        if kind == "concrete":
            self.logit = mx.array(np.log(p / (1 - p)), mx.float32)

    def __call__(self, x):
        if not self.training or self._keeps_all(x.shape):
            return x
        self.key, key = split(self.key)
        for i in self.members:
            key = fold_in(key, i)
        if self.kind == "concrete":
            return x * self._concrete(x.shape, key)
        if self.kind == "patches":
            return x[tuple(map(mx.array, tokens_left(x.shape, key, self.p)))]
        draw = DRAWS[self.kind]
        if "thin" not in self.kind:
            scale, shift = by_example(draw, x.shape, key, self.p)
        else:
            scale, shift = draw(x.shape, key, self.p)
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


def plain_layers(model):
    """The plain layers by the smallest of their paths."""
    found = {}
    for path, layer in sorted(model.named_modules(), key=lambda item: item[0]):
        # Modules without arrays are equal, as dicts.
        if isinstance(layer, Plain) and all(layer is not one for one in found.values()):
            found[path] = layer
    return found


def give_keys(model, key):
    """Gives each plain layer the key that is derived from one key and its path."""
    for path, layer in plain_layers(model).items():
        layer.key = fold_in(np.array(key), crc32(path.encode()))
