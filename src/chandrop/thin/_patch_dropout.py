from typing import Any

import mlx.core as mx

from chandrop._checks import as_size, check_input, check_is_no_key, check_keys_of_batch
from chandrop._mlx import vmap
from chandrop.random import Key, check_key, example_keys
from chandrop.thin._keep_channels import keep_channels, number_kept
from chandrop.thin._thin_layer import ThinLayer


def patch_dropout(x: mx.array, p: float, key: Key, prefix_tokens: int = 1) -> mx.array:
    """Keeps a fixed number of the tokens of each example, and leaves out the others.

    Of the ``n`` tokens after the prefix ``k = max(1, round((1 - p) * n))`` are kept, in
    their order and unscaled, so that the rest of the network computes these alone. Put it
    after the position embeddings. Tokens of the prefix, such as class tokens and registers,
    stay.

    Args:
        x: the tokens of a batch, ``(B, N, C)``, of any dtype.
        p: the share of tokens to drop: a number in ``[0, 1)``.
        key: one key ``(2,)``, one for each example ``(B, 2)``, or one for all examples
            alike ``(1, 2)``. One key ``(2,)`` stands for ``example_keys(key, B)``: each
            example keeps a set of its own.
        prefix_tokens: the number of tokens at the beginning that stay.

    Returns:
        An array ``(B, prefix_tokens + k, C)`` of the dtype of `x`. The kept tokens of
        example ``i`` are ``keep_channels(keys[i], n, p)``, counted from the prefix.

    Raises:
        TypeError: `x` is not an array; `prefix_tokens` is not an int; see
            :func:`keep_channels`.
        ValueError: `x` does not have 3 axes, or has fewer tokens than the prefix;
            `prefix_tokens` is negative; `key` has another shape; `p` is not in ``[0, 1)``.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.thin import patch_dropout
        >>> x = mx.broadcast_to(mx.arange(7)[:, None], (2, 7, 16))
        >>> patch_dropout(x, 0.5, mx.random.key(0))[:, :, 0].tolist()
        [[0, 1, 3, 4], [0, 4, 5, 6]]

    Source: Liu, Matsoukas, Strand, Azizpour and Smith, "PatchDropout: economizing vision
    transformers using patch dropout", WACV 2023; Li, Fan, Hu, Feichtenhofer and He,
    "Scaling language-image pre-training via masking", CVPR 2023.
    """
    prefix_tokens = as_size(prefix_tokens, "prefix_tokens", least=0)
    tokens = _tokens_after(prefix_tokens, x)
    check_key(key)
    check_keys_of_batch(key, x)
    kept = number_kept(tokens, p)
    # MLX cannot vmap over no keys.
    if kept == tokens or len(x) == 0:
        return x[:, : prefix_tokens + kept]
    keys = example_keys(key, len(x)) if key.ndim == 1 else key
    places = vmap(lambda key: keep_channels(key, tokens, p))(keys) + prefix_tokens
    prefix = mx.arange(prefix_tokens, dtype=mx.uint32)
    prefix = mx.broadcast_to(prefix, (len(places), prefix_tokens))
    # The prefix is gathered, too: a concatenation takes twice as long with its gradient. To
    # take rows is faster, but its gradient takes three times as long.
    places = mx.concatenate([prefix, places], axis=1)
    return mx.take_along_axis(x, places[..., None], axis=1)


def _tokens_after(prefix_tokens: int, x: Any) -> int:
    """Returns how many tokens follow the prefix; raises for an input without them."""
    check_input(x)
    if x.ndim != 3:
        check_is_no_key(x, "an input")
        fix = "x[None] for one example" if x.ndim < 3 else "x.flatten(1, -2) for an image"
        raise ValueError(
            f"Received an input of shape {x.shape}. Expected 3 axes, (B, N, C), with the "
            f"tokens along axis 1: {fix}."
        )
    tokens: int = x.shape[1] - prefix_tokens
    if tokens < 0:
        raise ValueError(
            f"Received prefix_tokens = {prefix_tokens} for an input of shape {x.shape}. "
            f"Expected at most {x.shape[1]}, as many as there are tokens along axis 1."
        )
    return tokens


class PatchDropout(ThinLayer):
    """Keeps a fixed number of the tokens of each example, and leaves out the others.

    In a vision transformer, after the position embeddings: the layers that follow compute
    the kept tokens alone. See :func:`patch_dropout`.

    Shape:
        Input: ``(B, N, C)``, of any dtype. Output: fewer tokens along axis 1; in eval
        mode, the input.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.thin import PatchDropout
        >>> PatchDropout(0.75)(mx.ones((8, 1 + 196, 192))).shape
        (8, 50, 192)
    """

    _draws_batches = True

    def __init__(self, p: float, prefix_tokens: int = 1, *, key: Key | None = None):
        """Creates a layer in training mode.

        Args:
            p: the share of tokens to drop: a number in ``[0, 1)``.
            prefix_tokens: the number of tokens at the beginning that stay. Default: 1, a
                class token.
            key: the initial key, ``(2,)``; see :class:`chandrop.nn.KeyedLayer`.

        Raises:
            TypeError: `p` is not a number; `prefix_tokens` is not an int; `key` is not a
                ``uint32`` array.
            ValueError: `p` is not in ``[0, 1)``; `prefix_tokens` is negative; `key` is not
                one key.
        """
        super().__init__(p, key=key)
        self._prefix_tokens = as_size(prefix_tokens, "prefix_tokens", least=0)

    def draw(self, x: mx.array, key: Key) -> mx.array:
        return patch_dropout(x, self.p, key, self._prefix_tokens)

    def _check(self, x: Any, key: Key | None) -> None:
        # Of any dtype.
        _tokens_after(self._prefix_tokens, x)
        if key is not None:
            check_key(key)

    def _keeps_all(self, x: Any = None) -> bool:
        if isinstance(x, mx.array) and x.ndim > 1:
            x = x.shape[1] - self._prefix_tokens
        return super()._keeps_all(x)

    def _extra_repr(self) -> str:
        prefix = f", prefix_tokens={self._prefix_tokens}" * (self._prefix_tokens != 1)
        return f"{super()._extra_repr()}{prefix}"
