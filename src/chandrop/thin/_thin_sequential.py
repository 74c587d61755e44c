from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeGuard

import mlx.core as mx
import mlx.nn as nn

from chandrop._checks import check_dtype, check_function, check_input
from chandrop.thin._kept import among_zeros, take_kept
from chandrop.thin._on_channels import (
    call_on_channels,
    channels_taken,
    is_convolution,
    is_for_each_channel,
    is_keeping_zero,
    is_mixing,
    mix_channels,
)
from chandrop.thin._thin_dropout import ThinDropout, check_has_channels, kept_scale


class ThinSequential(nn.Sequential):
    """Calls layers in order, and computes no channel that a :class:`ThinDropout` drops.

    It takes the place of ``mlx.nn.Sequential``: the same outputs, gradients, parameter
    names and shapes, in less time. A convolution or linear layer before a ThinDropout
    computes the kept output channels only, the one after it reads only those, and the
    layers between run on those: a layer between two ThinDropouts costs ``(1 - p)**2`` of
    what it did. Around the inside of a residual block, it thins the block.

    These run on the kept channels: ``mlx.nn``'s ungrouped convolutions and transposed
    convolutions, Linear, poolings, Upsample, BatchNorm, InstanceNorm, the activations that
    treat each channel alone, chandrop's layers except AlphaDropout and PatchDropout, and
    layers of yours that declare what they do to channels. A class declares it in its own
    body:

    - ``on_channels = "keeps zero"``: each output channel depends on its input channel
      alone, and a channel of zeros stays one.
    - ``on_channels = "each alone"``: the former without the latter.
    - ``on_channels = "multiplies"``, for a :class:`chandrop.nn.KeyedLayer`: the input is
      multiplied by numbers that do not depend on it.

    Arrays of such a layer have an entry for each channel along their last axis, or one for
    all. Any other layer, such as a norm over channels, a grouped convolution, a dropout of
    ``mlx.nn`` or a lambda, gets all channels, with zeros for the dropped ones; so does,
    after the dropout, a layer that does not keep zeros. Nested Sequentials are part of the
    chain. What is not computed is 0, even where it would have been inf or nan.

    BatchNorm before a ThinDropout, in training mode, updates the running statistics of the
    kept channels; those of the others stay as they are.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.thin import ThinDropout, ThinSequential
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
        """Creates a chain.

        Args:
            *layers: modules or functions, as for ``mlx.nn.Sequential``. The mode of each
                ThinDropout decides, not that of the chain: where they are off it is a
                Sequential, and ``functional_call(model, ..., dropout=True)`` thins a model
                in eval mode.

        Raises:
            TypeError: a layer is not callable, or is a class.
            ValueError: none of the layers is a ThinDropout.
        """
        expected = "ThinSequential(*layers), each layer built, as ThinDropout(0.5)"
        for layer in layers:
            check_function(layer, "a layer", expected)
        super().__init__(*layers)
        if not any(isinstance(layer, ThinDropout) for _, layer in _chain(self)):
            raise ValueError(
                "Received no ThinDropout among the layers, so every channel would be "
                "computed. Expected chandrop.thin.ThinDropout(p) where channels are "
                "dropped, since other dropouts drop others in each example; "
                "without any, an mlx.nn.Sequential."
            )

    @property
    def _weight_choosers(self) -> list[ThinDropout]:
        """The ThinDropouts by whose keys convolutions use a part of their weights.

        MLX makes of a batch of weights a convolution with groups, which takes longer than
        one convolution after another.
        """
        layers = [layer for _, layer in _chain(self)]
        if not any(map(is_convolution, layers)):
            return []
        return [layer for layer in layers if isinstance(layer, ThinDropout)]

    def __call__(self, x: mx.array) -> mx.array:
        """Calls the layers in order.

        Raises:
            ValueError: a layer receives the wrong number of channels; a
                ThinDropout has a key for each example.
        """
        chain = list(_chain(self))
        for _, layer in chain:
            if isinstance(layer, ThinDropout):
                layer._record()
        if not any(_is_thinning(layer) for _, layer in chain):
            dense: mx.array = super().__call__(x)
            return dense
        check_input(x)
        check_has_channels(x)
        # The channels that x has; None for all.
        kept: mx.array | None = None
        channels = 0
        # Whether the next dropout keeps these, and has not masked them yet.
        ahead = False
        for place, (path, layer) in enumerate(chain):
            _check_channels(path, layer, x, None if kept is None else channels)
            if kept is None and is_for_each_channel(layer):
                following = _next_thinning(chain[place:])
                if following is not None:
                    channels, ahead = x.shape[-1], True
                    kept = following._keep(channels)
                    x = take_kept(x, kept, -1)
            if ahead and kept is not None and _is_thinning(layer):
                check_dtype(x.dtype)
                x = x * kept_scale(kept, channels, x.dtype)
                ahead = False
            elif is_mixing(layer):
                outputs, channels = None, layer.weight.shape[0]
                following = _next_thinning(chain[place + 1 :])
                if following is not None:
                    outputs = following._keep(channels)
                x = mix_channels(layer, x, kept, outputs)
                kept, ahead = outputs, following is not None
            elif kept is not None and (ahead or is_keeping_zero(layer)):
                x = call_on_channels(layer, x, kept, channels)
            else:
                if kept is not None:
                    x = among_zeros(x, kept, -1, channels)
                    kept = None
                x = layer(x)
        return x if kept is None else among_zeros(x, kept, -1, channels)


def _chain(sequential: nn.Sequential, path: str = "layers") -> Iterator[tuple[str, Any]]:
    """Yields the layers of a Sequential, and of nested ones, in order, with their paths."""
    for i, layer in enumerate(sequential.layers):
        if type(layer) in (nn.Sequential, ThinSequential):
            yield from _chain(layer, f"{path}.{i}.layers")
        else:
            yield f"{path}.{i}", layer


def _is_thinning(layer: Any) -> TypeGuard[ThinDropout]:
    return type(layer) is ThinDropout and layer._would_draw()


def _next_thinning(chain: Iterable[tuple[str, Any]]) -> ThinDropout | None:
    """Returns the next dropout, if each channel reaches it alone."""
    for _, layer in chain:
        if _is_thinning(layer):
            return layer
        if not is_for_each_channel(layer):
            return None
    return None


def _check_channels(path: str, layer: Any, x: mx.array, channels: int | None) -> None:
    expected = channels_taken(layer)
    if expected is None:
        return
    received = x.shape[-1] if channels is None else channels
    if received != expected:
        raise ValueError(
            f'Received {received} channels at "{path}" of a ThinSequential, which is a '
            f"{layer}. Expected {expected}."
        )
