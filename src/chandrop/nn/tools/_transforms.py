"""MLX's transforms, wrapped so that a layer's own key is right there, or an error."""

import sys
from collections.abc import Callable, Iterator
from functools import update_wrapper, wraps
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from chandrop import _mlx
from chandrop._checks import check_flag
from chandrop._global_stream import stream_state
from chandrop.nn._call_context import Draws, call_context, call_in, in_context, is_constant
from chandrop.nn.layers._keyed_layer import KeyedLayer, key_from_global_stream
from chandrop.nn.tools._checkpoint import call_checkpointed


def wrap_transforms(on: bool = True) -> None:
    """Wraps ``mx.vmap``, ``checkpoint``, ``compile`` and export, or unwraps them.

    Importing :mod:`chandrop.nn` wraps them, so that layers may draw by their own keys:

    - ``mx.vmap`` masks member ``i`` by ``fold_in(subkey, i)``, where ``subkey`` is what the
      layer splits off for the call, and raises for 0 members, where a draw would end the
      process;
    - ``mx.checkpoint`` recomputes with the keys, modes and rates of the call;
    - ``mx.compile``, ``mx.export_function`` and ``mx.exporter`` raise where every call
      would draw the same, since the function does not carry the keys.

    Nothing else changes, except that a compiled function runs uncompiled inside
    ``mx.vmap``. A function that was made with a wrapper keeps it.

    Args:
        on: whether to wrap them; False puts MLX's own back. Default: True.

    Raises:
        TypeError: `on` is not a bool.

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

    Source: JAX's ``fold_in(key, index)`` under ``vmap``, and Flax's lifted ``remat``.
    """
    check_flag(on, "on")
    for name, wrapper in _WRAPPERS.items():
        own = getattr(_mlx, name)
        old, new = (own, wrapper) if on else (wrapper, own)
        # A function that others have put there stays.
        if getattr(mx, name) is old:
            setattr(mx, name, new)


def unwrapped_imports() -> list[str]:
    """Returns where other modules hold MLX's own functions, which no wrapper reaches."""
    own = [getattr(_mlx, name) for name in _WRAPPERS]
    return [
        f"{module_name}.{name}"
        for module_name, module in list(sys.modules.items())
        if module_name.split(".")[0] not in ("mlx", "chandrop")
        for name, value in list(getattr(module, "__dict__", {}).items())
        if any(value is function for function in own)
    ]


class _Transformed:
    """What a wrapper returns. Like MLX's own, it does not become a method in a class."""

    __wrapped__: Callable[..., Any]

    def __init__(self, call: Callable[..., Any], fun: Callable[..., Any]):
        update_wrapper(self, fun, updated=())
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


class _Compiled(_Transformed):
    pass


