import numbers
from typing import Any

import mlx.core as mx

from chandrop._checks import as_size, check_is_no_key
from chandrop.random import Key, check_key


def keep_channels(key: Key, channels: int, p: float) -> mx.array:
    """Chooses a fixed number of channels to keep, each equally likely.

    Args:
        key: one key, ``(2,)`` or ``(1, 2)``.
        channels: the number of channels, at least 1.
        p: the share of channels to drop: a number in ``[0, 1)``.

    Returns:
        Indices ``(k,)``, ``uint32``, in ascending order, with ``k = max(1, round((1 - p) *
        channels))``. Each set of ``k`` channels is equally likely, so a channel is kept
        with probability ``k / channels``.

    Raises:
        TypeError: `key` is not a ``uint32`` array; `channels` is not an int; `p` is not a
            number (an array would not fix how many are kept).
        ValueError: `key` is not one key; `channels` is not in ``[1, 2**31)``; `p` is not in
            ``[0, 1)``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.thin import keep_channels
        >>> keep_channels(mx.random.key(0), 8, 0.5)
        array([1, 2, 4, 6], dtype=uint32)

    Source: Graham, Reizenstein and Robinson, "Efficient batchwise dropout training using
    submatrices", 2015, who also draw the number of channels.
    """
    check_one_key(key)
    channels = as_size(channels, "channels")
    kept = number_kept(channels, p)
    # RandomBits has no derivative, so it must not see a key that is differentiated.
    key = mx.stop_gradient(key.flatten())
    return mx.sort(mx.random.permutation(channels, key=key)[:kept])


def number_kept(channels: int, p: Any) -> int:
    """Returns how many of the channels are kept."""
    return min(channels, max(1, round((1 - as_fixed_rate(p)) * channels)))


def as_fixed_rate(p: Any) -> float:
    """Converts a rate that fixes how many channels are kept to a float in ``[0, 1)``."""
    if isinstance(p, bool) or not isinstance(p, numbers.Real):
        check_is_no_key(p, "p")
        hint = ": p.item()" if hasattr(p, "item") else ""
        raise TypeError(
            f"Received p of type {type(p).__name__}. Expected a number in [0, 1), since it "
            f"fixes how many channels, examples or tokens are kept{hint}."
        )
    number: Any = p
    if not 0 <= number < 1:
        hint = f": for {p} % pass {number / 100}" if 2 <= number < 100 else ""
        raise ValueError(
            f"Received p = {p}. Expected 0 <= p < 1, as at least one channel, example or "
            f"token is kept{hint}."
        )
    return float(number)


def check_one_key(key: Key) -> None:
    """Raises unless `key` is one key, ``(2,)`` or ``(1, 2)``."""
    check_key(key)
    if key.ndim > 2 or (key.ndim == 2 and key.shape[0] != 1):
        raise ValueError(
            f"Received keys of shape {key.shape}. Expected one key, (2,), as what is kept "
            "is chosen once for the whole batch. For a mask of each example's own: "
            "dropout_channels, Dropout2d or DropPath."
        )
