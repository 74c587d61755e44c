import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import mlx.core as mx

from chandrop._checks import (
    as_axes,
    as_groups,
    as_integers,
    as_rate,
    axes_and_mask_shape,
    channel_axis,
    check_broadcasts,
    check_dtype,
    check_input,
    check_is_no_key,
)
from chandrop._mlx import vmap
from chandrop.random import Key, check_key


def channels_of(
    x: mx.array, key: Key, spatial_axes: int | Sequence[int], groups: int | None = None
) -> "Channels":
    """Checks an input, a key and the axes, and returns the channels of the input."""
    check_input(x)
    check_is_no_key(x, "an input")
    # Before the axes, so that the error names a key in their place, or the other way round.
    check_key(key)
    groups = None if groups is None else as_groups(groups)
    return _channels(x.shape, x.dtype, key.shape, as_axes(spatial_axes), groups)


def channels_of_shape(
    shape: Sequence[int],
    dtype: mx.Dtype,
    key: Key,
    spatial_axes: int | Sequence[int],
    groups: int | None = None,
) -> "Channels":
    """As :func:`channels_of`, for the shape and dtype of an input."""
    check_dtype(dtype)
    check_key(key)
    shape = as_integers(shape, "a shape such as x.shape")
    if any(not 0 <= length < 2**31 for length in shape):
        raise ValueError(f"Received shape {shape}. Expected lengths from 0 to 2**31 - 1.")
    return _channels(shape, dtype, key.shape, as_axes(spatial_axes), as_groups(groups))


class Channels:
    """What shares one draw in an input.

    Attributes:
        axes: the spatial axes, counted from the first.
        mask_shape: the input's shape with 1 at the spatial axes, and the number of groups
            at the channel axis.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: mx.Dtype,
        key_shape: tuple[int, ...],
        spatial_axes: tuple[int, ...],
        groups: int | None,
    ):
        check_dtype(dtype)
        self.axes, self.mask_shape = axes_and_mask_shape(shape, spatial_axes, groups)
        _check_batch(key_shape, shape, self.axes, self.mask_shape)
        self._dtype = dtype
        self._size = math.prod(self.mask_shape)
        # How many channels share an entry of the mask. One group broadcasts.
        self._group_size = 1
        if groups is not None and groups > 1:
            self._channel_axis = channel_axis(len(shape), self.axes)
            self._group_size = shape[self._channel_axis] // groups

    def rate(self, p: float | mx.array) -> float | mx.array:
        """Returns `p` as a float, or as float32 that broadcasts to the mask's shape."""
        rate = as_rate(p)
        if isinstance(rate, mx.array):
            check_broadcasts(rate, "p", self.mask_shape)
        return rate

    def draw(
        self,
        sample: Callable[..., mx.array],
        key: Key,
        *rate: float | mx.array,
        shape: tuple[int, ...] | None = None,
    ) -> mx.array:
        """Draws with one key, or draws each example with its own key.

        Args:
            sample: ``(shape, key, *rate)``, for one key.
            key: one key or a batch of keys.
            *rate: what `sample` depends on, if anything: a number, or an array that
                broadcasts to `shape`.
            shape: what is drawn. Default: the mask's shape. A key for all examples draws 1
                at axis 0.

        Returns:
            The numbers, of shape ``(1, *shape)``. The extra axis keeps mx.compile from
            fusing the mask's arithmetic into the loop over the input, where it would be
            repeated for every element (on the CPU, 13 times slower after a relu): MLX fuses
            nothing across the change of shape in :meth:`mask`.
        """
        shape = shape or self.mask_shape
        # RandomBits has no derivative, so it must not see a key that is differentiated.
        key = mx.stop_gradient(key)
        if key.ndim == 1:
            return sample((1, *shape), key, *rate)
        # MLX divides by the number of keys.
        if shape[0] == 0:
            return mx.zeros((1, *shape))
        by_example = [r for r in map(mx.array, rate) if r.ndim == len(shape) and len(r) > 1]
        if key.shape[0] == 1 and not by_example:
            return sample((1, 1, *shape[1:]), key[0], *rate)

        def draw_example(key: mx.array, *own_rate: mx.array) -> mx.array:
            drawn = sample((1, *shape[1:]), key, *(own_rate or rate))
            return drawn.reshape(1, *shape[1:])

        keys = mx.broadcast_to(key, (shape[0], 2))
        return vmap(draw_example, out_axes=1)(keys, *by_example)

    def mask(self, numbers: mx.array, shape: tuple[int, ...] | None = None) -> mx.array:
        """Returns drawn numbers in the shape and dtype in which they meet the input.

        Args:
            numbers: what was made of a draw.
            shape: the shape that was drawn. Default: the mask's shape.
        """
        shape, size = (self.mask_shape, self._size) if shape is None else (shape, None)
        if numbers.size != (size or math.prod(shape)):  # One key draws for all examples.
            shape = (1, *shape[1:])
        mask = numbers.astype(self._dtype).reshape(shape)
        if self._group_size == 1:
            return mask
        axis = self._channel_axis + 1
        wide = (*shape[:axis], self._group_size, *shape[axis:])
        return mx.flatten(mx.broadcast_to(mx.expand_dims(mask, axis), wide), axis - 1, axis)


# All arguments are plain ints by now: the cache could not tell True, 1 and 1.0 apart.
_channels = lru_cache(maxsize=4096)(Channels)


def _check_batch(
    key_shape: tuple[int, ...],
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    mask_shape: tuple[int, ...],
) -> None:
    """Raises unless there is one key, or a key for each example along axis 0."""
    if len(key_shape) == 1:
        return
    if len(key_shape) > 2:
        raise ValueError(
            f"Received keys of shape {key_shape}. Expected one key, (2,), or one for each "
            "example, (B, 2); for more batch axes, use mx.vmap."
        )
    keys = key_shape[0]
    if not shape or 0 in axes:
        raise ValueError(
            f"Received a batch of {keys} keys for an input of shape {shape} without a "
            f"batch axis (spatial axes {axes}). Expected one key, (2,)."
        )
    if keys not in (1, shape[0]):
        raise ValueError(
            f"Received a batch of {keys} keys for an input of shape {shape}. Expected one "
            "key, (2,), one for all examples alike, (1, 2), or one for each example: "
            f"chandrop.random.example_keys(key, {shape[0]})."
        )
    if mask_shape[0] != shape[0]:
        raise ValueError(
            f"Received a batch of keys, and {mask_shape[0]} groups along its axis 0. "
            "Expected one key, (2,), or an axis for the channels."
        )
