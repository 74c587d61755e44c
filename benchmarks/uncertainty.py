"""Measures sampling and summarising subnetworks against a loop.

Run it with ``python benchmarks/uncertainty.py [--output benchmarks/results/NAME]``.
Whatever is timed takes turns in one process, and has its outputs evaluated.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import plots
import report
from comparisons import Comparison, compared, measured, short, whole
from matplotlib.figure import Figure
from measure import Call, medians, peak_megabytes
from mlx.utils import tree_flatten
from models import DigitNetwork
from report import Results
from tqdm import tqdm

from chandrop.functional import dropout3d
from chandrop.nn import Dropout, functional_call
from chandrop.uncertainty import classify, predict, sample

KEYS = 32
MODELS = 5
CHUNK = 8
# Long calls tell by few blocks what differs many times, short ones by many what is alike.
FEW_BLOCKS = 9
SOME_BLOCKS = 25
MANY_BLOCKS = 101

FEATURES = 8
SAMPLES = 64
TIMED_SAMPLES = 4

Function = Callable[[mx.array, mx.array], Any]


class VGG(nn.Module):
    """Convolutions, then dropout before each of the two last linear layers, as in VGG."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = []
        for before, after in ((3, 16), (16, 32), (32, 64)):
            for channels in (before, after):
                self.convolutions.append(nn.Conv2d(channels, after, 3, padding=1))
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        self.linear = nn.Linear(64 * 4 * 4, 256)
        layers = [Dropout(0.5), nn.Linear(256, 256), nn.ReLU(), Dropout(0.5)]
        self.head = nn.Sequential(*layers, nn.Linear(256, 10))

    def trunk(self, x: mx.array) -> mx.array:
        """Returns what no key changes."""
        for place, convolution in enumerate(self.convolutions):
            x = nn.relu(convolution(x))
            if place % 2:
                x = self.pool(x)
        return nn.relu(self.linear(x.flatten(1)))

    def __call__(self, x: mx.array) -> mx.array:
        """Returns logits ``(B, 10)`` for images ``(B, 32, 32, 3)``."""
        return self.head(self.trunk(x))


def subnetwork(network: nn.Module, dropout: Any = True) -> Function:
    """Returns a function of a key, which chooses one subnetwork for the batch."""
    return lambda key, x: functional_call(network, {}, x, key=key[None], dropout=dropout)


def in_a_loop(function: Function, keys: list[mx.array], x: mx.array) -> None:
    for key in keys:
        mx.eval(function(key, x))


def sample_and_loop(function: Function, x: mx.array) -> dict[str, Call]:
    keys = mx.random.split(mx.random.key(0), KEYS)
    separate = list(keys)
    mx.eval(keys, separate, x)
    compiled_sample = mx.compile(partial(sample, function))
    compiled_function = mx.compile(function)
    return {
        "sample, eager": lambda: mx.eval(sample(function, keys, x)),
        "loop, eager": lambda: in_a_loop(function, separate, x),
        "sample, compiled": lambda: mx.eval(compiled_sample(keys, x)),
        "loop, compiled": lambda: in_a_loop(compiled_function, separate, x),
    }


def digits() -> Iterator[Comparison]:
    """`sample` against a loop, by where the dropout is."""
    network, x = DigitNetwork(), mx.random.normal((64, 8, 8, 1))
    last = f"dropouts.{len(network.dropouts) - 1}"
    which: dict[str, tuple[Any, float]] = {
        "in the last block": (lambda path, layer: path == last, 1 / 8),
        "everywhere": (True, 1.0),
    }
    for place, (dropout, most_ratio) in which.items():
        calls = sample_and_loop(subnetwork(network, dropout), x)
        seconds = medians(calls, SOME_BLOCKS)
        for way in ("eager", "compiled"):
            figures = (seconds[f"sample, {way}"] * 1e3, seconds[f"loop, {way}"] * 1e3)
            where = f"digits, {KEYS} keys, dropout {place}, {way}"
            yield Comparison(where, "sample", "loop", figures, most_ratio=most_ratio)


