"""Measures what the tools for whole models cost, against doing without them.

Run it with ``python benchmarks/models.py [--output benchmarks/results/NAME]``. Whatever is
compared takes turns in one process, and has its outputs evaluated. Only the first steps
have a process each, since MLX keeps what it has compiled in memory, and in the folder for
temporary files.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from io import StringIO
from typing import Any
from zlib import crc32

import mlx.core as mx
import mlx.nn as nn
import report
from comparisons import Comparison, measured, short, whole
from measure import Call, medians, peak_megabytes
from mlx.optimizers import Adam
from mlx.utils import tree_flatten
from report import Results
from training import training_step

from chandrop.nn import (
    Dropout,
    checkpoint,
    convert,
    functional_call,
    get_keys,
    rekey,
    stack_parameters,
)
from chandrop.random import fold_in

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from digit_network import DigitNetwork

BATCH = 64
LAYERS = 50
KEYS = 16
MEMBERS = 8
FIRST_STEPS = 3
# Long calls fit but once or twice into a block, while a machine that others share may
# change its speed from second to second: only many blocks tell a few percent.
SOME_BLOCKS = 25
MANY_BLOCKS = 101


def deep_model() -> nn.Module:
    layers = [(nn.Linear(16, 16), Dropout(0.1)) for _ in range(LAYERS)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "digits": (DigitNetwork, (BATCH, 8, 8, 1)),
    f"{LAYERS} layers": (deep_model, (BATCH, 16)),
}


def forward() -> Iterator[Comparison]:
    """A pure call against the stateful one; both draw one mask for each layer."""
    promised: dict[str, dict[str, float]] = {
        "digits, compiled": {"most_ratio": 1.05},
        "digits, eager": {"most_difference": 3.0},
    }
    for name, (make, shape) in MODELS.items():
        seconds = medians(forward_calls(make(), mx.random.normal(shape)), MANY_BLOCKS)
        for way in ("compiled", "eager"):
            yield Comparison(
                f"{name}, forward, {way}",
                "functional_call",
                "the layers' own keys",
                (seconds[f"{way} pure"] * 1e3, seconds[f"{way} plain"] * 1e3),
                **promised.get(f"{name}, {way}", {}),
            )


def forward_calls(model: nn.Module, x: mx.array) -> dict[str, Call]:
    parameters, state, key = model.parameters(), model.state, mx.random.key(0)
    mx.eval(state, x, key)

    def pure(parameters: Any, x: mx.array, key: mx.array) -> mx.array:
        return functional_call(model, parameters, x, key=key)

    def plain(x: mx.array) -> mx.array:
        return model(x)

    compiled_pure = mx.compile(pure)
    compiled_plain = mx.compile(plain, inputs=state, outputs=state)
    return {
        "compiled pure": lambda: mx.eval(compiled_pure(parameters, x, key)),
        "compiled plain": lambda: mx.eval(compiled_plain(x), state),
        "eager pure": lambda: mx.eval(pure(parameters, x, key)),
        "eager plain": lambda: mx.eval(plain(x), state),
    }


def keys_of_many_layers() -> Iterator[Comparison]:
    """New keys for a deep model: one call for all layers against one for each."""
    model, key = deep_model(), mx.random.key(0)
    hashes = [crc32(path.encode()) for path in get_keys(model)]

    def at_once() -> Any:
        rekey(model, key)
        return model.state

    def one_by_one() -> list[mx.array]:
        return [fold_in(key, number) for number in hashes]

    mx.eval(model.state)
    seconds = medians(
        {"at once": lambda: mx.eval(at_once()), "each": lambda: mx.eval(one_by_one())}
    )
    names = (f"{LAYERS} layers, keys", "rekey", "fold_in for each layer")
    yield Comparison(*names, (seconds["at once"] * 1e3, seconds["each"] * 1e3))
    yield Comparison(*names, (draws(at_once()), draws(one_by_one())), "draws")


def draws(tree: Any) -> int:
    """Counts the draws that the arrays of `tree` wait for."""
    graph = StringIO()
    mx.export_to_dot(graph, *(array for _, array in tree_flatten(tree)))
    return graph.getvalue().count("RandomBits")


def first_step(name: str, with_rekey: bool) -> float:
    """Seconds that the first call of a compiled training step takes in this process."""
    make, shape = MODELS[name]
    model, x, key = make(), mx.random.normal(shape), mx.random.key(0)
    labels = mx.zeros(BATCH, dtype=mx.int32)
    mx.eval(x, key, labels)
    step = training_step(model, Adam(1e-3))
    started = time.perf_counter()
    step(x, labels, *[key] * with_rekey)
    return time.perf_counter() - started


def first_step_in_a_process(name: str, with_rekey: bool) -> tuple[float, int]:
    """Returns the seconds, and how many kernels the C++ compiler had to make."""
    command = [sys.executable, __file__, "--first-step", name]
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run(
            [*command, "--rekey"] if with_rekey else command,
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"TMPDIR": folder},
        )
        return float(finished.stdout), len(list(pathlib.Path(folder).rglob("*.so")))


def first_steps() -> Iterator[Comparison]:
    """What `rekey` adds to the first call of a compiled training step."""
    for name in MODELS:
        results: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
        for _ in range(FIRST_STEPS):
            for with_rekey in results:
                results[with_rekey].append(first_step_in_a_process(name, with_rekey))
        (a, kernels), (b, other_kernels) = (
            map(statistics.median, zip(*results[with_rekey], strict=True))
            for with_rekey in (True, False)
        )
        names = (f"{name}, first step, compiled", "with rekey", "without")
        yield Comparison(*names, (a, b), "s", most_difference=2.0)
        yield Comparison(*names, (kernels, other_kernels), "kernels")


def vmap_and_loop(
    where: str,
    member: Callable[..., mx.array],
    shared: Any,
    stacked: tuple[Any, ...],
    separate: list[tuple[Any, ...]],
    most_ratio: float | None = None,
) -> Iterator[Comparison]:
    """Compares ``mx.vmap`` of ``member(shared, ...)`` with a loop over the members.

    The loop's outputs are evaluated all at once, which helps it. A loop that is compiled
    as a whole computes only once what its turns share, as vmap does, but is traced turn by
    turn.

    Args:
        where: what the rows are called.
        member: a function of what is shared and of a member's own arguments.
        shared: what all members are given.
        stacked: the members' own arguments, along a leading axis.
        separate: the same, member by member.
        most_ratio: the target.
    """

    def vmapped(shared: Any, stacked: tuple[Any, ...]) -> mx.array:
        return mx.vmap(lambda *own: member(shared, *own))(*stacked)

    def loop(
        member: Callable[..., mx.array], shared: Any, separate: list[tuple[Any, ...]]
    ) -> list[mx.array]:
        return [member(shared, *own) for own in separate]

    compiled_vmapped, compiled_member = mx.compile(vmapped), mx.compile(member)
    compiled_loop = mx.compile(partial(loop, member))
    mx.eval(shared, stacked, separate)
    seconds = medians(
        {
            "eager": lambda: mx.eval(vmapped(shared, stacked)),
            "eager loop": lambda: mx.eval(loop(member, shared, separate)),
            "compiled": lambda: mx.eval(compiled_vmapped(shared, stacked)),
            "compiled loop": lambda: mx.eval(loop(compiled_member, shared, separate)),
            "compiled as a whole": lambda: mx.eval(compiled_loop(shared, separate)),
        },
        SOME_BLOCKS,
    )

    def compared(way: str, other: str, against: str, most: float | None) -> Comparison:
        figures = (seconds[way] * 1e3, seconds[other] * 1e3)
        return Comparison(f"{where}, {way}", "vmap", against, figures, most_ratio=most)

    yield compared("eager", "eager loop", "loop", most_ratio)
    yield compared("compiled", "compiled loop", "loop", most_ratio)
    yield compared("compiled", "compiled as a whole", "loop, compiled as a whole", None)


def one_network_many_keys() -> Iterator[Comparison]:
    """An ensemble of the subnetworks of one network."""
    network, x = DigitNetwork(), mx.random.normal((BATCH, 8, 8, 1))
    keys = mx.random.split(mx.random.key(0), KEYS)
    last = f"dropouts.{len(network.dropouts) - 1}"
    which: dict[str, tuple[bool | Callable[[str, nn.Module], bool], float]] = {
        "everywhere": (True, 1.0),
        "last": (lambda path, layer: path == last, 1 / 8),
    }
    for name, (dropout, most_ratio) in which.items():

        def member(
            shared: tuple[Any, mx.array], key: mx.array, dropout: Any = dropout
        ) -> mx.array:
            return functional_call(network, *shared, key=key, dropout=dropout)

        yield from vmap_and_loop(
            f"digits, {KEYS} keys, dropout {name}",
            member,
            (network.parameters(), x),
            (keys,),
            [(key,) for key in keys],
            most_ratio,
        )


def many_networks() -> Iterator[Comparison]:
    """An ensemble of networks that have weights of their own."""

    def linear_network() -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), Dropout(0.2), nn.Linear(256, 10)
        )

    kinds: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "convolutional": (DigitNetwork, (BATCH, 8, 8, 1)),
        "linear": (linear_network, (BATCH, 64)),
    }
    keys = mx.random.split(mx.random.key(0), MEMBERS)
    for kind, (make, shape) in kinds.items():
        networks = [make() for _ in range(MEMBERS)]

        def member(
            x: mx.array, parameters: Any, key: mx.array, network: nn.Module = networks[0]
        ) -> mx.array:
            return functional_call(network, parameters, x, key=key)

        yield from vmap_and_loop(
            f"{MEMBERS} {kind} networks",
            member,
            mx.random.normal(shape),
            (stack_parameters(networks), keys),
            [(model.parameters(), key) for model, key in zip(networks, keys, strict=True)],
        )


def checkpoints() -> Iterator[Comparison]:
    """A loss and its gradient, with every block of a transformer checkpointed.

    The gradient of ``mlx.nn.utils.checkpoint`` is another network's, since it recomputes
    with the next keys, but takes as much work.
    """
    encoder = convert(nn.TransformerEncoder(8, 64, 4, dropout=0.1))
    x = mx.random.normal((2, 64, 64))
    state = encoder.state
    mx.eval(state, x)

    def step(wrapped: Callable[[nn.Module], Callable[..., mx.array]]) -> Callable[..., Any]:
        def loss(encoder: nn.Module, x: mx.array) -> mx.array:
            for layer in encoder.layers:
                x = wrapped(layer)(x, None)
            return encoder.ln(x).square().mean()

        return lambda x: nn.value_and_grad(encoder, loss)(encoder, x)

    ours, theirs, none = "chandrop's checkpoint", "mlx.nn.utils.checkpoint", "none"
    wrappers = {ours: checkpoint, theirs: nn.utils.checkpoint, none: lambda block: block}
    for way in ("eager", "compiled"):
        steps = {name: step(wrapped) for name, wrapped in wrappers.items()}
        if way == "compiled":
            steps = {
                name: mx.compile(function, inputs=state, outputs=state)
                for name, function in steps.items()
            }
        calls = {
            name: lambda function=function: mx.eval(function(x), state)
            for name, function in steps.items()
        }
        seconds = medians(calls)
        megabytes = {name: peak_megabytes(call) for name, call in calls.items()}
        where = f"8 transformer blocks, gradient, {way}"
        for other in (none, theirs):
            figures = (seconds[ours] * 1e3, seconds[other] * 1e3)
            yield Comparison(where, ours, other, figures)
        for other in (none, theirs):
            figures = (megabytes[ours], megabytes[other])
            yield Comparison(f"{where}, peak", ours, other, figures, "MB")


MEASUREMENTS = [
    forward,
    keys_of_many_layers,
    first_steps,
    one_network_many_keys,
    many_networks,
    checkpoints,
]


def page(results: Results) -> list[str]:
    return [
        "`python benchmarks/models.py` wrote this page: medians of calls that took turns "
        f"in one run. The first steps are medians of {FIRST_STEPS} fresh processes with an "
        "empty folder for temporary files.",
        whole(results),
    ]


def docs(results: Results) -> list[str]:
    return [short(results, lambda item: item.against in ("loop", "none"))]


def main() -> None:
    parser = report.parser(__doc__, "models")
    parser.add_argument("--first-step", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--rekey", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_step:
        print(first_step(arguments.first_step, arguments.rekey))
        return
    report.run(
        arguments,
        ["chandrop", "mlx"],
        lambda _: measured(MEASUREMENTS),
        "Whole models, measured",
        page,
        short=docs,
    )


if __name__ == "__main__":
    main()
