import copy
from collections.abc import Callable
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from chandrop._mlx import vmap
from chandrop.functional._arguments import as_rate, check_dtype, check_input, is_zero
from chandrop.nn._layers_of_the_call import check_not_in_use, path_in_the_call
from chandrop.nn._surroundings import (
    NOTHING,
    key_of_member,
    note,
    note_draw,
    note_new,
    surroundings,
)
from chandrop.nn._words_of_others import WORDS_FOR_RATE, check_words, declares
from chandrop.random import check_key
from chandrop.random._place import with_place_of, without_place

Result = TypeVar("Result")


class KeyedLayer(nn.Module):
    """A layer that holds a dropout rate and a key, and advances the key at every draw.

    The key is the array attribute ``_key``. The underscore keeps it out of
    ``parameters()``, so optimizers, weights files and ``set_dtype`` never see it; as an
    array it is in ``state``, so ``mx.compile(step, inputs=state, outputs=state)`` carries
    it from step to step. So does an array of rates, ``_p``.

    The rate may be set: ``layer.p = 0.2``. As an array, ``layer.p = mx.array(0.2)``, it may
    change at every step of a compiled function, without a retrace.

    A copy gets a key of its own, since ``[deepcopy(layer) for _ in range(n)]`` is how
    people build stacks; a pickle keeps the key.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "KeyedLayer":
        """Makes a layer, and names its class where it is given a wrong argument."""
        if kwargs or len(args) > 1:
            check_words(cls, args, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, p: float | mx.array, key: mx.array | None):
        super().__init__()
        self.p = p
        if key is None:
            key = key_from_global_stream()
            note_new(self)
        check_key(key)
        if key.ndim != 1:
            raise ValueError(
                f"Received keys of shape {key.shape}. Expected one key, (2,); a batch of "
                "keys is given at the call: layer(x, key=keys)."
            )
        self._key = key

    @property
    def p(self) -> float | mx.array:
        """The rate."""
        return self._p

    @p.setter
    def p(self, p: float | mx.array) -> None:
        as_rate(p)
        self._p = p

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "p":
            # nn.Module would not call the setter, but make an array a parameter.
            object.__setattr__(self, name, value)
        elif name in WORDS_FOR_RATE and not declares(type(self), name):
            raise AttributeError(
                f"Received {name} for a {type(self).__name__}, which would change nothing. "
                "Expected p: layer.p = 0.2."
            )
        elif not name.startswith("_") and hasattr(self, f"_{name}"):
            raise AttributeError(
                f"A layer's {name} cannot be set. A key is given at the call, layer(x, "
                "key=key), or by chandrop.nn.rekey or set_keys; train() and eval() set the "
                "mode; for anything else but p build a new layer."
            )
        else:
            super().__setattr__(name, value)

    def __call__(self, x: mx.array, *, key: mx.array | None = None) -> mx.array:
        """Drops in training mode; gives `x` back in eval mode.

        Args:
            x: the input.
            key: what to draw with: one key ``(2,)``, or one for each example ``(B, 2)``, or
                one for all examples alike ``(1, 2)``; the layer's own then stays as it is.
                Default: the layer splits its own key, draws with one half and keeps the
                other.
        """
        return self._with_its_path(key, lambda: self._call(x, key))

    def _call(self, x: mx.array, key: mx.array | None) -> mx.array:
        check_input(x)
        check_dtype(x.dtype)
        self._check_axes(x)
        if key is not None:
            check_key(key)
        if not self.training:
            return x
        return self._by_key(key, lambda key: self._drop(x, key), self._keeps_all(x))

    def _with_its_path(
        self, key: mx.array | None, function: Callable[[], Result]
    ) -> Result:
        """Calls a function that draws by `key`; its errors name the layer's path."""
        if key is None:
            check_not_in_use(self)
        path = None
        if surroundings.get() is not NOTHING:
            if self.training and key is None:
                path = path_in_the_call(self)
            note(self, path)
        try:
            return function()
        except (TypeError, ValueError) as error:
            if not path:
                raise
            raise type(error)(f'In the dropout layer at "{path}": {error}') from error

    def _by_key(
        self, key: mx.array | None, draw: Callable[[mx.array], Result], keeps_all: bool
    ) -> Result:
        """Gives ``draw(key)``, with the layer's next key if none is given."""
        if key is not None:
            return draw(key)
        own: mx.array = self._key
        if keeps_all:
            # The output does not depend on the key, so nothing would evaluate the next one,
            # and it would hold all that it was split from.
            return draw(own)
        advanced, key = _split(own)
        if surroundings.get() is not NOTHING:
            note_draw(self, own)
            key = key_of_member(key)
        result = draw(key)
        self._key = advanced
        return result

    def _check_axes(self, x: mx.array) -> None:
        """Raises, in any mode, for an `x` that lacks the layer's axes."""

    def _keeps_all(self, x: mx.array) -> bool:
        """Whether it is known, before a mask is drawn, that all of `x` is kept."""
        return is_zero(self.p)

    def _drop(self, x: mx.array, key: mx.array) -> mx.array:
        """The pure function that the layer stands for."""
        raise NotImplementedError

    def _would_drop(self) -> bool:
        """Whether a call draws a mask that is not known beforehand to keep everything."""
        return self.training and not is_zero(self.p)

    def _extra_repr(self) -> str:
        return f"p={self.p}"

    def __copy__(self) -> "KeyedLayer":
        # freeze() changes a set in place.
        return self._copied_into(
            type(self).__new__(type(self)),
            lambda value: set(value) if isinstance(value, set) else value,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "KeyedLayer":
        memo[id(self)] = copied = type(self).__new__(type(self))
        return self._copied_into(copied, lambda value: copy.deepcopy(value, memo))

    def _copied_into(
        self, copied: "KeyedLayer", copy_of: Callable[[Any], Any]
    ) -> "KeyedLayer":
        """Fills a copy of this layer, with a key of its own."""
        for name, value in self.items():
            copied[name] = copy_of(value)
        for name, value in vars(self).items():
            vars(copied)[name] = copy_of(value)
        copied._key = key_from_global_stream()
        note_new(copied)
        return copied


def _split(key: mx.array) -> tuple[mx.array, mx.array]:
    """Gives the two keys of ``mx.random.split``, faster than by unpacking its rows.

    Of a batch of keys, it splits each.
    """
    # RandomBits has no derivative, so a key that is being differentiated must not reach it.
    key = mx.stop_gradient(key)
    if key.ndim == 1:
        # Not mx.split: mx.compile fails where a checkpoint repeats one of which the second
        # output alone is used (IndexError: _Map_base::at).
        words = mx.random.split(without_place(key)).flatten()
        return with_place_of(key, words[:2]), with_place_of(key, words[2:])
    # MLX divides by the number of keys.
    if key.shape[0] == 0:
        return key, key
    pairs = vmap(lambda key: mx.random.split(key))(without_place(key))
    return with_place_of(key, pairs[:, 0]), with_place_of(key, pairs[:, 1])


def key_from_global_stream() -> mx.array:
    # Sixteen bits a draw, because mx.random.randint has only 24 random ones.
    halves = mx.random.randint(0, 2**16, (2, 2)).astype(mx.uint32)
    return halves[0] * 2**16 + halves[1]
