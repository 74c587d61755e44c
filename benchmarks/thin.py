"""Measures thin networks, which do not compute what dropout drops, against dense ones.

Run it with ``python benchmarks/thin.py [--output benchmarks/results/NAME]``. Whatever is
compared takes turns in one process, and has its outputs evaluated.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import pandas as pd
import plots
import report
import torch
from matplotlib.figure import Figure
from measure import Call, medians, peak_megabytes
from mlx.optimizers import SGD
from report import Results, table, verdict
from tqdm import tqdm
from training import Residual, training_step

from chandrop.nn import Dropout2d, DropPath, functional_call
from chandrop.thin import PatchDropout, ThinDropout, ThinDropPath, ThinSequential
from chandrop.uncertainty import predict

RATES = (0.25, 0.5, 0.75)
P, DEPTH_P = 0.5, 0.4
COLOURS, WIDTH, CLASSES = 3, 64, 10
CONVOLUTIONS, BLOCKS = 4, 8
PATCHES, DIMS, HEADS, LAYERS = 196, 192, 3, 4
MEMBERS = 16
LEARNING_RATE = 1e-3
WAYS = ("eager", "compiled")

THIN = "ThinSequential"
MASKED = "ThinDropout in nn.Sequential"
OURS = "chandrop.nn.Dropout2d"
THEIRS = "mlx.nn.Dropout2d"
NONE = "no dropout"
THIN_DEPTH, DENSE_DEPTH = "ThinDropPath", "DropPath"
FEWER_TOKENS = "PatchDropout"

STEP = "training step"
SAMPLES = f"{MEMBERS} samples"
BLOCK = "residual block"
DEPTH = "stochastic depth"
TOKENS = "vision transformer"
TORCH = "torch's step"

Layer = Callable[[mx.array], mx.array]


@dataclass
class Size:
    """How many images of how many pixels are computed, and how many times."""

    images: int = 16
    side: int = 20
    # Sixteen convolutions fit into the same time at a quarter of the pixels.
    deep_side: int = 10
    token_images: int = 8
    rounds: int = 7
    long_rounds: int = 5

    def inputs(self, channels: int, deep: bool = False) -> tuple[mx.array, mx.array]:
        """Returns images and labels."""
        side = self.deep_side if deep else self.side
        x = mx.random.normal((self.images, side, side, channels))
        labels = mx.random.randint(0, CLASSES, (self.images,))
        mx.eval(x, labels)
        return x, labels


QUICK = Size(images=4, side=8, deep_side=4, token_images=1, rounds=2, long_rounds=2)


@dataclass
class Comparison:
    """Medians of one run, of the first, which is thin, and of what it is held against.

    Attributes:
        of: what is computed.
        way: eager or compiled.
        p: the rate.
        limit: how many times as many multiply-adds the others have; none if the first
            skips nothing.
        seconds: the medians by name.
        megabytes: the peak memory by name.
    """

    of: str
    way: str
    p: float
    limit: float | None
    seconds: dict[str, float]
    megabytes: dict[str, float] = field(default_factory=dict)

    @property
    def first(self) -> str:
        return next(iter(self.seconds))

    def faster(self, other: str) -> float:
        return self.seconds[other] / self.seconds[self.first]


def convolution(before: int = WIDTH, after: int = WIDTH) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)


def head() -> list[Layer]:
    return [lambda x: x.mean((1, 2)), nn.Linear(WIDTH, CLASSES)]


def dropouts(p: float) -> dict[str, tuple[type[nn.Sequential], list[nn.Module]]]:
    """Returns for each way to drop channels what holds the layers, and its dropout."""
    return {
        THIN: (ThinSequential, [ThinDropout(p)]),
        MASKED: (nn.Sequential, [ThinDropout(p)]),
        OURS: (nn.Sequential, [Dropout2d(p)]),
        THEIRS: (nn.Sequential, [nn.Dropout2d(p)]),
        NONE: (nn.Sequential, []),
    }


def plain_network(name: str, p: float) -> nn.Module:
    """Four convolutions, each with a relu and dropout behind it."""
    layers: list[Layer] = []
    for i in range(CONVOLUTIONS):
        sequential, dropout = dropouts(p)[name]
        layers += [convolution(WIDTH if i else COLOURS), nn.ReLU(), *dropout]
    return sequential(*layers, *head())


def residual_network(name: str, p: float) -> nn.Module:
    """A residual block with dropout inside."""
    sequential, dropout = dropouts(p)[name]
    inside = sequential(convolution(), nn.ReLU(), *dropout, convolution())
    return nn.Sequential(Residual(inside), *head())


def deep_network(name: str, p: float) -> nn.Module:
    """Residual blocks with stochastic depth."""
    layers: dict[str, Callable[[], nn.Module]] = {
        THIN_DEPTH: lambda: ThinDropPath(p),
        DENSE_DEPTH: lambda: DropPath(p),
        NONE: nn.Identity,
    }
    insides = [
        nn.Sequential(convolution(), nn.ReLU(), convolution()) for _ in range(BLOCKS)
    ]
    blocks = [Residual(inside, layers[name]()) for inside in insides]
    return nn.Sequential(*blocks, *head())


class VisionTransformer(nn.Module):
    """A vision transformer, for the pixels of patches."""

    def __init__(self, name: str, p: float):
        super().__init__()
        self.embedding = nn.Linear(DIMS, DIMS)
        self.class_token = mx.zeros((1, 1, DIMS))
        self.positions = mx.random.normal((1, 1 + PATCHES, DIMS))
        self.dropout = PatchDropout(p) if name == FEWER_TOKENS else nn.Identity()
        self.encoder = nn.TransformerEncoder(LAYERS, DIMS, HEADS, norm_first=True)
        self.head = nn.Linear(DIMS, CLASSES)

    def __call__(self, patches: mx.array) -> mx.array:
        class_token = mx.broadcast_to(self.class_token, (len(patches), 1, DIMS))
        x = mx.concatenate([class_token, self.embedding(patches)], axis=1)
        x = self.dropout(x + self.positions)
        return self.head(self.encoder(x, None)[:, 0])


def limit(dense: Sequence[int], thin: Sequence[int], passes: Sequence[int]) -> float:
    """Returns how many times as many multiply-adds dense convolutions have.

    Args:
        dense: the channels before the first convolution, between them and after the last.
        thin: the same, of those that are computed.
        passes: how many times each convolution's multiply-adds are done.
    """

    def multiply_adds(channels: Sequence[int]) -> int:
        pairs = zip(pairwise(channels), passes, strict=True)
        return sum(before * after * times for (before, after), times in pairs)

    return multiply_adds(dense) / multiply_adds(thin)


def kept(p: float, of: int = WIDTH) -> int:
    return round((1 - p) * of)


def plain_limit(p: float, training: bool) -> float:
    # A step does each convolution again for the gradient of its weights and for that of
    # its input, except that the images' gradient is not needed.
    passes = [2, *[3] * (CONVOLUTIONS - 1)] if training else [1] * CONVOLUTIONS
    dense, thin = [WIDTH] * CONVOLUTIONS, [kept(p)] * CONVOLUTIONS
    return limit([COLOURS, *dense], [COLOURS, *thin], passes)


def tokens_limit(p: float) -> float:
    def multiply_adds(patches: int) -> int:
        tokens = 1 + patches
        # Of a layer: four matrices for attention, two of four times the size behind it,
        # the scores, and the values that these weigh.
        layer = 12 * DIMS**2 * tokens + 2 * DIMS * tokens**2
        # A step does each layer again for the gradient of its weights and for that of its
        # input, except that the patches' gradient is not needed.
        return 2 * DIMS**2 * PATCHES + 3 * LAYERS * layer

    return multiply_adds(PATCHES) / multiply_adds(kept(p, PATCHES))


def compare_steps(
    of: str,
    p: float,
    limit: float,
    make: Callable[[str, float], nn.Module],
    names: Sequence[str],
    inputs: tuple[mx.array, mx.array],
    rounds: int,
) -> Iterator[Comparison]:
    """Compares the training steps of networks. The first one is thin."""
    for way in WAYS:
        calls = {
            name: partial(
                training_step(make(name, p), SGD(LEARNING_RATE), way == "compiled"), *inputs
            )
            for name in names
        }
        seconds = medians(calls, rounds, long=True)
        megabytes = {name: peak_megabytes(call) for name, call in calls.items()}
        yield Comparison(of, way, p, limit, seconds, megabytes)


def steps(size: Size) -> Iterator[Comparison]:
    """The network's training step."""
    inputs = size.inputs(COLOURS)
    for p in tqdm(RATES, desc=STEP, leave=False):
        most, names = plain_limit(p, training=True), tuple(dropouts(p))
        yield from compare_steps(STEP, p, most, plain_network, names, inputs, size.rounds)