def long_trunk() -> Iterator[Comparison]:
    """`sample` against a loop over all, and over the head with a cached trunk."""
    network, x = VGG(), mx.random.normal((4, 32, 32, 3))
    whole, head = subnetwork(network), subnetwork(network.head)
    compiled_head, compiled_trunk = mx.compile(head), mx.compile(network.trunk)
    keys = mx.random.split(mx.random.key(0), KEYS)
    separate = list(keys)
    in_chunks = f"sample, chunk={CHUNK}"
    calls = sample_and_loop(whole, x) | {
        f"{in_chunks}, eager": lambda: mx.eval(sample(whole, keys, x, chunk=CHUNK)),
        "cached trunk, eager": lambda: in_a_loop(head, separate, network.trunk(x)),
        "cached trunk, compiled": lambda: in_a_loop(
            compiled_head, separate, compiled_trunk(x)
        ),
    }
    short = {
        f"{what}, {way}": calls[f"{what}, {way}"]
        for what in ("sample", "cached trunk")
        for way in ("eager", "compiled")
    }
    among_loops, among_short = medians(calls, FEW_BLOCKS), medians(short, MANY_BLOCKS)
    for seconds, way, what, against in (
        (among_loops, "eager", "sample", "loop"),
        (among_loops, "eager", in_chunks, "loop"),
        (among_loops, "eager", "cached trunk", "loop"),
        (among_short, "eager", "sample", "cached trunk"),
        (among_loops, "compiled", "sample", "loop"),
        (among_loops, "compiled", "cached trunk", "loop"),
        (among_short, "compiled", "sample", "cached trunk"),
    ):
        figures = (seconds[f"{what}, {way}"] * 1e3, seconds[f"{against}, {way}"] * 1e3)
        yield Comparison(f"VGG, {KEYS} keys, {way}", what, against, figures)


def ensembles() -> Iterator[Comparison]:
    """`predict` of an ensemble against a loop over its models, and one summary of all."""
    x = mx.random.normal((4, 32, 32, 3))
    models = [VGG().eval() for _ in range(MODELS)]
    mx.eval(x, [model.parameters() for model in models])
    calls = {
        "predict": lambda: predict(models, None, x),
        "loop": lambda: mx.eval(classify(mx.stack([model(x) for model in models]))),
    }
    seconds = medians(calls, SOME_BLOCKS)
    figures = (seconds["predict"] * 1e3, seconds["loop"] * 1e3)
    yield Comparison(
        f"{MODELS} VGGs, no keys, eager", "predict", "loop", figures, most_ratio=1.2
    )


# For each kind of output: the task, how many numbers a voxel has, what is made of them.
OUTPUTS: dict[str, tuple[str, int, Callable[[mx.array], Any]]] = {
    "2 classes": ("classification", 2, lambda y: y),
    "3 classes": ("classification", 3, lambda y: y),
    "4 classes": ("classification", 4, lambda y: y),
    "mean": ("regression", 1, lambda y: y[..., 0]),
    "mean and variance": ("regression", 2, lambda y: (y[..., 0], mx.exp(y[..., 1]))),
}


def dropout_alone(width: int) -> Function:
    return lambda key, x: dropout3d(x[..., :width], 0.2, key)


def linear_layer(width: int) -> Function:
    weight = mx.random.normal((FEATURES, width))
    return lambda key, x: dropout3d(x, 0.2, key) @ weight


def hidden_layer(width: int) -> Function:
    expand = mx.random.normal((FEATURES, 4 * FEATURES))
    weight = mx.random.normal((4 * FEATURES, width))
    return lambda key, x: dropout3d(nn.relu(x @ expand), 0.2, key) @ weight


