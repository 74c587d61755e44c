"""Random kinds of noise: a function, its layer, and what they draw by definition."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from fuzz import definitions
from fuzz.definitions import by_example, keeps_all, on_channels
from fuzz.shapes import (
    divisors,
    from_either_end,
    last_of_others,
    pick,
    random_axes,
    random_shape,
)

from chandrop import functional, thin
from chandrop import nn as layers


@dataclass
class Kind:
    """One member of the family at one shape.

    draw: ``(shape, key, p) -> (scale, shift)``, its definition.
    function: ``(x, p, key) -> y``.
    layer: ``(p, key) -> layer``.
    left: ``(key, p) -> index``, what of the input is left.
    call: ``(layer, x, **key) -> y``, how the layer is called.
    rate: ``(rng, limit) -> p``, a random rate, a number or an array.
    keeps_all: ``p -> bool``, whether nothing is drawn at this rate.
    key_shapes: of the keys that it may be given.
    exact: whether the definition has the very bits.
    multiplies: whether what is dropped is multiplied by 0, and not left out.
    """

    name: str
    shape: tuple[int, ...]
    draw: Callable[..., Any]
    function: Callable[..., mx.array]
    layer: Callable[..., nn.Module]
    left: Callable[..., Any] = lambda key, p: ...
    call: Callable[..., mx.array] = lambda layer, x, **key: layer(x, **key)
    rate: Callable[..., Any] = lambda rng, limit: random_number(rng, limit)
    keeps_all: Callable[..., bool] = keeps_all
    key_shapes: tuple[tuple[int, ...], ...] = ((2,),)
    exact: bool = True
    multiplies: bool = True


def random_kind(rng):
    return pick(rng, _KINDS)(rng)


def random_number(rng, limit):
    """A rate: at times 0 or 1, or one that people write."""
    if rng.random() < 0.1:
        return float(pick(rng, (0, 1)))
    if rng.random() < 0.5:
        return min(limit, pick(rng, (0.1, 0.25, 1 / 3, 0.5, 0.7)))
    return float(rng.uniform(0, limit))


def _random_rate(mask_shape):
    """A number, or an array that broadcasts to the mask's shape."""

    def rate(rng, limit):
        if rng.random() < 0.6:
            return random_number(rng, limit)
        shape = mask_shape[int(rng.integers(len(mask_shape) + 1)) :]
        shape = [n if rng.random() < 0.6 else 1 for n in shape]
        rates = rng.uniform(0, limit, shape)
        at_the_ends = rng.random(shape) < 0.1
        return np.asarray(np.where(at_the_ends, rates > limit / 2, rates), np.float32)

    return rate


def _on_channels(name, shape, axes, groups, noise, function, layer, **others):
    """A kind with one draw for the spatial axes, of whichever layout."""
    channel = last_of_others(len(shape), axes)
    mask_shape = [1 if axis in axes else n for axis, n in enumerate(shape)]
    if groups is not None:
        mask_shape[channel] = groups
    key_shapes = [(2,), (2,)]
    # The reference is a loop over the examples.
    batched = shape and 0 not in axes and shape[0] < 1000
    if batched and not (groups is not None and channel == 0):
        key_shapes += [(shape[0], 2), (1, 2)]
    return Kind(
        f"{name}(axes={axes}, groups={groups})",
        shape,
        partial(by_example, on_channels(noise, axes, groups)),
        function,
        layer,
        **{"rate": _random_rate(mask_shape), "key_shapes": tuple(key_shapes)} | others,
    )


def _random_groups(rng, shape, axes):
    channel = last_of_others(len(shape), axes)
    if channel is None or shape[channel] == 0 or rng.random() < 0.7:
        return None
    return pick(rng, divisors(shape[channel]))


def _any_layout(noise, function, layer, **others):
    def kind(rng):
        shape = random_shape(rng, int(rng.integers(1, 6)))
        axes = random_axes(rng, len(shape))
        groups = _random_groups(rng, shape, axes)
        given = from_either_end(rng, axes, len(shape))
        return _on_channels(
            function.__name__,
            shape,
            axes,
            groups,
            noise,
            lambda x, p, key: function(x, p, key, given, groups=groups),
            lambda p, key: layer(p, given, groups=groups, key=key),
            **others,
        )

    return kind


def _multiplied(x, p, key, axes, *, groups):
    return x * functional.channel_mask(x.shape, p, key, axes, x.dtype, groups=groups)


def _channels_last(spatial_ndim, function, layer):
    def kind(rng):
        least = 1 if spatial_ndim == 0 else spatial_ndim + 1
        most = 4 if spatial_ndim == 0 else spatial_ndim + 2
        shape = random_shape(rng, int(rng.integers(least, most + 1)))
        axes = tuple(range(len(shape) - 1 - spatial_ndim, len(shape) - 1))
        groups = _random_groups(rng, shape, axes)
        return _on_channels(
            function.__name__,
            shape,
            axes,
            groups,
            definitions.dropping,
            lambda x, p, key: function(x, p, key, groups=groups),
            lambda p, key: layer(p, groups=groups, key=key),
        )

    return kind


def _drop_path(rng):
    shape = random_shape(rng, int(rng.integers(1, 5)))
    scale = bool(rng.random() < 0.7)
    return _on_channels(
        f"drop_path, scale={scale}",
        shape,
        tuple(range(1, len(shape))),
        None,
        definitions.dropping if scale else definitions.dropping_alone,
        partial(functional.drop_path, scale=scale),
        lambda p, key: layers.DropPath(p, scale=scale, key=key),
    )


