import re
from collections.abc import Sequence
from functools import wraps
from types import MethodType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from chandrop._checks import as_axes, axes_and_mask_shape, of_type
from chandrop._mlx import batched_as
from chandrop.functional import Rate, dropout_channels
from chandrop.nn.layers._dropout_layer import DropoutLayer
from chandrop.nn.layers._keyed_layer import KeyedLayer
from chandrop.random import Key, check_key

_CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
# What the layer holds beside what the module does.
_OWN = frozenset({"_key", "_p", "_kind", "_name", "_on", "_spatial_axes"})


class WeightDropout(DropoutLayer):
    """Drops entries of a module's parameter in each training call: DropConnect.

    It takes the place of the module: ``model.linear = WeightDropout(model.linear, 0.5)``.
    All parameters keep their names, so weights files fit both ways, and their whole values,
    which the optimizer trains. A training call uses
    ``dropout_channels(weight, p, key, spatial_axes)``, one for all examples:

    - ``WeightDropout(nn.Linear(16, 8), 0.5)`` is DropConnect;
    - ``WeightDropout(nn.LSTM(16, 8), 0.5, name="Wh")`` drops connections between the states
      of an LSTM, the same at all time steps, as AWD-LSTM does;
    - ``WeightDropout(nn.Embedding(1000, 16), 0.1, spatial_axes=1)`` drops words, each
      wherever it occurs.

    The module's own attributes and methods are there, too, with the whole parameter, as for
    a tied decoder: ``layer.as_linear(x)``. ``nn.quantize`` and mlx-lm's LoRA leave the
    layer as it is. Put it in every place where the module is.

    Example:
        >>> import mlx.core as mx
        >>> import mlx.nn as nn
        >>> from chandrop.nn import WeightDropout
        >>> layer = WeightDropout(nn.Linear(16, 8), 0.5)
        >>> layer(mx.ones((4, 16))).shape
        (4, 8)
        >>> sorted(layer.parameters())
        ['bias', 'weight']

    Source: Wan, Zeiler, Zhang, LeCun and Fergus, "Regularization of neural networks using
    DropConnect", ICML 2013; for words, Gal and Ghahramani, "A theoretically grounded
    application of dropout in recurrent neural networks", NeurIPS 2016; for ``Wh``, Merity,
    Keskar and Socher, "Regularizing and optimizing LSTM language models", ICLR 2018.
    """

    _kind: type[nn.Module]
    _name: str
    _spatial_axes: tuple[int, ...]
    # Whether a tool has turned the layer on: the mode is that of the module, too.
    _on: bool | None = None

    def __init__(
        self,
        module: nn.Module,
        p: Rate,
        spatial_axes: int | Sequence[int] = (),
        *,
        name: str = "weight",
        key: Key | None = None,
    ):
        """Takes over what a module holds: its arrays, submodules, mode and frozen names.

        Args:
            module: any module with parameters of its own.
            p: the dropout rate: a number in ``[0, 1]``, or an array of rates that
                broadcasts to the parameter's shape with 1 at the spatial axes.
            spatial_axes: the axes of the parameter that share one draw. Default: every
                entry has its own draw.
            name: the name of the parameter. Default: ``"weight"``.
            key: the initial key, ``(2,)``; see :class:`KeyedLayer`.

        Raises:
            TypeError: `module` is no plain module; the parameter holds integers; another
                argument has a wrong type.
            ValueError: `name` is not a parameter of the module itself; an axis is out of
                range; `p` is outside ``[0, 1]``; `key` is not one.
        """
        parameter = _parameter(module, name)
        super().__init__(p, key=key)
        axes = as_axes(spatial_axes)
        try:
            axes_and_mask_shape(parameter.shape, axes)
        except ValueError as error:
            raise ValueError(f'For the parameter "{name}": {error}') from error
        # nn.Module would take the tuple into its state, which then cannot be saved.
        object.__setattr__(self, "_spatial_axes", axes)
        self._kind, self._name = type(module), name
        self._take(module)

    def __call__(self, *args: Any, key: Key | None = None, **kwargs: Any) -> Any:
        """Calls the module, in training mode with entries of the parameter dropped.

        Args:
            *args: the arguments of the module.
            key: one key ``(2,)``, or ``(1, 2)``, which is the same; the layer's own key
                then stays as it is. Default: the layer splits its own key, draws with one
                half and keeps the other.
            **kwargs: the keyword arguments of the module.

        Returns:
            What the module returns.

        Raises:
            TypeError: `key` is not a ``uint32`` array.
            ValueError: `key` is a batch of keys; `p` does not broadcast.
        """
        module = self._call(self.draw, self.module, key, self._is_on())
        weight = module[self._name]
        # Under mx.vmap, MLX takes wrong groups of an input that is no batch.
        if self._weight_choosers and weight is not self[self._name]:
            args, kwargs = tree_map(
                lambda x: batched_as(weight, x) if isinstance(x, mx.array) else x,
                (args, kwargs),
            )
        output = module(*args, **kwargs)
        if module[self._name] is not weight:
            raise ValueError(
                f'The {self._kind.__name__} changes its "{self._name}" in a call. Expected '
                "a parameter that only an optimizer changes."
            )
        self._take(module)
        return output

    def draw(self, x: Any, key: Key) -> Any:
        """Returns a module `x` with entries of its parameter dropped."""
        key = _one_key(key)
        x[self._name] = dropout_channels(x[self._name], self.p, key, self._spatial_axes)
        return x

    @property
    def module(self) -> Any:
        """The plain module, with the layer's arrays and submodules, to unwrap the layer."""
        module = dict.__new__(self._kind)
        for held, own in ((module, self), (vars(module), vars(self))):
            dict.update(held, {n: v for n, v in own.items() if n not in _OWN})
        module._no_grad = set(self._no_grad)
        return module

    @property
    def _weight_choosers(self) -> list["WeightDropout"]:
        """The layer itself, if its key chooses the weights of a convolution."""
        is_weight = self._name == "weight" and issubclass(self._kind, _CONVOLUTIONS)
        return [self] if is_weight else []

    def _take(self, module: Any) -> None:
        """Takes over what a module holds now, but the parameter only at first."""
        whole = self.get(self._name, module[self._name])
        for held, now in ((self, module), (vars(self), vars(module))):
            for name in held.keys() - now.keys() - _OWN:
                del held[name]
            dict.update(held, now)
        self[self._name] = whole
        self._no_grad = set(module._no_grad)

    def _check(self, x: Any, key: Key | None) -> None:
        if key is not None:
            _one_key(key)

    def _is_on(self) -> bool:
        return self.training if self._on is None else self._on

    def _switch(self, on: bool) -> None:
        self._on = on

    def _would_draw(self) -> bool:
        return self._is_on() and not self._keeps_all()

    def _extra_repr(self) -> str:
        name = "" if self._name == "weight" else f', name="{self._name}"'
        axes = f", spatial_axes={self._spatial_axes}" if self._spatial_axes else ""
        kind = f"{self._kind.__name__}({self.module._extra_repr()})"
        return f"{kind}, {super()._extra_repr()}{axes}{name}"

    def __getattr__(self, name: str) -> Any:
        # By these, others would put a layer without dropout in the place of this one.
        is_conversion = name in ("to_quantized", "to_lora")
        if name in self or name.startswith("_") or is_conversion:
            return super().__getattr__(name)
        value = getattr(self.module, name)
        if not isinstance(value, MethodType):
            return value

        # Looked up at each call, since it may be kept while the layer is trained.
        @wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:
            module = self.module
            output = getattr(module, name)(*args, **kwargs)
            self._take(module)
            return output

        return method


