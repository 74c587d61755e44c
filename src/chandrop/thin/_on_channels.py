"""What layers do to channels, so that a chain can run them on some of the channels.

A class declares it by an attribute of its own, not an inherited one, since a subclass may
do anything else:

- ``on_channels = "multiplies"``, for a random layer: its output is the input times numbers
  that do not depend on the input.
- ``on_channels = "keeps zero"``: each output channel depends on its input channel alone,
  and a channel of zeros stays one.
- ``on_channels = "each alone"``: each output channel depends on its input channel alone.

The arrays that a layer of the latter two kinds holds have an entry for each channel along
their last axis, or one entry for all.
"""

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop._affine import affine
from chandrop._mlx import batched_as
from chandrop.nn import KeyedLayer
from chandrop.thin._kept import put_kept, take_kept

# The classes themselves: a subclass may do anything else.
_MIXING = {
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
}
_KEEPING_ZERO: list[Any] = [
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.Upsample, nn.Identity, nn.ReLU, nn.ReLU2, nn.ReLU6, nn.LeakyReLU, nn.PReLU),
    *(nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanh),
    *(nn.HardTanh, nn.Softsign, nn.Softshrink, nn.HardShrink),
    *(nn.relu, nn.relu2, nn.relu6, nn.leaky_relu, nn.elu, nn.celu, nn.selu, nn.gelu),
    *(nn.gelu_approx, nn.gelu_fast_approx, nn.silu, nn.mish, nn.hardswish, nn.tanh),
    *(mx.tanh, nn.hard_tanh, nn.softsign, nn.softshrink, nn.hard_shrink),
]
_EACH_ALONE: list[Any] = [
    *(nn.BatchNorm, nn.InstanceNorm, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Step),
    *(nn.sigmoid, mx.sigmoid, nn.log_sigmoid, nn.softplus, nn.step),
]
# By identity, since functions of MLX have no hash.
_OF_MLX = dict.fromkeys(map(id, _KEEPING_ZERO), "keeps zero")
_OF_MLX |= dict.fromkeys(map(id, _EACH_ALONE), "each alone")


def is_convolution(layer: Any) -> bool:
    """Whether a layer mixes channels and is not Linear."""
    return is_mixing(layer) and type(layer) is not nn.Linear


def is_mixing(layer: Any) -> bool:
    """Whether a layer mixes channels by a matrix of weights."""
    return type(layer) in _MIXING and getattr(layer, "groups", 1) == 1


def is_keeping_zero(layer: Any) -> bool:
    """Whether each channel is treated alone, and zeros stay zeros."""
    return _declared(layer) in ("multiplies", "keeps zero")


def is_for_each_channel(layer: Any) -> bool:
    """Whether each channel is treated alone."""
    return _declared(layer) is not None


def _declared(layer: Any) -> str | None:
    own = vars(type(layer)).get("on_channels")
    if own is None:
        return _OF_MLX.get(id(layer)) or _OF_MLX.get(id(type(layer)))
    # A random layer would draw other numbers for fewer channels.
    expected = ["multiplies"]
    if not isinstance(layer, KeyedLayer):
        expected = ["keeps zero", "each alone"]
    if own not in expected:
        raise ValueError(
            f"Received on_channels = {own!r} of class {type(layer).__name__}. Expected "
            f"{' or '.join(map(repr, expected))}."
        )
    declared: str = own
    return declared


def channels_taken(layer: Any) -> int | None:
    """Returns the number of channels that a layer expects, if its arrays tell."""
    if is_mixing(layer):
        return int(layer.weight.shape[-1])
    if not is_for_each_channel(layer):
        return None
    if type(layer) is nn.BatchNorm:
        return int(layer.num_features)
    sizes = [array.shape[-1] for array in _for_each_channel(layer).values()]
    return sizes[0] if sizes else None


def mix_channels(
    layer: nn.Module, x: mx.array, inputs: mx.array | None, outputs: mx.array | None
) -> mx.array:
    """Calls a mixing layer for some input and output channels; None means all."""
    part = copy.copy(layer)
    weight = layer.weight if inputs is None else take_kept(layer.weight, inputs, -1)
    part.weight = weight if outputs is None else take_kept(weight, outputs, 0)
    if "bias" in layer and outputs is not None:
        part.bias = take_kept(layer.bias, outputs, 0)
    # A convolution of volumes with groups is an error in MLX, and never silently wrong.
    if is_convolution(layer) and x.ndim < 5:
        x = batched_as(part.weight, x)
    y: mx.array = part(x)
    return y


def call_on_channels(layer: Any, x: mx.array, kept: mx.array, channels: int) -> mx.array:
    """Calls a layer that treats each channel alone, with the kept ones of `channels`."""
    if _declared(layer) == "multiplies":
        return _multiplied(layer, x, kept, channels) if layer.training else x
    arrays = _for_each_channel(layer)
    part = copy.copy(layer) if arrays else layer
    taken = {name: take_kept(array, kept, -1) for name, array in arrays.items()}
    if taken:
        part.update(taken)
    y: mx.array = part(x)
    for name, array in taken.items():
        # The running statistics.
        if part[name] is not array:
            whole = layer[name].astype(part[name].dtype)
            layer[name] = put_kept(whole, kept, part[name], -1)
    return y


def _for_each_channel(layer: Any) -> dict[str, mx.array]:
    """Returns the arrays of a layer that have an entry for each channel."""
    if isinstance(layer, KeyedLayer) or not isinstance(layer, nn.Module):
        return {}
    if len(layer.modules()) > 1:
        raise ValueError(
            f"Received a {type(layer).__name__} that declares on_channels and holds other "
            "layers. Declare it in these, and put them into the chain one by one."
        )
    arrays = {name: a for name, a in layer.items() if isinstance(a, mx.array)}
    return {name: array for name, array in arrays.items() if array.size > 1}


def _multiplied(layer: Any, x: mx.array, kept: mx.array, channels: int) -> mx.array:
    # The mask of all channels, so that it is the one that the dense input would meet.
    shape = [*x.shape[:-1], channels]
    for axis in layer._constant_axes(x.ndim):
        shape[axis % x.ndim] = 1
    mask = layer(mx.ones(shape, dtype=x.dtype))
    return affine(x, mask if mask.shape[-1] == 1 else take_kept(mask, kept, -1))