@wraps(_mlx.vmap)
def vmap(fun: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> _Transformed:
    """Maps over the members' indices, too, which layers fold into their keys."""
    plain = _mlx.vmap(fun, in_axes, out_axes)

    def call(*args: Any, **kwargs: Any) -> Any:
        axes = _axes_of_arguments(in_axes, args)
        length = next(_mapped_lengths(args, axes), None)
        if length is None or kwargs:
            # MLX raises its own error.
            return plain(*args, **kwargs)
        if length == 0:
            # MLX's random functions divide by it.
            raise ValueError(
                "Received arguments of length 0: vmap over 0 members, where a random draw "
                "ends the process (SIGFPE). Skip the call for an empty batch."
            )

        def member(index: mx.array, *args: Any) -> Any:
            with in_context(members=(*call_context.get().members, index)):
                return call_in("mx.vmap", fun, *args)

        indices = mx.arange(length, dtype=mx.uint32)
        return _mlx.vmap(member, (0, *axes), out_axes)(indices, *args)

    return _Transformed(call, fun)


def _axes_of_arguments(in_axes: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the axes of each argument; in MLX those of a lone one may stand alone."""
    if len(args) == 1:
        lone = isinstance(in_axes, tuple) and len(in_axes) == 1
        return in_axes if lone and isinstance(args[0], mx.array) else (in_axes,)
    return in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)


def _mapped_lengths(tree: Any, axes: Any) -> Iterator[int]:
    """Yields the lengths of the axes that are mapped over, as far as they are valid."""
    if isinstance(tree, mx.array):
        if isinstance(axes, int) and -tree.ndim <= axes < tree.ndim:
            yield tree.shape[axes]
    elif isinstance(tree, dict):
        for name, value in tree.items():
            each = axes.get(name) if isinstance(axes, dict) else axes
            yield from _mapped_lengths(value, each)
    elif isinstance(tree, (list, tuple)):
        each = axes if isinstance(axes, (list, tuple)) else [axes] * len(tree)
        for value, axis in zip(tree, each, strict=False):
            yield from _mapped_lengths(value, axis)


@wraps(_mlx.checkpoint)
def checkpoint(fun: Callable[..., Any]) -> Any:
    """Lets the recomputation see each layer as it was at the call."""
    if not callable(fun):
        return _mlx.checkpoint(fun)
    return _Transformed(lambda *args, **kwargs: call_checkpointed(fun, args, kwargs), fun)


CARRY = """\
the model's state, where the keys are:
    state = [model.state, optimizer.state]
    step = mx.compile(step, inputs=state, outputs=state)
If you carry it already, the list may be older than the model: make it after the model.
Or the function calls rekey or set_keys with a Python number, which mx.compile has fixed.
Pass the number as an array: step(mx.array(number))."""


class KeysNotCarriedError(ValueError):
    """A compiled function does not carry the keys of its layers."""

    def __init__(self, name: str, layers: list[KeyedLayer]):
        self.layers = layers
        super().__init__(
            f"The compiled function {name} does not carry the keys of its random layers, "
            f"{_kinds(layers)}, so every call would draw the same. If it updates the "
            "model, rebuild the model and the optimizer, since mx.compile has left arrays "
            f"of its trace in them. Then carry {CARRY}\n"
            "chandrop.nn.check_step names the layers' paths."
        )


@wraps(_mlx.compile)
def compile(
    fun: Callable[..., Any],
    inputs: Any = None,
    outputs: Any = None,
    shapeless: bool = False,
) -> Any:
    """Raises after MLX has traced the function if it does not carry a layer's key."""
    if not callable(fun):
        return _mlx.compile(fun)
    if isinstance(fun, _Compiled):
        # A user compiles it again, as the error asks for.
        fun = fun.__wrapped__
    # One more input, which has no value only while MLX traces the function.
    sentinel = [mx.array(0)]
    # The layers that drew in the last trace, and those that would repeat their masks.
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
                # It carries MLX's global stream, so each call draws other numbers.
                result = fun(*args, **kwargs)
        drawn.extend(draws.drawn)
        frozen.extend(draws.frozen)
        return result

    compiled = _mlx.compile(traced, [sentinel, inputs], outputs, shapeless)

    def call(*args: Any, **kwargs: Any) -> Any:
        context = call_context.get()
        if context.members:
            # MLX does not compile where an argument is mapped over; the indices are.
            return fun(*args, **kwargs)
        # MLX has to finish the trace: an error inside would leave tracers in what it
        # carries, such as the global random state and the optimizer.
        result = compiled(*args, **kwargs)
        if drawn:
            frozen.extend(_left_in_trace(drawn, inputs, outputs))
            drawn.clear()
        if frozen:
            if context.trace is None:
                raise KeysNotCarriedError(
                    getattr(fun, "__name__", type(fun).__name__), frozen
                )
            context.trace.frozen.extend(frozen)
        return result

    return _Compiled(call, fun)


def _left_in_trace(
    layers: list[KeyedLayer], inputs: Any, outputs: Any
) -> Iterator[KeyedLayer]:
    """Yields layers whose keys a trace takes but does not return, with new keys."""
    taken, returned = (
        {id(array) for array in dict(tree_flatten(tree)).values()}
        for tree in (inputs, outputs)
    )
    for layer in layers:
        key = layer._key
        if id(key) in taken - returned and not is_constant(key):
            layer._key = key_from_global_stream()
            yield layer


@wraps(_mlx.export_function)
def export_function(
    file_or_callback: Any, fun: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    """Raises where the file would hold draws by a layer's own key."""
    _mlx.export_function(file_or_callback, _exported(fun), *args, **kwargs)


@wraps(_mlx.exporter)
def exporter(file: str, fun: Callable[..., Any], **kwargs: Any) -> Any:
    """As :func:`export_function`."""
    return _mlx.exporter(file, _exported(fun), **kwargs)


def _exported(fun: Callable[..., Any]) -> Callable[..., Any]:
    if not callable(fun):
        return fun

    def exported(*args: Any, **kwargs: Any) -> Any:
        draws = Draws()
        with in_context(trace=draws):
            result = fun(*args, **kwargs)
        if draws.frozen:
            raise ValueError(
                "The exported function holds the keys of its random layers, "
                f"{_kinds(draws.frozen)}, so every call would draw the same. Switch them "
                "off, model.eval(), or make the key an argument: layer(x, key=key), or "
                "functional_call(model, {}, x, key=key)."
            )
        return result

    return exported


def _kinds(layers: list[KeyedLayer]) -> str:
    return ", ".join(dict.fromkeys(map(repr, layers)))


_WRAPPERS: dict[str, Callable[..., Any]] = {
    wrapper.__name__: wrapper
    for wrapper in (vmap, checkpoint, compile, export_function, exporter)
}
