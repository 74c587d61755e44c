"""What each member of the family draws for a key, by its definition, in NumPy.

A drawing function takes the shape of an input, one key and a rate, and returns what the
input is multiplied by and what is added, as arrays that broadcast to the input's shape.
"""

import mlx.core as mx
import numpy as np

# What SELU saturates to, times -1.
SATURATION = 1.6732632423543772 * 1.0507009873554805


def split(key):
    """The next key of a layer, and the one that it draws with; of each key in a batch."""
    pairs = [np.array(mx.random.split(mx.array(one))) for one in np.atleast_2d(key)]
    both = np.stack(pairs, 1) if pairs else np.zeros((2, 0, 2), np.uint32)
    return both[:, 0] if key.ndim == 1 else both


def fold_in(key, data):
    """``draw(key + draw([0x9E3779B9, data]))`` of one key, or of each key in a batch."""
    if key.ndim > 1:
        return np.array([fold_in(one, data) for one in key], np.uint32).reshape(-1, 2)
    return _draw(key + _draw(np.array([0x9E3779B9, data], np.uint32)))


def _draw(words):
    return np.array(mx.random.split(mx.array(words), 1))[0]


def by_example(draw, shape, key, rate):
    """What a batch of keys draws: example `i` is masked by key `i` alone."""
    if key.ndim == 1:
        return draw(shape, key, rate)
    drawn = []
    for i in range(shape[0]):
        own = rate
        if isinstance(rate, np.ndarray) and rate.ndim == len(shape) and len(rate) > 1:
            own = rate[i : i + 1]
        one = draw((1, *shape[1:]), key[i % len(key)], own)
        drawn.append([np.broadcast_to(part, (1, *shape[1:])) for part in one])
    if not drawn:
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    return tuple(map(np.concatenate, zip(*drawn, strict=True)))


def on_channels(noise, axes=(), groups=None):
    """Draws once for all spatial axes, and once for each group of channels."""

    def draw(shape, key, rate):
        mask_shape = [1 if axis in axes else n for axis, n in enumerate(shape)]
        repeats = 1
        if groups is not None:
            channel = max(axis for axis in range(len(shape)) if axis not in axes)
            mask_shape[channel] = groups
            repeats = shape[channel] // groups
        parts = noise(mask_shape, mx.array(key), rate)
        if repeats == 1:
            return parts
        whole = [np.broadcast_to(part, mask_shape) for part in parts]
        return tuple(np.repeat(part, repeats, channel) for part in whole)

    return draw


def dropping(shape, key, rate):
    scale, shift = keeping(shape, key, rate)
    return _kept(shape, key, rate) * scale, shift


def dropping_alone(shape, key, rate):
    """As dropping, but what is kept stays as it is."""
    ones = _where_some_are_kept(rate, lambda p: 1 + 0 * p)
    return _kept(shape, key, rate) * ones, np.float32(0)


def keeping(shape, key, rate):
    """As dropping, where all is kept."""
    return _where_some_are_kept(rate, lambda p: 1 / (1 - p)), np.float32(0)


def alpha(shape, key, rate):
    if _is_zero(rate):
        return np.float32(1), np.float32(0)
    kept = _kept(shape, key, rate)
    scale = _where_some_are_kept(
        rate, lambda p: ((1 - p) * (1 + p * SATURATION**2)) ** -0.5
    )
    shift = scale * -SATURATION * ((1 - kept) - rate)
    return kept * scale, np.asarray(shift, np.float32)


def gaussian(shape, key, rate):
    mean = _where_some_are_kept(rate, lambda p: 1 + 0 * p)
    deviation = _where_some_are_kept(rate, lambda p: (p / (1 - p)) ** 0.5)
    return mean + np.array(mx.random.normal(shape, key=key)) * deviation, np.float32(0)


def concrete(temperature):
    def draw(shape, key, rate):
        uniform = np.array(mx.random.uniform(shape=shape, key=key)).astype(np.float64)
        rate = np.asarray(rate, np.float64)
        logit = np.log(rate / (1 - rate))
        with np.errstate(all="ignore"):
            odds = np.exp((logit + np.log(uniform / (1 - uniform))) / temperature)
        return (1 / (1 + odds) / (1 - rate)).astype(np.float32), np.float32(0)

    return draw


def thin(axis):
    """A fixed number of entries along an axis is kept, the same for all else."""

    def draw(shape, key, rate):
        length = shape[axis]
        kept = _number_kept(length, rate)
        mask = np.zeros(length, np.float32)
        if kept == length:
            mask[:] = 1
        else:
            order = np.array(mx.random.permutation(length, key=mx.array(key.reshape(2))))
            mask[order[:kept]] = np.float32(length / kept)
        ones = [1] * len(shape)
        ones[axis] = length
        return mask.reshape(ones), np.float32(0)

    return draw


def tokens_left(shape, key, rate, prefix=1):
    """The index of the tokens that each example keeps, behind a prefix that stays."""
    examples, tokens = shape[0], shape[1] - prefix
    kept = _number_kept(tokens, rate)
    if kept == tokens:
        return ...
    keys = key if key.ndim > 1 else [fold_in(key, i) for i in range(examples)]
    orders = [mx.random.permutation(tokens, key=mx.array(own)) for own in keys]
    chosen = [prefix + np.sort(np.array(order)[:kept]) for order in orders]
    places = [np.concatenate([np.arange(prefix), some]) for some in chosen]
    places = np.reshape(places, (len(keys), prefix + kept)).astype(int)
    return np.arange(examples)[:, None], places


def _number_kept(length, rate):
    return min(length, max(1, round((1 - rate) * length)))


def keeps_all(rate, shape=None, axis=None):
    """Whether a layer draws nothing, so that its key stays as it is."""
    if axis is None:
        return _is_zero(rate)
    return _number_kept(shape[axis], rate) == shape[axis]


def _is_zero(rate):
    return not isinstance(rate, np.ndarray) and rate == 0


def _kept(shape, key, rate):
    kept = mx.array(1 - rate) if isinstance(rate, np.ndarray) else 1 - rate
    return np.array(mx.random.bernoulli(kept, shape, key=key)).astype(np.float32)


def _where_some_are_kept(rate, formula):
    """The formula in double precision for a number, in single for an array; 0 for 1."""
    if not isinstance(rate, np.ndarray):
        return np.float32(0 if rate == 1 else formula(float(rate)))
    with np.errstate(divide="ignore"):
        return np.where(rate == 1, np.float32(0), formula(rate)).astype(np.float32)


def is_of_blocks(mask, size, axes):
    """Whether what is dropped is a union of blocks, which the border may cut."""
    dropped = np.asarray(mask) == 0
    pad = [(size - 1, size - 1) if axis in axes else (0, 0) for axis in range(mask.ndim)]
    # Outside of the border everything may be dropped.
    wide = np.pad(dropped, pad, constant_values=True)
    windows = np.lib.stride_tricks.sliding_window_view(wide, [size] * len(axes), axes)
    full = windows.all(tuple(range(-len(axes), 0)))
    covered = np.zeros_like(wide)
    for offset in np.ndindex(*[size] * len(axes)):
        place = [slice(None)] * mask.ndim
        for axis, start in zip(axes, offset, strict=True):
            place[axis] = slice(start, start + full.shape[axis])
        covered[tuple(place)] |= full
    inner = [
        slice(before, before + n) for (before, _), n in zip(pad, mask.shape, strict=True)
    ]
    return bool(np.array_equal(covered[tuple(inner)] & dropped, dropped))