def samples(size: Size) -> Iterator[Comparison]:
    """Sampling subnetworks of the network."""
    x, _ = size.inputs(COLOURS)
    keys = mx.random.split(mx.random.key(0), MEMBERS)
    separate = list(keys)
    mx.eval(keys, separate)
    for p in tqdm(RATES, desc=SAMPLES, leave=False):
        thin, theirs = plain_network(THIN, p), plain_network(THEIRS, p)
        mx.eval(thin.state, theirs.state)

        def member(key: mx.array, thin: nn.Module = thin) -> mx.array:
            return functional_call(thin, {}, x, key=key, dropout=True)

        def loop(member: Layer = member) -> None:
            for key in separate:
                mx.eval(member(key))

        def loop_of_theirs(theirs: nn.Module = theirs) -> None:
            for _ in range(MEMBERS):
                mx.eval(theirs(x))

        thin.eval()
        calls = {f"{THIN}, loop": loop, f"{THEIRS}, loop": loop_of_theirs}
        if p == P:
            calls |= {
                f"{THIN}, mx.vmap": partial(lambda f: mx.eval(mx.vmap(f)(keys)), member),
                f"{THIN}, predict": partial(predict, thin, keys, x),
                f"{THIN}, predict, chunk=1": partial(predict, thin, keys, x, chunk=1),
            }
        seconds = medians(calls, size.long_rounds, long=True)
        megabytes = {name: peak_megabytes(call) for name, call in calls.items()}
        most = plain_limit(p, training=False)
        yield Comparison(SAMPLES, "eager", p, most, seconds, megabytes)


