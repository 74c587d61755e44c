import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx
import mlx.nn as nn

from chandrop._checks import check_keys_of_batch
from chandrop._mlx import vmap
from chandrop.nn._call_context import (
    NO_CONTEXT,
    call_context,
    path_in_tool_call,
    record_draw,
    record_new,
    record_state,
)
from chandrop.nn._snapshot import Snapshot
from chandrop.nn._threads import check_not_in_use
from chandrop.nn.layers._foreign_keywords import check_arguments
from chandrop.random import Key, check_key

if TYPE_CHECKING:
    from typing_extensions import Self

Input = TypeVar("Input")


class KeyedLayer(nn.Module):
    """A random layer: it holds a key, and advances the key whenever it draws.

    Subclass it and define :meth:`draw` for a random layer of your own. It then works with
    :func:`functional_call`, :func:`rekey`, :func:`checkpoint`, ``mx.vmap``, ``mx.compile``
    and :func:`chandrop.uncertainty.predict`, as chandrop's own layers do.

    The key is the array attribute ``_key``. The underscore keeps it out of
    ``parameters()``, so optimizers, weights files and ``set_dtype`` never see it; as an
    array it is in ``state``, so ``mx.compile(step, inputs=state, outputs=state)`` carries
    it from step to step. A copy gets a key of its own, since people build stacks by
    ``[deepcopy(layer) for _ in range(n)]``; a pickle keeps the key.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import KeyedLayer
        >>> class Noise(KeyedLayer):
        ...     def draw(self, x, key):
        ...         return x + 0.1 * mx.random.normal(x.shape, key=key)
        >>> Noise()(mx.ones((8, 128))).shape
        (8, 128)
    """

    # Whether the output for one example depends on the others, so a key alone does not
    # determine a subnetwork.
    depends_on_batch = False
    # Whether draw takes a batch of keys, and not one key alone.
    _draws_batches = False
    # Whether the layer draws in eval mode, too.
    _draws_in_eval_mode = False

    def __new__(cls, *args: Any, **kwargs: Any) -> "Self":
        """Creates a layer; an error about its arguments names its class."""
        if args or kwargs:
            check_arguments(cls, args, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *, key: Key | None = None):
        """Creates a layer in training mode.

        Args:
            key: the initial key, ``(2,)``. Default: drawn from MLX's global stream, so
                ``mx.random.seed`` makes a run repeatable.

        Raises:
            TypeError: `key` is not a ``uint32`` array.
            ValueError: `key` is not one key.
        """
        super().__init__()
        if key is None:
            key = key_from_global_stream()
            record_new(self)
        check_key(key)
        if key.ndim != 1:
            raise ValueError(
                f"Received keys of shape {key.shape}. Expected one key, (2,); pass a batch "
                "of keys to the call: layer(x, key=keys)."
            )
        self._key = key

    def draw(self, x: mx.array, key: Key) -> mx.array:
        """Returns the layer's output in training mode; override it.

        Args:
            x: the input. Where a call has a key for each example, this is one example,
                without the batch axis, so count axes from the last. The layer may not
                change its arrays then.
            key: one key, ``(2,)``. Give layers that this one holds a key derived from it:
                ``self.dropout(x, key=fold_in(key, 1))``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define draw(x, key).")

    def __call__(self, x: mx.array, *, key: Key | None = None) -> mx.array:
        """Draws in training mode; returns `x` in eval mode.

        Args:
            x: the input.
            key: the key to draw with: one key ``(2,)``, one for each example ``(B, 2)``, or
                one for all examples alike ``(1, 2)``; the layer's own key then stays as it
                is. Default: the layer splits its own key, draws with one half and keeps the
                other.

        Raises:
            TypeError: `key` is not a ``uint32`` array; see the layer's function.
            ValueError: `key` has the wrong shape; `x` has the wrong rank; see the layer's
                function.
        """
        draw = self.draw if self._draws_batches else self._draw_examples
        y: mx.array = self._call(draw, x, key, self.training)
        return y

    def _call(
        self,
        draw: Callable[[Input, Key], mx.array],
        x: Input,
        key: Key | None,
        drawing: bool = True,
    ) -> Any:
        """Returns ``draw(x, key)``, or `x` if the layer is not `drawing`."""
        own = key is None
        if own:
            check_not_in_use(self)
        context, path = call_context.get(), None
        if context is not NO_CONTEXT:
            if own and drawing:
                path = path_in_tool_call(self)
            record_state(self, path)
        if not drawing:
            self._check(x, key)
            return x
        try:
            if key is not None:
                return draw(x, key)
            # Not by attribute, which nn.Module makes ten times slower.
            own_key: Key = self["_key"]
            # If the output does not depend on the key, then nothing evaluates the next key,
            # which would hold all the keys that it was split from.
            if self._keeps_all(x):
                return draw(x, own_key)
            advanced, key = _split(own_key)
            if context is not NO_CONTEXT:
                key = record_draw(self, own_key, key)
                if context.observe is not None:
                    context.observe(path, x, key)
            y = draw(x, key)
        except (TypeError, ValueError) as error:
            if not path or type(error) not in (TypeError, ValueError):
                raise
            raise type(error)(f'In the layer at "{path}": {error}') from error
        self["_key"] = advanced
        return y

    def _draw_examples(self, x: mx.array, key: Key) -> mx.array:
        """Draws with one key, or draws each example with its own key."""
        check_key(key)
        check_keys_of_batch(key, x)
        if key.ndim == 1:
            return self.draw(x, key)
        if len(key) == 0:  # No example draws, but MLX would divide by their number.
            key = mx.zeros((1, 2), dtype=mx.uint32)
        before = Snapshot(self)
        if len(key) == 1:
            y = vmap(self.draw, (0, None))(x, key[0])
        else:
            y = vmap(self.draw)(x, key)
        if list(map(id, Snapshot(self).arrays)) != list(map(id, before.arrays)):
            before.restore()
            raise ValueError(
                f"A {type(self).__name__} with a key for each example changes its arrays "
                "in draw, such as running statistics, or calls a layer without a key. Call "
                "self.layer(x, key=fold_in(key, 1)), or pass one key."
            )
        return y

    def _check(self, x: Any, key: Key | None) -> None:
        """Raises, in eval mode too, for an input or key that the layer does not take."""
        if key is not None:
            check_key(key)

    def _constant_axes(self, ndim: int) -> Sequence[int]:
        """The axes along which the layer, if it multiplies, multiplies by one number."""
        return ()

    def _keeps_all(self, x: Any = None) -> bool:
        """Whether the output is known not to depend on the key, for `x` or any input."""
        return False

    def _switch(self, on: bool) -> None:
        """Turns the layer on or off for the call of a tool, which restores it."""
        # Not by train(), which would change the modes of modules that it holds.
        self._training = on

    def _would_draw(self) -> bool:
        """Whether a call draws."""
        return (self.training or self._draws_in_eval_mode) and not self._keeps_all()

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            # nn.Module would not call the setter, but make an array a parameter.
            object.__setattr__(self, name, value)
        elif name == "key":
            raise AttributeError(
                "A layer's key cannot be set. Pass it to the call, layer(x, key=key), or "
                "use chandrop.nn.rekey or set_keys."
            )
        else:
            super().__setattr__(name, value)

    def __copy__(self) -> "Self":
        copied = type(self).__new__(type(self))
        for held, own in ((copied, self), (vars(copied), vars(self))):
            for name, value in own.items():
                # freeze() changes a set in place.
                held[name] = set(value) if isinstance(value, set) else value
        copied._key = key_from_global_stream()
        record_new(copied)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "Self":
        memo[id(self)] = copied = copy.copy(self)
        for held in (copied, vars(copied)):
            for name, value in held.items():
                held[name] = copy.deepcopy(value, memo)
        return copied


def _split(key: Key) -> tuple[Key, Key]:
    """Returns the two keys of ``mx.random.split``; splits each key of a batch."""
    # RandomBits has no derivative, so it must not see a key that is differentiated.
    key = mx.stop_gradient(key)
    if key.ndim == 1:
        # Not mx.split: mx.compile fails where a checkpoint repeats one of which the second
        # output alone is used (IndexError: _Map_base::at). Rows take longer than slices.
        words = mx.random.split(key).flatten()
        return words[:2], words[2:]
    # MLX divides by the number of keys.
    if key.shape[0] == 0:
        return key, key
    pairs = vmap(lambda key: mx.random.split(key))(key)
    return pairs[:, 0], pairs[:, 1]


def key_from_global_stream() -> Key:
    """Draws a key from MLX's global stream."""
    # Sixteen bits a draw, because mx.random.randint has only 24 random ones.
    halves = mx.random.randint(0, 2**16, (2, 2)).astype(mx.uint32)
    return halves[0] * 2**16 + halves[1]
