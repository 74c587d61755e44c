"""Random members of the family: functions, and layers with a given key or their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from fuzz.affine import Affine
from fuzz.kinds import random_kind
from fuzz.shapes import pick


@dataclass
class Member:
    """A function of an input, keys and rates, and its definition.

    call: ``(x, key, rate) -> y``. A layer has a rate, and perhaps keys, of its own, and
        ignores those that it is given.
    define: ``(positions, key, rate) -> Affine``, in NumPy, of the input's positions.
    layer: the layer, if it draws by its own key.
    advances: whether the layer's key then advances.
    exact: whether the definition has the very bits.
    multiplies: whether what is dropped is multiplied by 0, and not left out.
    """

    text: str
    call: Callable[..., mx.array]
    define: Callable[..., Any]
    shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    key_shape: tuple[int, ...]
    rate: np.ndarray
    layer: nn.Module | None
    advances: bool
    exact: bool
    multiplies: bool


def random_member(rng, limit):
    """A member with rates of at most `limit`, or of 1."""
    kind = random_kind(rng)
    rate, key_shape = kind.rate(rng, limit), pick(rng, kind.key_shapes)
    is_array = isinstance(rate, np.ndarray)
    own_rate = mx.array(rate) if is_array else rate
    form = pick(rng, ("function", "layer with a key", "layer"))
    layer = None
    takes_rate = form == "function" and is_array
    if form == "function":

        def call(x, key, rate):
            return kind.function(x, rate if is_array else own_rate, key)

    else:
        layer = kind.layer(own_rate, mx.array(random_key(rng, (2,))))
        layer._key = mx.array(random_key(rng, key_shape))

        def call(x, key, rate):
            given = {"key": key} if form == "layer with a key" else {}
            return kind.call(layer, x, **given)

    def define(positions, key, given_rate):
        own = given_rate if takes_rate else rate
        parts, left = kind.draw(kind.shape, key, own), kind.left(key, own)
        scale, shift = (np.broadcast_to(np.asarray(part), kind.shape) for part in parts)
        return Affine(scale[left], shift[left], positions[left])

    all_positions = np.zeros(kind.shape)
    output = all_positions[kind.left(np.zeros(key_shape, np.uint32), rate)]
    shown = f"rates of {rate.shape}" if is_array else f"p={rate!r}"
    return Member(
        f"{form} {kind.name}, {shown}, keys of {key_shape}",
        call,
        define,
        kind.shape,
        output.shape,
        key_shape,
        rate if takes_rate else np.zeros((), np.float32),
        layer if form == "layer" else None,
        not kind.keeps_all(rate),
        kind.exact,
        kind.multiplies,
    )


def random_key(rng, shape):
    """Words of keys; at times those at the ends of the range."""
    words = rng.integers(0, 2**32, shape, dtype=np.uint32)
    if rng.random() < 0.2:
        words[...] = pick(rng, (0, 1, 2**32 - 1))
    return words
