"""Measures what the wrappers of mx.vmap, mx.checkpoint and mx.compile cost.

Run it with ``python benchmarks/wrappers.py [--against CHECKOUT] [--output FOLDER/NAME]``.
The wrappers are compared with MLX's own functions, and with ``--against`` the layers with
those of another checkout of chandrop, such as the commit before. Whatever is compared takes
turns in one process, in random order. All outputs are evaluated, except where the time of
building a graph is measured.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
import report
from comparisons import Comparison, measured, whole
from measure import Call, medians, peak_megabytes
from report import Results
from staleness import git

import chandrop.nn
from chandrop.nn import checkpoint, convert, wrap_transforms

BLOCKS = 101
Calls = dict[str, Call]

wrap_transforms(False)
MLX_COMPILE, MLX_CHECKPOINT, MLX_VMAP = mx.compile, mx.checkpoint, mx.vmap
wrap_transforms()


def compared(
    where: str, calls: Calls, most: float | None = None, unit: str = "us"
) -> Comparison:
    """Compares the first of two calls with the second."""
    (this, against), seconds = calls, medians(calls, BLOCKS)
    figures = (seconds[this] * 1e6, seconds[against] * 1e6)
    return Comparison(where, this, against, figures, unit, most_ratio=most)


def evaluated(function: Callable[..., Any], *args: Any) -> Call:
    return lambda: mx.eval(function(*args))


def two_linear(width: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
    mx.eval(model.parameters())
    return model


def of_a_compiled_step() -> Iterator[Comparison]:
    """A step that is as small as they come: about 100 us."""
    model, x = two_linear(16), mx.random.normal((8, 16))
    optimizer = mlx.optimizers.SGD(1e-3)
    optimizer.init(model.trainable_parameters())
    state = [model.state, optimizer.state]

    def step(x: mx.array) -> mx.array:
        loss = nn.value_and_grad(model, lambda x: (model(x) ** 2).mean())
        value, gradients = loss(x)
        optimizer.update(model, gradients)
        return value

    def of(compile_: Callable[..., Any]) -> Call:
        compiled = compile_(step, inputs=state, outputs=state)
        return lambda: mx.eval(compiled(x), state)

    calls = {"mx.compile, wrapped": of(mx.compile), "MLX's own": of(MLX_COMPILE)}
    yield compared("a compiled step", calls, most=1.05)


def of_a_checkpoint() -> Iterator[Comparison]:
    model, x = two_linear(64), mx.random.normal((32, 64))
    parameters = model.parameters()

    def of(checkpoint_: Callable[..., Any]) -> Call:
        def block(parameters: Any, x: mx.array) -> mx.array:
            model.update(parameters)
            return model(x)

        call = checkpoint_(block)
        return evaluated(mx.value_and_grad(lambda p: (call(p, x) ** 2).mean()), parameters)

    calls = {
        "mx.checkpoint, wrapped": of(mx.checkpoint),
        "MLX's own": of(MLX_CHECKPOINT),
    }
    yield compared("two linear layers and their gradient", calls, most=1.05)


def of_a_vmap() -> Iterator[Comparison]:
    model, xs = two_linear(64), mx.random.normal((4, 32, 64))
    calls = {
        "mx.vmap, wrapped": evaluated(lambda: mx.vmap(model)(xs)),
        "MLX's own": evaluated(lambda: MLX_VMAP(model)(xs)),
    }
    yield compared("two linear layers, 4 members", calls)


def of_building_a_graph() -> Iterator[Comparison]:
    """Loss and gradient of eight transformer blocks with dropout, not evaluated."""
    mx.random.seed(0)
    model = nn.Module()
    model.blocks = [
        convert(nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1)) for _ in range(8)
    ]
    mx.eval(model.state)
    x = mx.random.normal((2, 16, 64))

    def of(wrap: Callable[..., Any], wrapped: bool = True) -> Call:
        def loss(model: nn.Module, x: mx.array) -> mx.array:
            for block in model.blocks:
                x = wrap(block)(x, None)
            return (x**2).mean()

        function = nn.value_and_grad(model, loss)
        layers = [m for m in model.modules() if isinstance(m, chandrop.nn.Dropout)]
        held = [(layer, dict(layer)) for layer in layers]

        def build() -> None:
            wrap_transforms(wrapped)
            function(model, x)
            wrap_transforms()
            # Otherwise the keys would wait for those of all calls before.
            for layer, contents in held:
                dict.update(layer, contents)

        return build

    theirs, own = of(nn.utils.checkpoint), of(nn.utils.checkpoint, wrapped=False)
    ours = of(checkpoint)
    what = "graph of 8 transformer blocks"
    name = "mlx.nn's checkpoint, MLX's own"
    yield compared(what, {"chandrop.nn.checkpoint": ours, name: own}, most=1.3)
    name = "mlx.nn's checkpoint, wrapped"
    yield compared(what, {"chandrop.nn.checkpoint": ours, name: theirs})


def layers_of(checkout: Path) -> ModuleType:
    """Returns ``chandrop.nn`` of another checkout, beside this one's."""
    own = {name: module for name, module in sys.modules.items() if "chandrop" in name}
    for name in own:
        del sys.modules[name]
    sys.path.insert(0, str(checkout / "src"))
    try:
        other = importlib.import_module("chandrop.nn")
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if "chandrop" in name]:
            del sys.modules[name]
        sys.modules.update(own)
        wrap_transforms(False)
        wrap_transforms()
    return other


