"""Layers that can run on some of the channels alone: of ``mlx.nn``, and ours."""

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from chandrop.functional._affine import affine
from chandrop.functional._kept import put_kept, take_kept
from chandrop.nn._channel_dropout import ChannelDropout
from chandrop.nn._concrete_dropout import (
    ConcreteDropout,
    ConcreteDropout1d,
    ConcreteDropout2d,
    ConcreteDropout3d,
)
from chandrop.nn._drop_block import DropBlock2d, DropBlock3d
from chandrop.nn._drop_path import DropPath
from chandrop.nn._gaussian_dropout import (
    GaussianDropout,
    GaussianDropout1d,
    GaussianDropout2d,
    GaussianDropout3d,
)
from chandrop.nn._layouts import Dropout, Dropout1d, Dropout2d, Dropout3d
from chandrop.nn._thin_dropout import ThinDropout

# All of these are the classes themselves: what inherits from them may do anything.
_MIXING = {
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
}
_BLOCKS = {DropBlock2d, DropBlock3d}
# Not AlphaDropout, whose shift a dropped channel would have, too.
_MULTIPLYING = _BLOCKS | {
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    ChannelDropout,
    ThinDropout,
    GaussianDropout,
    GaussianDropout1d,
    GaussianDropout2d,
    GaussianDropout3d,
    ConcreteDropout,
    ConcreteDropout1d,
    ConcreteDropout2d,
    ConcreteDropout3d,
}
_KEEPING_ZERO = _MULTIPLYING | {
    DropPath,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.Upsample,
    nn.Identity,
    nn.ReLU,
    nn.ReLU2,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Tanh,
    nn.HardTanh,
    nn.Softsign,
    nn.Softshrink,
    nn.HardShrink,
}
_OTHERS = {
    nn.BatchNorm,
    nn.InstanceNorm,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Step,
}
_WITH_ARRAYS = {nn.BatchNorm, nn.InstanceNorm, nn.PReLU}
_FUNCTIONS_KEEPING_ZERO: list[Any] = [
    nn.relu,
    nn.relu2,
    nn.relu6,
    nn.leaky_relu,
    nn.elu,
    nn.celu,
    nn.selu,
    nn.gelu,
    nn.gelu_approx,
    nn.gelu_fast_approx,
    nn.silu,
    nn.mish,
    nn.hardswish,
    nn.tanh,
    mx.tanh,
    nn.hard_tanh,
    nn.softsign,
    nn.softshrink,
    nn.hard_shrink,
]
_OTHER_FUNCTIONS: list[Any] = [nn.sigmoid, mx.sigmoid, nn.log_sigmoid, nn.softplus, nn.step]


def is_convolution(layer: Any) -> bool:
    """Whether this is a mixing layer, and not Linear."""
    return is_mixing(layer) and type(layer) is not nn.Linear


def is_mixing(layer: Any) -> bool:
    """Whether this is a layer that makes channels of channels, by a matrix of weights."""
    return type(layer) in _MIXING and getattr(layer, "groups", 1) == 1


def is_keeping_zero(layer: Any) -> bool:
    """Whether it is for each channel, and makes 0 of a channel that is 0."""
    return type(layer) in _KEEPING_ZERO or any(
        layer is function for function in _FUNCTIONS_KEEPING_ZERO
    )


def is_for_each_channel(layer: Any) -> bool:
    """Whether each channel of the output depends on that of the input alone."""
    return (
        type(layer) in _OTHERS
        or any(layer is function for function in _OTHER_FUNCTIONS)
        or is_keeping_zero(layer)
    )


def channels_taken(layer: Any) -> int | None:
    """Gives how many channels a layer is for, if its arrays say so."""
    if is_mixing(layer):
        return int(layer.weight.shape[-1])
    if type(layer) is nn.BatchNorm:
        return int(layer.num_features)
    sizes = [array.shape[-1] for array in _for_each_channel(layer).values()]
    return sizes[0] if sizes else None


def mix_channels(
    layer: nn.Module, x: mx.array, inputs: mx.array | None, outputs: mx.array | None
) -> mx.array:
    """Calls a mixing layer for some input and output channels; None is for all."""
    part = copy.copy(layer)
    weight = layer.weight if inputs is None else take_kept(layer.weight, inputs, -1)
    part.weight = weight if outputs is None else take_kept(weight, outputs, 0)
    if "bias" in layer and outputs is not None:
        part.bias = take_kept(layer.bias, outputs, 0)
    y: mx.array = part(x)
    return y


def call_on_channels(layer: Any, x: mx.array, kept: mx.array, channels: int) -> mx.array:
    """Calls a layer that is for each channel, with those of `channels` that are kept."""
    if type(layer) in _MULTIPLYING:
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
    """Gives the arrays of a layer that have an entry for each channel."""
    if type(layer) not in _WITH_ARRAYS:
        return {}
    # One number, such as PReLU's, is for all channels.
    return {name: array for name, array in layer.items() if array.size > 1}


def _multiplied(layer: Any, x: mx.array, kept: mx.array, channels: int) -> mx.array:
    # The mask of all channels, so that it is the one that the dense input would meet.
    shape = [*x.shape[:-1], channels]
    if type(layer) not in _BLOCKS:
        one = range(x.ndim - 1) if type(layer) is ThinDropout else layer._spatial_axes
        for axis in one:
            shape[axis % x.ndim] = 1
    mask = layer(mx.ones(shape, dtype=x.dtype))
    return affine(x, mask if mask.shape[-1] == 1 else take_kept(mask, kept, -1))