def residual_blocks(size: Size) -> Iterator[Comparison]:
    """A residual block, thin inside."""
    most = limit([WIDTH] * 3, [WIDTH, kept(P), WIDTH], passes=[2, 3])
    names, inputs = tuple(dropouts(P)), size.inputs(WIDTH)
    yield from compare_steps(BLOCK, P, most, residual_network, names, inputs, size.rounds)


def depth(size: Size) -> Iterator[Comparison]:
    """Residual blocks with stochastic depth."""
    most = size.images / kept(DEPTH_P, size.images)
    names = (THIN_DEPTH, DENSE_DEPTH, NONE)
    inputs = size.inputs(WIDTH, deep=True)
    yield from compare_steps(DEPTH, DEPTH_P, most, deep_network, names, inputs, size.rounds)


def tokens(size: Size) -> Iterator[Comparison]:
    """A vision transformer that leaves tokens out."""
    x = mx.random.normal((size.token_images, PATCHES, DIMS))
    labels = mx.random.randint(0, CLASSES, (size.token_images,))
    mx.eval(x, labels)
    yield from compare_steps(
        *(TOKENS, P, tokens_limit(P), VisionTransformer, (FEWER_TOKENS, NONE)),
        *((x, labels), size.long_rounds),
    )


def in_torch(size: Size) -> Iterator[Comparison]:
    """The network's training step in torch, which skips nothing either."""
    torch.set_num_threads(1)
    x = torch.randn(size.images, COLOURS, size.side, size.side)
    labels = torch.randint(0, CLASSES, (size.images,))
    calls = {
        "torch.nn.Dropout2d": torch_step(x, labels, lambda: [torch.nn.Dropout2d(P)]),
        NONE: torch_step(x, labels, list),
    }
    seconds = medians(calls, 5 * size.rounds, long=True)
    yield Comparison(TORCH, "eager", P, None, seconds)