# The network, the kind of output, how many keys at a time, whether it is timed.
SUMMARIES: list[tuple[Callable[[int], Function], str, int, bool]] = [
    *((linear_layer, kind, 1, kind in ("2 classes", "mean")) for kind in OUTPUTS),
    *((linear_layer, kind, 4, False) for kind in OUTPUTS),
    *((dropout_alone, kind, 1, False) for kind in ("2 classes", "mean")),
    (hidden_layer, "2 classes", 1, True),
]


def summaries() -> Iterator[Comparison]:
    """The memory and time of `predict` beyond those of the samples, on a volume."""
    x = mx.random.normal((1, 100, 100, 100, FEATURES))
    mx.eval(x)
    for case in tqdm(SUMMARIES, desc="volumes", leave=False):
        yield from summary(x, *case)


def summary(
    x: mx.array, network: Callable[[int], Function], kind: str, chunk: int, timed: bool
) -> Iterator[Comparison]:
    task, width, finish = OUTPUTS[kind]
    function = network(width)

    def output(key: mx.array, x: mx.array) -> Any:
        return finish(function(key, x))

    def summarise(keys: mx.array) -> None:
        mx.eval(predict(output, keys, x, task, chunk=chunk))

    def evaluate(keys: mx.array) -> None:
        for start in range(0, len(keys), chunk):
            chosen = keys[start : start + chunk, None]
            mx.eval(mx.vmap(lambda key: output(key, x))(chosen))

    keys = mx.random.split(mx.random.key(0), SAMPLES)
    one = [array for _, array in tree_flatten([output(keys[:1], x)])]
    mx.eval(keys, one)
    output_megabytes = sum(array.nbytes for array in one) / 1e6
    del one
    peak = peak_megabytes(lambda: summarise(keys))
    beside = peak - peak_megabytes(lambda: evaluate(keys[:chunk]))
    where = f"10^6 voxels, {network.__name__.replace('_', ' ')}, {kind}, chunk={chunk}"
    yield Comparison(
        f"{where}, {SAMPLES} keys",
        "predict's peak beyond a chunk's",
        "one output",
        (beside, output_megabytes),
        "MB",
        most_ratio=4,
    )
    if timed:
        few = keys[:TIMED_SAMPLES]
        seconds = medians({"predict": lambda: summarise(few), "": lambda: evaluate(few)})
        figures = [seconds[way] * 1e3 / TIMED_SAMPLES for way in ("predict", "")]
        names = (f"{where}, a sample", "predict", "the outputs alone")
        yield Comparison(*names, (figures[0], figures[1]))


def page(results: Results) -> list[str]:
    return [
        "`python benchmarks/uncertainty.py` wrote this page. Times are medians of calls "
        "that took turns in one run. The loop evaluates one key at a time; a cached trunk "
        "is computed once, and the loop is over the head alone. The peak of `predict` is "
        "what it holds at most, and a chunk's is what the outputs of one chunk of keys "
        "need by themselves.",
        whole(results),
    ]


def docs(results: Results) -> list[str]:
    return [short(results, is_shown)]


def plot(results: Results) -> Figure:
    """All keys at once against a loop over them."""
    shares = {
        item.where.replace(f", {KEYS} keys", "").removesuffix(", eager"): item.ratio
        for item in compared(results)
        if (item.what, item.against) == ("sample", "loop") and is_shown(item)
    }
    return plots.subnetworks(shares, KEYS)


def is_shown(item: Comparison) -> bool:
    """Whether the docs show it: of volumes, two classes stand for the others."""
    return "compiled" not in item.where and (
        "voxels" not in item.where or "2 classes, chunk=1" in item.where
    )


def main() -> None:
    report.run(
        report.parser(__doc__, "uncertainty").parse_args(),
        ["chandrop", "mlx"],
        lambda _: measured([digits, long_trunk, ensembles, summaries]),
        "Uncertainty, measured",
        page,
        plot,
        short=docs,
    )


if __name__ == "__main__":
    main()