def _concrete(rng):
    temperature = float(rng.uniform(0.1, 1))
    shape = random_shape(rng, int(rng.integers(1, 5)))
    axes = random_axes(rng, len(shape))

    def function(x, p, key):
        p = mx.array(p)
        return functional.concrete_dropout_channels(
            x, mx.log(p) - mx.log1p(-p), key, axes, temperature=temperature
        )

    def layer(p, key):
        return layers.ConcreteDropout(p, axes, temperature=temperature, key=key)

    kind = _on_channels(
        f"concrete_dropout_channels[{temperature:.2f}]",
        shape,
        axes,
        None,
        definitions.concrete(temperature),
        function,
        layer,
        exact=False,
        keeps_all=lambda p: False,
    )
    rate = kind.rate
    # A logit of a rate of 0 or 1 would be infinite.
    kind.rate = lambda rng, limit: _between(0.02, 0.6, rate(rng, limit))
    return kind


def _between(low, high, rate):
    between = np.clip(rate, low, high)
    return np.asarray(between) if isinstance(rate, np.ndarray) else float(between)


def _drop_block(rng):
    """Which blocks a key draws is what the function says of it, alone and eagerly."""
    shape = random_shape(rng, int(rng.integers(2, 5)), least=int(rng.integers(0, 2)))
    axes = random_axes(rng, len(shape), least=1, most=3)
    size = int(rng.integers(1, max(1, min(4, *(shape[axis] for axis in axes))) + 1))
    channel = last_of_others(len(shape), axes)
    groups = _random_groups(rng, shape, axes)

    def function(x, p, key):
        return functional.drop_block(x, p, key, size, axes, groups=groups)

    scales = on_channels(definitions.keeping, axes, groups)

    def draw(shape, key, p):
        rate = mx.array(p) if isinstance(p, np.ndarray) else p
        mask = np.array(function(mx.ones(shape), rate, mx.array(key)))
        if mask.size and not keeps_all(p):
            assert definitions.is_of_blocks(mask, size, axes), "no union of blocks"
            scale, _ = scales(shape, key, p)
            assert ((mask == 0) | (mask == scale)).all(), "another scale"
            if groups == 1:
                alike = mask == mask.take([0], channel)
                assert alike.all(), "one group, and blocks that differ"
        return mask, np.float32(0)

    kind = _on_channels(
        f"drop_block[{size}]",
        shape,
        axes,
        groups,
        None,
        function,
        lambda p, key: layers.DropBlock(p, size, axes, groups=groups, key=key),
    )
    kind.draw = partial(by_example, draw)
    return kind


def _fixed_rate(rng, limit):
    return min(random_number(rng, limit), 0.95)


def _thin(name, shape, axis, function, layer, **others):
    return Kind(
        name,
        shape,
        definitions.thin(axis),
        function,
        layer,
        rate=_fixed_rate,
        keeps_all=lambda p: keeps_all(p, shape, axis),
        key_shapes=((2,), (2,), (1, 2)),
        **others,
    )


def _thin_channels(rng):
    shape = random_shape(rng, int(rng.integers(1, 5)), least=1)
    last = len(shape) - 1
    axes = random_axes(rng, last)
    in_a_chain = rng.random() < 0.4
    return _thin(
        f"thin_dropout_channels(axes={axes})",
        shape,
        last,
        lambda x, p, key: thin.thin_dropout_channels(x, p, key, axes),
        lambda p, key: thin.ThinDropout(p, key=key),
        call=_in_a_chain if in_a_chain else Kind.call,
        multiplies=not in_a_chain,
    )


def _in_a_chain(layer, x, **key):
    if key:
        return layer(x, **key)
    return thin.ThinSequential(nn.Identity(), layer, nn.LeakyReLU(1.0))(x)


def _thin_examples(rng):
    shape = random_shape(rng, int(rng.integers(1, 5)), least=1)
    return _thin(
        "thin_drop_path",
        shape,
        0,
        lambda x, p, key: thin.thin_drop_path(x, p, key, _branch),
        lambda p, key: thin.ThinDropPath(p, key=key),
        call=lambda layer, x, **key: layer(x, _branch, **key),
        multiplies=False,
    )


def _branch(x):
    return x * 1


def _patches(rng):
    shape = random_shape(rng, 3)
    # The reference is a loop over the examples.
    shape = (min(shape[0], 50), *shape[1:])
    prefix = int(rng.integers(0, min(shape[1], 3) + 1))
    return Kind(
        f"patch_dropout[{prefix}]",
        shape,
        lambda shape, key, p: (np.float32(1), np.float32(0)),
        lambda x, p, key: thin.patch_dropout(x, p, key, prefix),
        lambda p, key: thin.PatchDropout(p, prefix, key=key),
        left=lambda key, p: definitions.tokens_left(shape, key, p, prefix),
        rate=_fixed_rate,
        keeps_all=lambda p: keeps_all(p, (shape[1] - prefix,), 0),
        key_shapes=((2,), (2,), (shape[0], 2), (1, 2)),
        multiplies=False,
    )


_KINDS = [
    _any_layout(definitions.dropping, functional.dropout_channels, layers.ChannelDropout),
    _any_layout(definitions.dropping, _multiplied, layers.ChannelDropout),
    _any_layout(
        definitions.alpha,
        functional.alpha_dropout_channels,
        layers.AlphaDropout,
        exact=False,
    ),
    _any_layout(
        definitions.gaussian, functional.gaussian_dropout_channels, layers.GaussianDropout
    ),
    _channels_last(0, functional.dropout, layers.Dropout),
    _channels_last(1, functional.dropout1d, layers.Dropout1d),
    _channels_last(2, functional.dropout2d, layers.Dropout2d),
    _channels_last(3, functional.dropout3d, layers.Dropout3d),
    _drop_path,
    _concrete,
    _drop_block,
    _thin_channels,
    _thin_examples,
    _patches,
]
