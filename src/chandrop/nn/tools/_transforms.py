"""MLX's vmap, checkpoint and compile, wrapped so that a layer's own key is right in them.

Where no layer draws by its own key they change nothing, except that a compiled function
runs uncompiled inside ``mx.vmap``.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import update_wrapper, wraps
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from chandrop import _mlx
from chandrop._global_stream import stream_state
from chandrop.nn._call_context import (
    Draws,
    call_context,
    call_in,
    in_context,
    is_constant,
)
from chandrop.nn.layers._keyed_layer import KeyedLayer, key_from_global_stream
from chandrop.nn.tools._recomputation import call_checkpointed


def wrap_transforms(on: bool = True) -> None:
    """Wraps ``mx.vmap``, ``mx.checkpoint`` and ``mx.compile``, or takes the wrappers off.

    Importing :mod:`chandrop.nn` wraps them. With the wrappers, a layer that draws by its
    own key is right under these functions without being asked:

    - ``mx.vmap``: member ``i`` is masked by ``fold_in(subkey, i)``, where ``subkey`` is
      what the layer splits off for this call.
    - ``mx.checkpoint``: the recomputation sees the keys, modes and rates of the call.
    - ``mx.compile``: a function that does not carry the keys raises, where every call would
      repeat one mask.

    Functions that draw nothing, and layers that are given a key, behave as without them,
    except that a compiled function runs uncompiled inside ``mx.vmap``. A function that was
    made with the wrappers on keeps its wrapper.

    Args:
        on: whether to wrap them. Calling it twice is the same as calling it once.

    Example:
        >>> import mlx.core as mx
        >>> from chandrop.nn import Dropout, wrap_transforms
        >>> layer = Dropout(0.5, key=mx.random.key(0))
        >>> def different_members():
        ...     first, second = mx.vmap(layer)(mx.ones((2, 64)))
        ...     return not mx.array_equal(first, second)
        >>> wrap_transforms(False)
        >>> different_members()
        False
        >>> wrap_transforms()
        >>> different_members()
        True

    Source: JAX's ``fold_in(key, index)`` for each member of a ``vmap``; Flax's lifted
    ``remat``, whose recomputation sees the same keys.
    """
    for name, wrapper in _WRAPPERS.items():
        own = getattr(_mlx, name)
        old, new = (own, wrapper) if on else (wrapper, own)
        # What others have put in its place stays.
        if getattr(mx, name) is old:
            setattr(mx, name, new)


def seen_before() -> list[str]:
    """Names where other modules hold MLX's own functions, which no wrapper reaches."""
    own = [getattr(_mlx, name) for name in _WRAPPERS]
    return [
        f"{place}.{name}"
        for place, module in list(sys.modules.items())
        if place.split(".")[0] not in ("mlx", "chandrop")
        for name, value in list(getattr(module, "__dict__", {}).items())
        if any(value is function for function in own)
    ]


class _Transformed:
    """What a wrapper returns. Like MLX's own, it does not become a method in a class."""

    def __init__(self, call: Callable[..., Any], fun: Callable[..., Any]):
        update_wrapper(self, fun, updated=())
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


class _Compiled(_Transformed):
    """What the wrapper of mx.compile returns."""

    __wrapped__: Callable[..., Any]


