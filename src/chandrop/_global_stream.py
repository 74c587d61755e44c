"""MLX's global stream of random numbers, which functions without a key draw from."""

from typing import Any

import mlx.core as mx


def stream_state() -> mx.array:
    """Returns the key of the stream: another object after each draw, also in a trace."""
    state: Any = mx.random.state
    key: mx.array = state[0]
    return key


def set_stream(words: Any) -> None:
    """Sets the key of the stream, by its two words: ``stream_state().tolist()``."""
    # It cannot be assigned since MLX 0.32.1, but a seed is the words of a key.
    mx.random.seed(words[0] << 32 | words[1])
