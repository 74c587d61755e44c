"""Measures sampling and summarising subnetworks, against a loop and other masks.

Run it with ``python benchmarks/uncertainty.py [--output benchmarks/results/NAME]``.

Whatever is timed takes turns in one process, and has its outputs evaluated. Writes
NAME.json with the figures, NAME.md with the tables and NAME.short.md with the README's.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from measure import medians
from mlx.utils import tree_flatten
from models import HEADERS, SHORT, Comparison, peak_megabytes
from numpy.typing import NDArray
from run import heading, machine
from tabulate import tabulate
from tqdm import tqdm

from chandrop.functional import dropout3d
from chandrop.nn import Dropout, functional_call
from chandrop.random import balanced_keys
from chandrop.uncertainty import predict, sample

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from digit_network import DigitNetwork, Floats, load_split_digits
from digits import train

KEYS = 32
CHUNK = 8
# Long calls tell by few blocks what differs many times, short ones by many what is alike.
FEW_BLOCKS = 9
SOME_BLOCKS = 25
MANY_BLOCKS = 101

FEATURES = 8
SAMPLES = 64
TIMED_SAMPLES = 4

RATES = (0.5, 0.2, 0.1)
MEMBERS = (4, 8, 16)
REPETITIONS = 200
TEST_IMAGES = 100
EPOCHS = 15
RESAMPLES = 2000

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
        """Gives what no key changes."""
        for place, convolution in enumerate(self.convolutions):
            x = nn.relu(convolution(x))
            if place % 2:
                x = self.pool(x)
        return nn.relu(self.linear(x.flatten(1)))

    def __call__(self, x: mx.array) -> mx.array:
        """Gives logits ``(B, 10)`` for images ``(B, 32, 32, 3)``."""
        return self.head(self.trunk(x))


def subnetwork(network: nn.Module, dropout: Any = True) -> Function:
    """Gives a function of a key, which chooses one subnetwork for the batch."""
    return lambda key, x: functional_call(network, {}, x, key=key[None], dropout=dropout)


def in_a_loop(function: Function, keys: list[mx.array], x: mx.array) -> None:
    for key in keys:
        mx.eval(function(key, x))


def sample_and_loop(function: Function, x: mx.array) -> dict[str, Callable[[], object]]:
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
    """What `predict` holds and takes beside the samples, on a volume."""
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


@dataclass
class Masks:
    """How the mean of a few members' probabilities varies, and how far off it is.

    The variance is a sum over images and classes. The gain is that of as many independent
    members over it, with its 95 % interval. The bias is the squared distance to the mean of
    many independent members, in units of the variance of as few.
    """

    p: float
    members: int
    masks: str
    variance: float
    gain: float
    interval: tuple[float, float]
    bias: float

    def row(self) -> list[str]:
        low, high = self.interval
        gain = f"{self.gain:.2f} ({low:.2f} to {high:.2f})"
        numbers = [str(self.p), str(self.members), self.masks, f"{self.variance:.3f}"]
        return [*numbers, gain, f"{self.bias:.3f}"]


MASKS_HEADERS = ["p", "members", "masks", "variance", "gain", "squared bias"]


def ensembles() -> Iterator[Masks]:
    """Balanced keys and fixed-overlap masks against independent keys, at equal passes."""
    images, test_images, labels, _ = load_split_digits()
    x = mx.array(test_images[:TEST_IMAGES])
    seeds = mx.random.split(mx.random.key(1), REPETITIONS)
    for p in RATES:
        mx.random.seed(0)
        network = DigitNetwork(p)
        train(network, images, labels, EPOCHS)
        network.eval()
        keys = mx.random.split(mx.random.key(0), REPETITIONS * max(MEMBERS))
        independent = with_keys(network, keys, x)
        for members in tqdm(MEMBERS, desc=f"p = {p}", leave=False):
            keys = mx.concatenate([balanced_keys(seed, members) for seed in seeds])
            answers = with_keys(network, keys, x)
            yield compare(p, members, "balanced keys", answers, independent)
            masks = fixed_overlap_of_layers(network, members, p)
            answers = with_masks(network, masks, x)
            yield compare(p, members, "fixed overlap", answers, independent)


def with_keys(network: DigitNetwork, keys: mx.array, x: mx.array) -> Floats:
    """Gives the probabilities ``(members, numbers)`` of each key's subnetwork."""
    logits = sample(network, keys, x, chunk=KEYS)
    return np.array(mx.softmax(logits, axis=-1).flatten(1))


def with_masks(network: DigitNetwork, masks: list[mx.array], x: mx.array) -> Floats:
    """Gives the same for masks ``(members, channels)`` of each layer."""
    masked = DigitNetwork()
    masked.update(network.parameters())

    def member(masks: list[mx.array]) -> mx.array:
        masked.dropouts = [partial(mx.multiply, mask) for mask in masks]
        return mx.softmax(masked(x), axis=-1).flatten()

    answers = []
    for start in range(0, len(masks[0]), KEYS):
        chosen = [mask[start : start + KEYS] for mask in masks]
        answers.append(np.array(mx.vmap(member)(chosen)))
    return np.concatenate(answers)


