"""What the members of the family share: everything but their formulas."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import mlx.core as mx

from chandrop.functional._affine import affine
from chandrop.functional._arguments import is_zero
from chandrop.functional._channels import Channels, channels_of
from chandrop.functional._coefficients import coefficients_of


class Noise(NamedTuple):
    """The formula of a member, in two steps.

    Attributes:
        coefficients: what is made of a rate; see :func:`coefficients_of`.
        numbers: ``(draw, *coefficients) -> (multiplier,)`` or ``(multiplier, shift)``, with
            ``draw(sample, *rates)`` to draw one number for each channel.
    """

    coefficients: Callable[[Any, ModuleType], tuple[Any, ...]]
    numbers: Callable[..., tuple[mx.array, ...]]


def with_noise(
    noise: Noise,
    x: mx.array,
    p: float | mx.array,
    key: mx.array,
    spatial_axes: int | Sequence[int],
    groups: int | None,
) -> mx.array:
    """Gives `x` with the noise of a member; `x` itself if its rate is the number 0."""
    channels = channels_of(x, key, spatial_axes, groups)
    rate = channels.rate(p)
    return x if is_zero(p) else affine(x, *noise_of(noise, channels, rate, x.dtype))


def noise_of(
    noise: Noise, channels: Channels, rate: float | mx.array, dtype: mx.Dtype
) -> list[mx.array]:
    """Gives the multiplier of a member, and its shift if it has one."""
    coefficients = coefficients_of(noise.coefficients, rate, dtype)
    numbers = noise.numbers(channels.draw, *coefficients)
    return [channels.mask(number, dtype) for number in numbers]