def of_layers(other: ModuleType) -> Iterator[Comparison]:
    """A layer with its own key, in this commit and in another one."""
    both = {"this commit": chandrop.nn, "the other": other}
    for shape in ((4, 8, 8, 40), (16, 32, 32, 64)):
        x = mx.random.normal(shape)
        mx.eval(x)
        for way, function in WAYS.items():
            calls: Calls = {}
            for name, package in both.items():
                layer = package.Dropout2d(0.5)
                call = function(layer)
                if way.startswith("compiled"):
                    call = mx.compile(call, inputs=layer.state, outputs=layer.state)
                calls[name] = evaluated(call, x)
            where = f"Dropout2d, {'x'.join(map(str, shape))}, {way}"
            yield compared(where, calls, most=1.03)
            peaks = tuple(peak_megabytes(call) for call in calls.values())
            yield Comparison(f"{where}, peak", *calls, peaks, "MB", most_ratio=1.001)


def gradient(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    return mx.grad(lambda x: (function(x) * x).sum())


WAYS: dict[str, Callable[[Any], Callable[[mx.array], mx.array]]] = {
    "eager": lambda layer: layer,
    "eager, gradient": gradient,
    "compiled": lambda layer: lambda x: layer(x),
    "compiled, gradient": gradient,
    "compiled after relu": lambda layer: lambda x: layer(nn.relu(x)),
    "compiled after relu, gradient": lambda layer: gradient(lambda x: layer(nn.relu(x))),
}


def measure(arguments: argparse.Namespace) -> Results:
    measurements = [of_a_compiled_step, of_a_checkpoint, of_a_vmap, of_building_a_graph]
    if not arguments.against:
        return measured(measurements)
    other = layers_of(arguments.against)
    against = git("rev-parse", "HEAD", checkout=arguments.against)
    return {"against": against} | measured([*measurements, lambda: of_layers(other)])


def page(results: Results) -> list[str]:
    parts = [
        "`python benchmarks/wrappers.py` wrote this page: medians of calls that took turns "
        "in one run.",
        whole(results),
    ]
    if "against" in results:
        parts[0] += f" The other layers are those of commit {results['against'][:7]}."
    return parts


def main() -> None:
    parser = report.parser(__doc__, "wrappers")
    parser.add_argument("--against", type=Path, help="another checkout of chandrop")
    arguments = parser.parse_args()
    title = "The wrappers, measured"
    report.run(arguments, ["chandrop", "mlx"], measure, title, page)


if __name__ == "__main__":
    main()