@wraps(_mlx.vmap)
def vmap(fun: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> _Transformed:
    """Hands each member its index, as one more argument that is mapped over."""
    plain = _mlx.vmap(fun, in_axes, out_axes)

    def call(*args: Any, **kwargs: Any) -> Any:
        axes = _axes_of_arguments(in_axes, args)
        length = next(_mapped_lengths(args, axes), None)
        if length is None or kwargs:
            # MLX says what is wrong.
            return plain(*args, **kwargs)

        def member(index: mx.array, *args: Any) -> Any:
            with in_context(members=(*call_context.get().members, index)):
                return call_in("mx.vmap", fun, *args)

        indices = mx.arange(length, dtype=mx.uint32)
        return _mlx.vmap(member, (0, *axes), out_axes)(indices, *args)

    return _Transformed(call, fun)


def _axes_of_arguments(in_axes: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gives each argument its axes, which for a lone argument may stand alone in MLX."""
    if len(args) == 1:
        lone = isinstance(in_axes, tuple) and len(in_axes) == 1
        return in_axes if lone and isinstance(args[0], mx.array) else (in_axes,)
    return in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)


def _mapped_lengths(tree: Any, axes: Any) -> Iterator[int]:
    """Gives the lengths of the axes that are mapped over, where they can be told."""
    if isinstance(tree, mx.array):
        if isinstance(axes, int) and -tree.ndim <= axes < tree.ndim:
            yield tree.shape[axes]
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _mapped_lengths(
                value, axes.get(name) if isinstance(axes, dict) else axes
            )
    elif isinstance(tree, (list, tuple)):
        each = axes if isinstance(axes, (list, tuple)) else [axes] * len(tree)
        for value, axis in zip(tree, each, strict=False):
            yield from _mapped_lengths(value, axis)


@wraps(_mlx.checkpoint)
def checkpoint(fun: Callable[..., Any]) -> Any:
    """Lets the recomputation see each layer as it was at the call."""
    if not callable(fun):
        return _mlx.checkpoint(fun)

    def call(*args: Any, **kwargs: Any) -> Any:
        return call_checkpointed(fun, args, kwargs)

    return _Transformed(call, fun)


CARRY = """\
the model's state, where the keys are:
    state = [model.state, optimizer.state]
    step = mx.compile(step, inputs=state, outputs=state)
If you carry it already, the function calls rekey or set_keys with a Python number, which
mx.compile has fixed. Pass the number as an array: step(mx.array(number))."""


class KeysNotCarriedError(ValueError):
    """A compiled function does not carry the keys of its layers."""

    def __init__(self, name: str, layers: list[KeyedLayer]):
        self.layers = layers
        kinds = ", ".join(dict.fromkeys(map(repr, layers)))
        super().__init__(
            f"The compiled function {name} does not carry the keys of its dropout layers, "
            f"{kinds}, so every call would repeat one mask. If it updates the model, build "
            "model and optimizer anew, since mx.compile has left arrays of its trace in "
            f"them. Then carry {CARRY}\n"
            "chandrop.nn.check_step names the layers' paths."
        )


@wraps(_mlx.compile)
def compile(
    fun: Callable[..., Any],
    inputs: Any = None,
    outputs: Any = None,
    shapeless: bool = False,
) -> Any:
    """Raises, once MLX has traced the function, if a layer's key is not carried."""
    if not callable(fun):
        return _mlx.compile(fun)
    if isinstance(fun, _Compiled):
        # As a user does who adds what an error has asked for.
        fun = fun.__wrapped__
    # One more input, which has no value only while MLX traces the function.
    sentinel = [mx.array(0)]
    # The layers that have drawn in the last trace, and those that repeat their masks.
    drawn: list[KeyedLayer] = []
    frozen: list[KeyedLayer] = []

    def traced(*args: Any, **kwargs: Any) -> Any:
        if is_constant(sentinel[0]):
            # Compiling is off, or an argument belongs to a transform around.
            return fun(*args, **kwargs)
        draws = Draws()
        with in_context(trace=draws):
            if is_constant(stream_state()):
                result = call_in("mx.compile", fun, *args, **kwargs)
            else:
                # It carries MLX's global stream, and draws other numbers at each call.
                result = fun(*args, **kwargs)
        drawn.extend(draws.drawn)
        frozen.extend(draws.frozen)
        return result

    compiled = _mlx.compile(traced, [sentinel, inputs], outputs, shapeless)

    def call(*args: Any, **kwargs: Any) -> Any:
        around = call_context.get()
        if around.members:
            # As MLX does where an argument is mapped over; the indices always are.
            return fun(*args, **kwargs)
        # MLX has to finish the trace. An error inside would leave its arrays in what is
        # carried, the global random state and the optimizer among it.
        result = compiled(*args, **kwargs)
        if drawn:
            frozen.extend(_left_traced(drawn, inputs, outputs))
            drawn.clear()
        if frozen:
            if around.trace is None:
                name = getattr(fun, "__name__", type(fun).__name__)
                raise KeysNotCarriedError(name, frozen)
            around.trace.frozen.extend(frozen)
        return result

    return _Compiled(call, fun)


def _left_traced(
    layers: list[KeyedLayer], inputs: Any, outputs: Any
) -> Iterator[KeyedLayer]:
    """Gives the layers whose keys are among the inputs of a trace, but not the outputs.

    What they hold is left in the trace, so they get new keys.
    """
    taken, given = ({id(array) for array in _arrays(tree)} for tree in (inputs, outputs))
    for layer in layers:
        key = layer._key
        if id(key) in taken - given and not is_constant(key):
            layer._key = key_from_global_stream()
            yield layer


def _arrays(tree: Any) -> Iterable[Any]:
    return dict(tree_flatten(tree)).values()


_WRAPPERS = {"vmap": vmap, "checkpoint": checkpoint, "compile": compile}