def _one_key(key: Key) -> Key:
    """Returns the key that draws for all examples."""
    check_key(key)
    if key.shape[:-1] not in ((), (1,)):
        raise ValueError(
            f"Received keys of shape {key.shape} for a WeightDropout. Expected one key, "
            "(2,), or (1, 2), since all examples of a call share one weight: "
            "layer(x, key=keys[0])."
        )
    return key.flatten()


def _parameter(module: Any, name: str) -> mx.array:
    """Returns a parameter that a module itself holds; raises if it cannot be dropped."""
    if not isinstance(module, nn.Module) or isinstance(module, KeyedLayer):
        raise TypeError(
            f"Received a module {of_type(module)}. Expected a plain mlx.nn.Module, such as "
            "WeightDropout(nn.Linear(16, 8), 0.5)."
        )
    kind = type(module).__name__
    bound = [
        attribute
        for attribute, value in {**vars(module), **module}.items()
        if isinstance(value, MethodType) and value.__self__ is module
    ]
    if bound:
        raise ValueError(
            f"The {kind} holds a method of its own as {bound[0]!r}, which would go on"
            " with the whole parameter. Look it up at each call instead."
        )
    taken = _OWN & {*module, *vars(module)}
    if taken:
        raise ValueError(
            f"Received a {kind} with attributes {', '.join(sorted(taken))}, as the layer "
            "itself has. Rename them."
        )
    paths = dict(tree_flatten(module.parameters()))
    if not paths:
        raise ValueError(
            f"The {kind} has no parameters. To drop elements of its output: Dropout."
        )
    if not isinstance(name, str):
        raise TypeError(
            f"Received name {of_type(name)}. Expected the name of one parameter, as a "
            'layer drops one: name="Wh".'
        )
    if name not in paths:
        raise ValueError(
            f"The {kind} has no parameter {name!r}. Expected one of its own: "
            f"{', '.join(f'name={path!r}' for path in paths)}."
        )
    if name not in module:
        owner, _, last = name.rpartition(".")
        place = "model." + re.sub(r"\.(\d+)", r"[\1]", owner)
        raise ValueError(
            f"Received name={name!r}, a parameter of a module in the {kind}. Wrap that "
            f'module: {place} = WeightDropout({place}, p, name="{last}").'
        )
    parameter: mx.array = module[name]
    if not mx.issubdtype(parameter.dtype, mx.inexact):
        raise TypeError(
            f'Received a {kind} whose "{name}" is {parameter.dtype}, as if quantised. '
            "Expected a floating-point parameter."
        )
    return parameter