def torch_step(
    x: torch.Tensor, labels: torch.Tensor, dropout: Callable[[], list[torch.nn.Module]]
) -> Call:
    layers: list[torch.nn.Module] = []
    for i in range(CONVOLUTIONS):
        before = WIDTH if i else COLOURS
        layers += [torch.nn.Conv2d(before, WIDTH, 3, padding=1), torch.nn.ReLU()]
        layers += dropout()
    layers += [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


MEASUREMENTS = [steps, samples, residual_blocks, depth, tokens, in_torch]

# How many times faster than what the thin one has to be, at which rate.
TARGETS = [
    (STEP, P, THEIRS, 2.8),
    (SAMPLES, P, f"{THEIRS}, loop", 3.3),
    (BLOCK, P, THEIRS, 1.7),
    (DEPTH, DEPTH_P, DENSE_DEPTH, 1.4),
    (TOKENS, P, NONE, 1.7),
]
# What the short table holds each against.
AGAINST = {of: other for of, _, other, _ in TARGETS}


def targets(comparisons: Sequence[Comparison]) -> str:
    """The table of what is promised, each at its worst."""
    rows = []
    for of, p, other, at_least in TARGETS:
        compared = [item for item in comparisons if (item.of, item.p) == (of, p)]
        worst = min(compared, key=lambda item: item.faster(other))
        faster = worst.faster(other)
        cells = [f"{figure:.2f}" for figure in (at_least, faster, worst.limit)]
        met = verdict(faster >= at_least)
        rows.append([of, str(p), other, *cells, worst.way, met])
    headers = ["of", "p", "times faster than", "at least", "worst", "limit", "at", ""]
    return table(rows, headers)


def whole(comparisons: Sequence[Comparison]) -> str:
    """Every figure of one kind."""
    rows = []
    for item in comparisons:
        for name, seconds in item.seconds.items():
            cells = [f"{seconds * 1e3:.0f}", f"{item.faster(name):.2f}", limit_of(item)]
            if item.megabytes:
                cells.append(f"{item.megabytes[name]:.1f}")
            rows.append([str(item.p), item.way, name, *cells])
    headers = ["p", "", "with", "ms", f"over {comparisons[0].first}", "limit", "peak, MB"]
    return table(rows, headers[: len(rows[0])])


def held(comparisons: Sequence[Comparison]) -> list[tuple[Comparison, str]]:
    """Returns what the docs show, with what they hold it against."""
    return [(item, AGAINST[item.of]) for item in comparisons if item.of in AGAINST]


def short(comparisons: Sequence[Comparison]) -> str:
    """The table of the docs: how many times faster, and how many times less memory."""
    rows: dict[tuple[str, float], list[str]] = {}
    for item, other in held(comparisons):
        faster = f"{item.faster(other):.2f}"
        if item.way == "compiled":
            rows[item.of, item.p][4] = faster
            continue
        memory = "-"
        if item.megabytes:
            memory = f"{item.megabytes[other] / item.megabytes[item.first]:.2f}"
        cells = [other.removesuffix(", loop"), faster, "-", limit_of(item), memory]
        rows[item.of, item.p] = [item.of, str(item.p), *cells]
    headers = ["times faster", "p", "than", "eager", "compiled", "limit", "less memory"]
    return table(list(rows.values()), headers)


def limit_of(comparison: Comparison) -> str:
    return "-" if comparison.limit is None else f"{comparison.limit:.2f}"


def plot(results: Results) -> Figure:
    rows = [
        {
            "name": f"{item.of}, p = {item.p}",
            "of": item.of,
            "p": item.p,
            "way": item.way,
            "faster": item.faster(other),
            "limit": item.limit,
        }
        for item, other in held(compared(results))
    ]
    return plots.speedups(pd.DataFrame(rows))


EXPLANATION = (
    "`python benchmarks/thin.py` wrote this page: medians of calls that took turns in one "
    "run, in float32, channels last. MLX's CPU backend uses one core, and torch was given "
    "one. The limit is how many times as many multiply-adds the convolutions, or matrices, "
    "of the dense network have, in a step or in a call."
)


def sections(size: Size) -> dict[str, str]:
    images = f"{size.images} images of {size.side}x{size.side}"
    deep_images = f"{size.images} images of {size.deep_side}x{size.deep_side}"
    return {
        STEP: f"The network: {CONVOLUTIONS} convolutions of 3x3 with padding, of {COLOURS} "
        f"and then {WIDTH} channels, each with a relu and dropout behind it, the mean over "
        f"the pixels and a linear layer; {images}. A step: the loss, its gradient and an "
        "update by SGD. The peak is what a step holds beside the network and the images.",
        SAMPLES: "Forward passes of the same network. Each is one subnetwork for the whole "
        "batch, but with `mlx.nn.Dropout2d`, which draws a mask for each image. In a loop, "
        "each is evaluated before the next. Under `mx.vmap` the weights have a batch axis, "
        "and MLX computes a grouped convolution.",
        BLOCK: "A step of `x + inside(x)`, where inside is a convolution, a relu, dropout "
        f"and a convolution, of {WIDTH} channels, the mean and a linear layer; {images}.",
        DEPTH: f"A step of {BLOCKS} residual blocks, each of a convolution, a relu and a "
        f"convolution, of {WIDTH} channels, the mean and a linear layer; {deep_images}, of "
        f"which a block computes {kept(DEPTH_P, size.images)}.",
        TOKENS: f"A step of a vision transformer: {LAYERS} layers of {DIMS} channels and "
        f"{HEADS} heads, for {PATCHES} patches and a class token of each of "
        f"{size.token_images} images, of which they compute {kept(P, PATCHES)} patches.",
        TORCH: "A step of the first network in torch, channels first, on one core: its "
        "dropout computes what it drops, too.",
    }


def page(results: Results) -> list[str]:
    items = compared(results)
    parts = [EXPLANATION, "## Targets", targets(items)]
    for of, text in sections(Size(**results["size"])).items():
        title = f"## {of[0].upper()}{of[1:]}"
        parts += [title, text, whole([item for item in items if item.of == of])]
    return parts


def measure(arguments: argparse.Namespace) -> Results:
    size = QUICK if arguments.quick else Size()
    mx.random.seed(0)
    progress = tqdm(MEASUREMENTS, desc="measuring")
    items = [item for measurement in progress for item in measurement(size)]
    return {"size": asdict(size), "comparisons": items}


def compared(results: Results) -> list[Comparison]:
    return [Comparison(**item) for item in results["comparisons"]]


def main() -> None:
    parser = report.parser(__doc__, "thin")
    parser.add_argument("--quick", action="store_true", help="small images, few rounds")
    report.run(
        parser.parse_args(),
        ["chandrop", "mlx", "torch"],
        measure,
        "Thin networks, measured",
        page,
        plot,
        short=lambda results: [short(compared(results))],
    )


if __name__ == "__main__":
    main()
