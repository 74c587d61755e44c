"""Channel dropout in each library, and how each framework runs a function.

A library is a function of ``(x, key)``. A framework calls it in the four ways that are
measured, and each call waits until the result is there.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

# Threads of torch's pool that wait by spinning would slow down whoever runs next.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox
import flax.linen
import haiku
import jax
import jax.numpy as jnp
import keras
import mlx.core as mx
import mlx.nn
import numpy as np
import torch
from measure import Call
from tables import HEADLINE

import chandrop

P = 0.5

Dropout = Callable[[Any, Any], Any]


class Framework(ABC):
    """Runs a function ``(x, key) -> y`` on one random input."""

    name: str

    @abstractmethod
    def libraries(self, shape: tuple[int, ...]) -> dict[str, tuple[Dropout, Any]]:
        """Returns each library's channel dropout for `shape`, and the state it keeps."""

    @abstractmethod
    def call(self, way: str, dropout: Dropout, state: Any) -> Call | None:
        """Returns a call of `dropout`, or None where the framework has no such way."""

    def calls(self, way: str, shape: tuple[int, ...]) -> dict[str, Call]:
        """Returns a call of every library, and of the floor, ``x * 2``."""
        calls = {
            name: self.call(way, dropout, state)
            for name, (dropout, state) in self.libraries(shape).items()
        }
        calls[f"floor of {self.name}"] = self.call(way, lambda x, key: x * 2, None)
        return {name: call for name, call in calls.items() if call is not None}


def in_way(way: str, dropout: Dropout, relu: Any, output_and_vjp: Any = None) -> Any:
    """Returns the function to compile, of an input, a key and perhaps a cotangent."""
    functions = {
        "compiled": dropout,
        "compiled after relu": lambda x, key: dropout(relu(x), key),
        "gradient": lambda x, key, cotangent: output_and_vjp(
            lambda x: dropout(x, key), x, cotangent
        ),
    }
    return functions[way]


class MLX(Framework):
    name = "MLX"

    def __init__(self, x: np.ndarray, dtype: str):
        self.x = mx.array(x).astype(getattr(mx, dtype))
        self.cotangent = mx.ones_like(self.x)
        self.key = mx.random.key(0)
        mx.eval(self.x, self.cotangent, self.key)

    def libraries(self, shape: tuple[int, ...]) -> dict[str, tuple[Dropout, Any]]:
        spatial_ndim = len(shape) - 2
        layer = getattr(chandrop.nn, f"Dropout{spatial_ndim}d")(P)
        function = getattr(chandrop.functional, f"dropout{spatial_ndim}d")
        libraries: dict[str, tuple[Dropout, Any]] = {
            "chandrop": (lambda x, key: function(x, P, key), None),
            "chandrop layer": (lambda x, key: layer(x), layer.state),
        }
        if spatial_ndim > 1:
            theirs = getattr(mlx.nn, f"Dropout{spatial_ndim}d")(P)
            libraries["mlx.nn"] = (lambda x, key: theirs(x), mx.random.state)
        return libraries

    def call(self, way: str, dropout: Dropout, state: Any) -> Call:
        def output_and_vjp(function: Any, x: Any, cotangent: Any) -> Any:
            return mx.vjp(function, [x], [cotangent])

        if way == "eager":
            return lambda: mx.eval(dropout(self.x, self.key), state)
        function = in_way(way, dropout, lambda x: mx.maximum(x, 0), output_and_vjp)
        compiled = mx.compile(function, inputs=state, outputs=state)
        arguments = [self.x, self.key] + [self.cotangent] * (way == "gradient")
        return lambda: mx.eval(compiled(*arguments), state)

    def draw(self, shape: Sequence[int]) -> Call:
        """The draw of the mask alone."""
        mask_shape = (shape[0], *(1 for _ in shape[1:-1]), shape[-1])
        return lambda: mx.eval(mx.random.bernoulli(1 - P, mask_shape, key=self.key))


class JAX(Framework):
    name = "JAX"

    def __init__(self, x: np.ndarray, dtype: str):
        self.x = jnp.asarray(x).astype(dtype)
        self.cotangent = jnp.ones_like(self.x)
        self.key = jax.random.PRNGKey(0)

    def libraries(self, shape: tuple[int, ...]) -> dict[str, tuple[Dropout, Any]]:
        spatial_axes = tuple(range(1, len(shape) - 1))
        mask_shape = (shape[0], *(1 for _ in spatial_axes), shape[-1])
        linen = flax.linen.Dropout(P, broadcast_dims=spatial_axes, deterministic=False)
        elementwise = equinox.nn.Dropout(P)

        def by_hand(x: Any, key: Any) -> Any:
            keep = jax.random.bernoulli(key, 1 - P, mask_shape)
            return x * (keep / (1 - P)).astype(x.dtype)

        return {
            "JAX": (by_hand, None),
            "Flax": (lambda x, key: linen.apply({}, x, rngs={"dropout": key}), None),
            "Equinox": (
                lambda x, key: x * elementwise(jnp.ones(mask_shape, x.dtype), key=key),
                None,
            ),
            "Haiku": (
                lambda x, key: haiku.dropout(key, P, x, broadcast_dims=spatial_axes),
                None,
            ),
            "Keras": (
                lambda x, key: keras.random.dropout(x, P, noise_shape=mask_shape, seed=key),
                None,
            ),
        }

    def call(self, way: str, dropout: Dropout, state: Any) -> Call:
        def output_and_vjp(function: Any, x: Any, cotangent: Any) -> Any:
            y, vjp = jax.vjp(function, x)
            return y, vjp(cotangent)

        if way == "eager":
            return lambda: jax.block_until_ready(dropout(self.x, self.key))
        compiled = jax.jit(
            in_way(way, dropout, lambda x: jnp.maximum(x, 0), output_and_vjp)
        )
        arguments = [self.x, self.key] + [self.cotangent] * (way == "gradient")
        return lambda: jax.block_until_ready(compiled(*arguments))


class Torch(Framework):
    """Channels first, which is torch's own layout.

    ``torch.compile`` takes about eight seconds a function and shape, so it is measured at
    one shape alone.
    """

    name = "torch"

    def __init__(self, x: np.ndarray, dtype: str):
        channels_first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
        self.compiles = list(x.shape) == HEADLINE
        self.x = torch.tensor(channels_first).to(getattr(torch, dtype))
        self.cotangent = torch.ones_like(self.x)

    def libraries(self, shape: tuple[int, ...]) -> dict[str, tuple[Dropout, Any]]:
        function = getattr(torch.nn.functional, f"dropout{len(shape) - 2}d")
        return {"torch": (lambda x, key: function(x, P), None)}

    def call(self, way: str, dropout: Dropout, state: Any) -> Call | None:
        if way == "eager":
            return lambda: dropout(self.x, None)
        if way == "gradient":
            x = self.x.clone().requires_grad_()
            return lambda: torch.autograd.grad(dropout(x, None), x, self.cotangent)
        if not self.compiles:
            return None
        compiled = torch.compile(in_way(way, dropout, torch.relu), dynamic=False)
        return lambda: compiled(self.x, None)


FRAMEWORKS = [MLX, JAX, Torch]