def fixed_overlap_of_layers(
    network: DigitNetwork, members: int, p: float
) -> list[mx.array]:
    """Gives each layer's masks, a set for each repetition, one after another."""
    generator = np.random.default_rng(0)
    layers = []
    for convolution in network.convolutions:
        channels = len(convolution.bias)
        sets = [fixed_overlap(channels, members, p, generator) for _ in range(REPETITIONS)]
        layers.append(mx.array(np.concatenate(sets)))
    return layers


def fixed_overlap(
    channels: int, members: int, p: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Draws scaled masks ``(members, channels)``, each with as many ones.

    These are at random among some more places than there are channels. The places where no
    mask has one are left out.

    Source: Durasov, Bagautdinov, Baque and Fua, "Masksembles for uncertainty estimation",
    CVPR 2021.
    """
    ones = round(channels * (1 - p))

    def off_by(places: int) -> float:
        return abs(places * (1 - (1 - ones / places) ** members) - channels)

    places = min(range(channels, 3 * channels), key=off_by)
    while True:
        masks = generator.random((members, places)).argsort().argsort() < ones
        masks = masks[:, masks.any(axis=0)]
        if masks.shape[1] == channels:
            return masks.astype(np.float32) * (channels / ones)


def compare(
    p: float, members: int, masks: str, answers: Floats, independent: Floats
) -> Masks:
    """Compares each repetition's mean over its members with that of independent members.

    Theirs varies as one of them does, divided by their number.
    """
    generator = np.random.default_rng(0)
    means = answers.reshape(REPETITIONS, members, -1).mean(1)
    ours = variance_and_resamples(means, generator)
    theirs = variance_and_resamples(independent, generator) / members
    low, high = np.quantile(theirs[1:] / ours[1:], (0.025, 0.975))
    # Both means are estimates, whose squared distance grows by their variances.
    noise = ours[0] / REPETITIONS + theirs[0] * members / len(independent)
    distance = np.square(means.mean(0) - independent.mean(0)).sum() - noise
    numbers = map(float, (ours[0], theirs[0] / ours[0], distance / theirs[0]))
    variance, gain, bias = numbers
    return Masks(p, members, masks, variance, gain, (float(low), float(high)), bias)


def variance_and_resamples(samples: Floats, generator: np.random.Generator) -> Floats:
    """Gives the variance, a sum over all columns, then those of bootstrap resamples."""
    n = len(samples)
    centred = samples - samples.mean(0)
    resamples = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    counts = np.concatenate([np.ones((1, n)), resamples])
    squares = counts @ np.square(centred).sum(1)
    return (squares - np.square(counts @ centred).sum(1) / n) / (n - 1)


EXPLANATION = (
    "`python benchmarks/uncertainty.py` wrote this page. Times are medians, of calls that "
    "took turns in one run. The loop evaluates one key at a time; a cached trunk is "
    "computed once, and the loop is over the head alone. The peak of `predict` is what it "
    "holds at most, and a chunk's is what the outputs of one chunk of keys need by "
    "themselves."
)
MASKS_EXPLANATION = (
    f"The mean of a few members' probabilities of {TEST_IMAGES} digits: its variance over "
    f"{REPETITIONS} repetitions, summed over digits and classes; the gain, which is the "
    "variance with independent keys over it, with its 95 % interval; and the squared bias, "
    "in units of the variance with independent keys. Its estimate has noise, and may be "
    "below 0. The masks of fixed overlap are those of Masksembles, scaled, in the network "
    "that was trained with dropout."
)


def write(path: pathlib.Path, comparisons: list[Comparison], masks: list[Masks]) -> None:
    """Writes the JSON and the tables."""
    where = machine(["chandrop", "mlx"])
    results = {
        "machine": where,
        "comparisons": [asdict(item) for item in comparisons],
        "masks": [asdict(item) for item in masks],
    }
    table = partial(tabulate, tablefmt="pipe", disable_numparse=True)
    rows = [comparison.row() for comparison in comparisons]
    whole = table(rows, HEADERS)
    gains = table([item.row() for item in masks], MASKS_HEADERS)
    short = table(
        [[row[i] for i in SHORT] for row in rows if is_short(row[0])],
        [HEADERS[i] for i in SHORT],
    )
    pairs = zip(masks[::2], masks[1::2], strict=True)
    short_gains = table(
        [
            [*balanced.row()[:2], balanced.row()[4], fixed.row()[4]]
            for balanced, fixed in pairs
        ],
        ["p", "members", "balanced keys", "fixed overlap (Masksembles)"],
    )
    parts = ["# Uncertainty, measured", heading(where), EXPLANATION, whole]
    parts += ["## Ensembles of a few members", MASKS_EXPLANATION, gains]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    path.with_suffix(".short.md").write_text(
        "\n\n".join([short, short_gains, heading(where)]) + "\n"
    )
    print(whole, gains, sep="\n\n")


def is_short(where: str) -> bool:
    """Whether a row is in the short table: of volumes, two classes stand for the others."""
    return "compiled" not in where and (
        "voxels" not in where or "2 classes, chunk=1" in where
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", default="benchmarks/results/uncertainty", type=pathlib.Path
    )
    arguments = parser.parse_args()
    comparisons = [
        comparison
        for measurement in tqdm([digits, long_trunk, summaries], desc="measuring")
        for comparison in measurement()
    ]
    write(arguments.output, comparisons, list(ensembles()))


if __name__ == "__main__":
    main()
