from collections.abc import Callable, Sequence

import mlx.core as mx

from chandrop._mlx import vmap
from chandrop.functional._arguments import (
    as_rate,
    axes_and_mask_shape,
    check_broadcasts,
    check_dtype,
    check_input,
    check_keys,
)
from chandrop.functional._groups import as_groups, over_channels
from chandrop.random import check_key


class Channels:
    """What shares one draw in an input of `shape`, and the key to draw with.

    Attributes:
        axes: the spatial axes, counted from the first.
        mask_shape: `shape` with 1 at the spatial axes, and `groups` at the channel axis.
    """

    def __init__(
        self,
        shape: Sequence[int],
        key: mx.array,
        spatial_axes: int | Sequence[int],
        groups: int | None,
    ):
        # First, so that a key in the place of the axes, or the other way round, is named.
        check_key(key)
        groups = as_groups(groups)
        self.axes, self.mask_shape = axes_and_mask_shape(shape, spatial_axes, groups)
        check_keys(key, shape, self.axes)
        if key.ndim > 1 and self.mask_shape[0] != shape[0]:
            raise ValueError(
                f"Received a batch of keys, and {groups} groups along its axis 0. Expected "
                "one key, (2,), or an axis for the channels."
            )
        self._shape = shape
        self._groups = groups
        # RandomBits has no derivative, so a key that is differentiated must not reach it.
        self._key = mx.stop_gradient(key)

    def rate(self, p: float | mx.array) -> float | mx.array:
        """Gives `p` as a float, or as float32 that broadcasts to the mask's shape."""
        rate = as_rate(p)
        if isinstance(rate, mx.array):
            check_broadcasts(rate, "p", self.mask_shape)
        return rate

    def draw(
        self,
        sample: Callable[..., mx.array],
        *rates: mx.array,
        shape: tuple[int, ...] | None = None,
    ) -> mx.array:
        """Draws ``sample(*rates, shape, key)`` by one key, or each example by its own.

        Args:
            sample: one of :mod:`chandrop.random._samples`.
            *rates: what `sample` depends on; they broadcast to `shape`.
            shape: what is drawn. Default: the mask's shape. A key for all examples draws 1
                at axis 0.

        Returns:
            The numbers, of shape ``(1, *shape)``. mx.compile would fuse the mask's
            arithmetic into the loop over the input and repeat it for every element (on the
            CPU, 13 times slower after a relu), but it fuses nothing across a change of
            shape. Hence the extra axis, which :meth:`mask` takes away again.
        """
        shape, key = shape or self.mask_shape, self._key
        if key.ndim == 1:
            return sample(*rates, (1, *shape), key)
        # MLX divides by the number of keys.
        if shape[0] == 0:
            return mx.zeros((1, *shape))
        by_example = [0 if r.ndim == len(shape) and r.shape[0] > 1 else None for r in rates]
        if key.shape[0] == 1 and by_example.count(0) == 0:
            return sample(*rates, (1, 1, *shape[1:]), key[0])
        each = vmap(
            lambda key, *rates: sample(*rates, (1, *shape[1:]), key),
            in_axes=(0, *by_example),
            out_axes=1,
        )
        return each(mx.broadcast_to(key, (shape[0], key.shape[1])), *rates)

    def mask(self, numbers: mx.array, dtype: mx.Dtype) -> mx.array:
        """Gives what was made of a draw the shape and dtype in which the input meets it."""
        mask = mx.squeeze(numbers.astype(dtype), 0)
        return over_channels(mask, self._shape, self.axes, self._groups)


def channels_of(
    x: mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    groups: int | None = None,
) -> Channels:
    """Checks an input, and gives its channels."""
    check_input(x)
    check_dtype(x.dtype)
    return Channels(x.shape, key, spatial_axes, groups)
