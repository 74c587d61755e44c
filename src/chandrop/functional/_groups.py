"""Groups of channels that follow one another and share a draw."""

from collections.abc import Sequence

import mlx.core as mx

from chandrop.random._as_integer import as_integer


def as_groups(groups: int | None) -> int | None:
    """Gives a number of groups as an int, or None."""
    if groups is None:
        return None
    number = as_integer(groups, "groups")
    if number < 1:
        raise ValueError(f"Received groups = {groups}. Expected at least 1.")
    return number


def channel_axis(ndim: int, axes: Sequence[int]) -> int:
    """Gives the axis of the channels: the last that is not spatial."""
    others = [axis for axis in range(ndim) if axis not in axes]
    if not others:
        raise ValueError(
            f"Received an input whose {ndim} axes are all spatial. Expected one more, for "
            "the channels."
        )
    return others[-1]


def over_channels(
    mask: mx.array, shape: Sequence[int], axes: Sequence[int], groups: int | None
) -> mx.array:
    """Gives each channel of `shape` what its group has; one group is left as it is."""
    if groups is None or groups == 1:
        return mask
    axis = channel_axis(len(shape), axes)
    size = shape[axis] // groups
    if size == 1:
        return mask
    each = mx.expand_dims(mask, axis + 1)
    wide = (*mask.shape[: axis + 1], size, *mask.shape[axis + 1 :])
    return mx.flatten(mx.broadcast_to(each, wide), axis, axis + 1)
