from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeGuard

import mlx.core as mx
import mlx.nn as nn

from chandrop.functional._arguments import check_dtype, check_input
from chandrop.functional._kept import among_zeros, take_kept
from chandrop.functional._thin_dropout_channels import kept_scale
from chandrop.nn._channel_dropout import ChannelDropout
from chandrop.nn._layouts import Dropout1d, Dropout2d, Dropout3d
from chandrop.nn._on_channels import (
    call_on_channels,
    channels_taken,
    is_for_each_channel,
    is_keeping_zero,
    is_mixing,
    mix_channels,
)
from chandrop.nn._thin_dropout import ThinDropout

_FOR_EACH_EXAMPLE = (
    *(Dropout1d, Dropout2d, Dropout3d, ChannelDropout),
    *(nn.Dropout2d, nn.Dropout3d),
)


class ThinSequential(nn.Sequential):
    r"""Calls layers in order, and computes no channel that a :class:`ThinDropout` drops.

    It takes the place of ``mlx.nn.Sequential``: the same outputs, gradients, parameter
    names and shapes as with the same layers in that, in less time. A convolution or linear
    layer before a ThinDropout computes the output channels that are kept, the one after it
    reads those, and what is between runs on those: a layer between two ThinDropouts costs
    :math:`(1-p)^2` of what it did. Around the inside of a residual block, it thins the
    block.

    On the channels that are kept run ``mlx.nn``'s convolutions and transposed convolutions
    without groups, Linear, activations, poolings, Upsample, BatchNorm, InstanceNorm, and
    chandrop's layers. Any other layer, such as one that normalises over channels, a
    convolution with groups, a lambda or a Module of yours, gets all channels, with zeros
    for those that are dropped; so does what makes something else than 0 of 0, after the
    dropout. Sequentials inside are part of the chain. What is not computed is 0, also where
    it would have been inf or nan.

    BatchNorm before a ThinDropout, in training mode, updates the running statistics of the
    channels that are kept, as ever; those of the others stay as they were.

    Args:
        *layers: as for ``mlx.nn.Sequential``: modules or functions. ThinDropout's own mode
            decides, and not that of the chain: where they are off it is a Sequential, and
            ``functional_call(model, ..., dropout=True)`` thins a model in eval mode.

    Raises:
        ValueError: a layer drops channels of each example, such as :class:`Dropout2d`, and
            none is a ThinDropout; at the call for a layer of another number of channels
            than it is given, or if a ThinDropout has a key for each example.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import ThinDropout, ThinSequential
        >>> block = ThinSequential(
        ...     nn.Conv2d(8, 32, 3, padding=1),
        ...     nn.BatchNorm(32),
        ...     nn.ReLU(),
        ...     ThinDropout(0.5),
        ...     nn.Conv2d(32, 8, 3, padding=1),
        ... )
        >>> x = mx.ones((4, 10, 10, 8))
        >>> (x + block(x)).shape
        (4, 10, 10, 8)

    Source: Graham, Reizenstein and Robinson, "Efficient batchwise dropout training using
    submatrices", 2015.
    """

    def __init__(self, *layers: Callable[[mx.array], mx.array]):
        super().__init__(*layers)
        chain = [layer for _, layer in _chain(self)]
        if not any(isinstance(layer, ThinDropout) for layer in chain):
            for layer in chain:
                if isinstance(layer, _FOR_EACH_EXAMPLE):
                    raise ValueError(
                        f"Received a {layer} and no ThinDropout. It has a mask for each "
                        "example, so every channel has to be computed. Expected one for "
                        "the whole batch in its place, chandrop.nn.ThinDropout(p); or an "
                        "mlx.nn.Sequential."
                    )

    def __call__(self, x: mx.array) -> mx.array:
        """Calls the layers in order."""
        chain = list(_chain(self))
        if not any(_is_thinning(layer) for _, layer in chain):
            dense: mx.array = super().__call__(x)
            return dense
        # The channels that x has; None: it has all.
        kept: mx.array | None = None
        channels = 0
        # Whether they are those that the next dropout keeps, of what is not yet masked.
        ahead = False
        for place, (path, layer) in enumerate(chain):
            if _is_thinning(layer) and (ahead or kept is None):
                if kept is None:
                    check_input(x)
                    check_dtype(x.dtype)
                    channels = x.shape[-1]
                    kept = layer._keep(channels)
                    x = take_kept(x, kept, -1)
                x = x * kept_scale(kept, channels, x.dtype)
                ahead = False
            elif is_mixing(layer):
                _check_channels(path, layer, x.shape[-1] if kept is None else channels)
                outputs, channels = None, layer.weight.shape[0]
                following = _next_thinning(layer for _, layer in chain[place + 1 :])
                if following is not None:
                    outputs = following._keep(channels)
                x = mix_channels(layer, x, kept, outputs)
                kept, ahead = outputs, following is not None
            elif kept is not None and (
                is_keeping_zero(layer) or (ahead and is_for_each_channel(layer))
            ):
                _check_channels(path, layer, channels)
                x = call_on_channels(layer, x, kept, channels)
            else:
                if kept is not None:
                    x = among_zeros(x, kept, -1, channels)
                    kept = None
                x = layer(x)
        return x if kept is None else among_zeros(x, kept, -1, channels)


def _chain(sequential: nn.Sequential, path: str = "layers") -> Iterator[tuple[str, Any]]:
    """Gives the layers of a Sequential, and of those inside, in order, with their paths."""
    for i, layer in enumerate(sequential.layers):
        if type(layer) in (nn.Sequential, ThinSequential):
            yield from _chain(layer, f"{path}.{i}.layers")
        else:
            yield f"{path}.{i}", layer


def _is_thinning(layer: Any) -> TypeGuard[ThinDropout]:
    return isinstance(layer, ThinDropout) and layer._would_drop()


def _next_thinning(layers: Iterable[Any]) -> ThinDropout | None:
    """Gives the dropout that the channels reach, if each reaches it alone."""
    for layer in layers:
        if _is_thinning(layer):
            return layer
        if not is_for_each_channel(layer):
            return None
    return None


def _check_channels(path: str, layer: Any, received: int) -> None:
    expected = channels_taken(layer)
    if expected not in (None, received):
        raise ValueError(
            f'Received {received} channels at "{path}" of a ThinSequential, which is a '
            f"{layer}. Expected {expected}."
        )
