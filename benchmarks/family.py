"""Measures the members of the family against the floors of their formulas.

Run it with ``python benchmarks/family.py [--output benchmarks/results/NAME]``. Whatever is
compared takes turns in one process, and has its outputs evaluated.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import pandas as pd
import plots
import report
from matplotlib.figure import Figure
from measure import Call, medians
from mlx import nn
from report import Results, table, verdict
from tables import HEADLINE, by_x, in_milliseconds, with_ratio
from tqdm import tqdm

from chandrop.functional import (
    alpha_dropout_channels,
    concrete_dropout_channels,
    drop_block,
    drop_path,
    dropout2d,
    dropout_attention,
    gaussian_dropout_channels,
)
from chandrop.nn import (
    AlphaDropout,
    ConcreteDropout,
    DropBlock,
    DropPath,
    GaussianDropout,
    WeightDropout,
)

P, BLOCK_P = 0.5, 0.1
CHANNELS = 64
IMAGES, AXES = tuple(HEADLINE), (-3, -2)
SHAPES = [(16, 32, 32, CHANNELS), IMAGES, (32, 64, 64, CHANNELS)]
VOLUMES, VOLUME_AXES = (8, 16, 16, 16, CHANNELS), (-4, -3, -2)
SIZES = (2, 3, 5, 7)
# Queries, keys and values: examples, heads, length, width.
ATTENTION, ATTENTION_AXES = (8, 8, 128, 64), [(), (2,), (2, 3)]
WAYS = ("eager", "compiled")
AFTER_RELU = "compiled after relu"
MOST, MOST_FOR_BLOCKS, MOST_FOR_ATTENTION = 1.2, 2.0, 1.05
# The machine may change its speed every few seconds.
BLOCKS, QUICK_BLOCKS = 25, 3

Shape = tuple[int, ...]
Function = Callable[..., Any]
Mask = Callable[[Shape, mx.array], list[mx.array]]


def dropped(shape: Shape, key: mx.array, p: Any = P) -> list[mx.array]:
    return [mx.random.bernoulli(1 - p, shape, key=key) / (1 - p)]


def in_groups(shape: Shape, key: mx.array) -> list[mx.array]:
    (mask,) = dropped((*shape[:-1], 8), key)
    return [mx.repeat(mask, shape[-1] // 8, axis=-1)]


def alpha(shape: Shape, key: mx.array) -> list[mx.array]:
    kept = mx.random.bernoulli(1 - P, shape, key=key)
    return [kept * 0.8865, kept * 1.5585 - 0.7792]


def gaussian(shape: Shape, key: mx.array) -> list[mx.array]:
    return [1 + mx.random.normal(shape, key=key) * (P / (1 - P)) ** 0.5]


def concrete(shape: Shape, key: mx.array) -> list[mx.array]:
    u = mx.random.uniform(shape=shape, key=key)
    z = mx.sigmoid((LOGIT + mx.log(u) - mx.log(1 - u)) / 0.1)
    return [(1 - z) * (1 + mx.exp(LOGIT))]


RATES, LOGIT = mx.full((CHANNELS,), P), mx.array(0.0)
# Each member, a function ``(x, key)``, and in plain MLX its multiplier, a function ``(shape
# of a mask for each example and channel, key)``, which may also return a shift.
MEMBERS: dict[str, tuple[Function, Mask]] = {
    "dropout2d": (lambda x, key: dropout2d(x, P, key), dropped),
    "dropout2d, groups=8": (lambda x, key: dropout2d(x, P, key, groups=8), in_groups),
    "dropout2d, key[None]": (
        lambda x, key: dropout2d(x, P, key[None]),
        lambda shape, key: dropped((1, *shape[1:]), key),
    ),
    "dropout2d, p of shape (C,)": (
        lambda x, key: dropout2d(x, RATES, key),
        partial(dropped, p=RATES),
    ),
    "alpha_dropout_channels": (
        lambda x, key: alpha_dropout_channels(x, P, key, AXES),
        alpha,
    ),
    "gaussian_dropout_channels": (
        lambda x, key: gaussian_dropout_channels(x, P, key, AXES),
        gaussian,
    ),
    "concrete_dropout_channels": (
        lambda x, key: concrete_dropout_channels(x, LOGIT, key, AXES),
        concrete,
    ),
    "drop_path": (
        lambda x, key: drop_path(x, P, key),
        lambda shape, key: dropped((*shape[:-1], 1), key),
    ),
}


@dataclass
class Comparison:
    """Median seconds of this, of what it is held against, and of a mask beside that."""

    this: str
    shape: Shape
    way: str
    seconds: float
    against: str
    floor: float
    mask: float = 0.0
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        return self.seconds / (self.floor + self.mask)

    @property
    def place(self) -> str:
        return by_x(self.shape)

    def beside(self) -> str:
        """Names all that it is held against."""
        return f"`{self.against}`{' and the mask' * (self.mask > 0)}"

    def row(self) -> list[str]:
        cells = [f"`{self.this}`", self.place, self.way, in_milliseconds(self.seconds)]
        cells += [f"`{self.against}`", in_milliseconds(self.floor)]
        if self.mask:
            cells += [in_milliseconds(self.mask), f"{self.seconds / self.floor:.2f}"]
        return [*cells, f"{self.ratio:.2f}"]


def in_way(way: str, function: Function) -> Function:
    if way == "eager":
        return function
    if way == AFTER_RELU:
        return mx.compile(lambda x, *others: function(mx.maximum(x, 0), *others))
    return mx.compile(lambda *arguments: function(*arguments))


def call(function: Function, *arguments: mx.array) -> Call:
    return lambda: mx.eval(function(*arguments))


def floor(x: mx.array, mask: mx.array, shift: mx.array | None = None) -> mx.array:
    return x * mask if shift is None else x * mask + shift


def members(shapes: list[Shape], count: int) -> Iterator[Comparison]:
    """Every member against its formula with a ready-made mask, and the making of that."""
    cases = [(name, *MEMBERS[name], shape) for name in MEMBERS for shape in shapes]
    for case in tqdm(cases, desc="members"):
        yield from compare_member(*case, count)


def compare_member(
    name: str, function: Function, mask: Mask, shape: Shape, count: int
) -> Iterator[Comparison]:
    x, key = mx.random.normal(shape), mx.random.key(0)
    mask = partial(mask, (shape[0], 1, 1, shape[-1]))
    ready = mask(key)
    mx.eval(x, key, ready, RATES, LOGIT)
    for way in (*WAYS, AFTER_RELU):
        # Nothing comes before a mask.
        making = in_way("compiled" if way == AFTER_RELU else way, mask)
        calls = {
            "member": call(in_way(way, function), x, key),
            "floor": call(in_way(way, floor), x, *ready),
            "mask": call(making, key),
        }
        seconds = medians(calls, count)
        yield Comparison(
            name,
            shape,
            way,
            seconds["member"],
            "x * m" if len(ready) == 1 else "x * m + s",
            seconds["floor"],
            seconds["mask"],
            at_most=None if way == AFTER_RELU else MOST,
        )


def attention(count: int) -> Iterator[Comparison]:
    """Attention against its formula with a ready-made mask, and the making of that."""
    for axes in tqdm(ATTENTION_AXES, desc="attention"):
        yield from compare_attention(axes, count)


def compare_attention(axes: Shape, count: int) -> Iterator[Comparison]:
    q, k, v = (mx.random.normal(ATTENTION) for _ in range(3))
    key, scale = mx.random.key(0), ATTENTION[-1] ** -0.5
    of_weights = (*ATTENTION[:3], ATTENTION[2])
    mask_shape = tuple(1 if axis in axes else n for axis, n in enumerate(of_weights))
    mask = partial(dropped, mask_shape)
    (ready,) = mask(key)
    mx.eval(q, k, v, key, ready)

    def member(q: mx.array, k: mx.array, v: mx.array, key: mx.array) -> mx.array:
        return dropout_attention(q, k, v, P, key, scale=scale, spatial_axes=axes)

    def formula(q: mx.array, k: mx.array, v: mx.array, mask: mx.array) -> mx.array:
        scores = (scale * q) @ k.swapaxes(-1, -2)
        return (mx.softmax(scores, axis=-1, precise=True) * mask) @ v

    for way in WAYS:
        calls = {
            "member": call(in_way(way, member), q, k, v, key),
            "floor": call(in_way(way, formula), q, k, v, ready),
            "mask": call(in_way(way, mask), key),
        }
        seconds = medians(calls, count)
        yield Comparison(
            f"dropout_attention, {axes}",
            ATTENTION,
            way,
            seconds["member"],
            "(softmax(q @ k) * m) @ v",
            seconds["floor"],
            seconds["mask"],
            at_most=MOST_FOR_ATTENTION,
        )


def blocks(shapes: list[Shape], count: int) -> Iterator[Comparison]:
    """Dropping blocks against a max-pool of their size."""
    cases: list[tuple[Any, int, Shape, Shape]] = [
        (nn.MaxPool2d, size, AXES, shape) for size in SIZES for shape in shapes
    ]
    cases.append((nn.MaxPool3d, 3, VOLUME_AXES, VOLUMES))
    for case in tqdm(cases, desc="blocks"):
        yield from compare_blocks(*case, count)


def name_of_block(size: int, axes: Shape) -> str:
    return f"drop_block, {by_x([size] * len(axes))}"


def compare_blocks(
    pool: Any, size: int, axes: Shape, shape: Shape, count: int
) -> Iterator[Comparison]:
    x, key = mx.random.normal(shape), mx.random.key(0)
    mx.eval(x, key)

    def by_channel(x: mx.array, key: mx.array) -> mx.array:
        return drop_block(x, BLOCK_P, key, size, axes)

    def alike(x: mx.array, key: mx.array) -> mx.array:
        return drop_block(x, BLOCK_P, key, size, axes, groups=1)

    pooling = pool(size, stride=1, padding=size // 2)
    name, against = name_of_block(size, axes), f"{pool.__name__}({size})"
    for way in WAYS:
        calls = {
            name: call(in_way(way, by_channel), x, key),
            f"{name}, groups=1": call(in_way(way, alike), x, key),
            against: call(in_way(way, pooling), x),
        }
        seconds = medians(calls, count)
        pool_seconds = seconds.pop(against)
        for this, taken in seconds.items():
            yield Comparison(
                this, shape, way, taken, against, pool_seconds, at_most=MOST_FOR_BLOCKS
            )


def layers(shape: Shape, count: int) -> Iterator[Comparison]:
    """Layers against their functions."""
    x, key = mx.random.normal(shape), mx.random.key(0)
    mx.eval(x, key, LOGIT)
    of_members: dict[str, Any] = {
        "alpha_dropout_channels": AlphaDropout(P, AXES),
        "gaussian_dropout_channels": GaussianDropout(P, AXES),
        "concrete_dropout_channels": ConcreteDropout(P, AXES),
        "drop_path": DropPath(P),
    }
    pairs = {name: (layer, MEMBERS[name][0]) for name, layer in of_members.items()}
    size = max(SIZES)
    pairs[name_of_block(size, AXES)] = (
        DropBlock(BLOCK_P, size, AXES),
        lambda x, key: drop_block(x, BLOCK_P, key, size, AXES),
    )
    for name, (layer, function) in tqdm(pairs.items(), desc="layers"):
        mx.eval(layer.state)
        seconds = medians(
            {
                "layer": call(lambda x, layer=layer: (layer(x), layer.state), x),
                "function": call(function, x, key),
            },
            count,
        )
        this = type(layer).__name__
        yield Comparison(this, shape, "eager", seconds["layer"], name, seconds["function"])


def weights(count: int) -> Iterator[Comparison]:
    """Dropout of a module's parameter against the module with a masked one."""
    cases: list[tuple[Any, str, Shape]] = [
        (nn.Linear(512, 512), "weight", (64, 512)),
        (nn.LSTM(256, 256), "Wh", (16, 32, 256)),
    ]
    for case in tqdm(cases, desc="weights"):
        yield from compare_weights(*case, count)


def compare_weights(
    module: Any, name: str, shape: Shape, count: int
) -> Iterator[Comparison]:
    layer = WeightDropout(module, P, name=name)
    x, key = mx.random.normal(shape), mx.random.key(0)
    weight = module[name]
    mx.eval(x, key, layer.state)

    def masked(x: mx.array, key: mx.array) -> Any:
        (mask,) = dropped(weight.shape, key)
        module[name] = weight * mask
        return module(x)

    for way in WAYS:
        calls = {
            "layer": call(in_way(way, lambda x, key: layer(x, key=key)), x, key),
            "floor": call(in_way(way, masked), x, key),
        }
        seconds = medians(calls, count)
        this, against = f"WeightDropout({type(module).__name__})", f"{name} * m, m drawn"
        yield Comparison(
            *(this, shape, way, seconds["layer"], against, seconds["floor"]), at_most=MOST
        )


EXPLANATION = (
    "`python benchmarks/family.py` wrote this page: medians, in milliseconds, of calls "
    f"that took turns in one run, in float32, channels last, p = {P}, and {BLOCK_P} for "
    "blocks."
)
PROMISE = (
    "The floor of a member is its formula in plain MLX with a ready-made mask `m`, and for "
    "alpha dropout a shift `s`, eager or compiled as the member is. A member makes its "
    "mask, too, so it is held against the floor and a small mask in plain MLX together, "
    "each timed in calls of its own; the table of members has the ratio to the floor alone "
    "as well. "
    "Blocks are held against a max-pool of stride 1 alone, though they draw."
)


def targets(comparisons: Iterable[Comparison]) -> str:
    """The table of what is promised, each at its worst."""
    promised: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.at_most is not None:
            promised.setdefault(comparison.this, []).append(comparison)
    rows = []
    for this, compared in promised.items():
        worst = max(compared, key=lambda comparison: comparison.ratio)
        rows.append(
            [
                f"`{this}`",
                worst.beside(),
                f"{worst.at_most:.2f}",
                f"{worst.ratio:.2f}",
                f"{worst.place}, {worst.way}",
                verdict(worst.ratio <= worst.at_most),
            ]
        )
    return table(rows, ["time of", "over that of", "at most", "worst", "at", ""])


def is_shown(comparison: Comparison) -> bool:
    """Whether the docs show it: one shape of each kind, in both ways."""
    places = [by_x(shape) for shape in (IMAGES, VOLUMES, ATTENTION)]
    return comparison.place in places and comparison.way in WAYS


def short(comparisons: Iterable[Comparison]) -> str:
    """The table of the docs."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for comparison in filter(is_shown, comparisons):
        names = (f"`{comparison.this}`", comparison.place, comparison.beside())
        together = comparison.floor + comparison.mask
        cell = with_ratio(comparison.seconds, together)
        rows.setdefault(names, []).append(cell)
    return table(
        [[this, place, *cells, beside] for (this, place, beside), cells in rows.items()],
        ["milliseconds", "of", *WAYS, "in brackets, over"],
    )


def compared(results: Results, *kinds: str) -> list[Comparison]:
    # Stored results may be older than a kind.
    return [Comparison(**item) for kind in kinds for item in results.get(kind, [])]


def plot(results: Results) -> Figure:
    shown = filter(is_shown, compared(results, "members", "blocks"))
    rows = [{"name": item.this, "way": item.way, "ratio": item.ratio} for item in shown]
    return plots.members(pd.DataFrame(rows))


def page(results: Results) -> list[str]:
    headers = ["of", "at", "", "ms", "against", "ms", "mask, ms", "ratio", "with the mask"]
    plain_headers = [*headers[:6], "ratio"]

    def whole(kind: str, headers: list[str]) -> str:
        return table([item.row() for item in compared(results, kind)], headers)

    return [
        EXPLANATION,
        f"## Targets\n\n{PROMISE}",
        targets(compared(results, "members", "blocks", "weights")),
        "## Members",
        "After relu, both `x` are `mx.maximum(x, 0)`, and nothing is promised.",
        whole("members", headers),
        "## Blocks",
        whole("blocks", plain_headers),
        "## Weights",
        "The floor is the module in plain MLX, called with the parameter times a mask that "
        "is drawn in the call.",
        whole("weights", plain_headers),
        "## Layers",
        "A layer also advances its key.",
        whole("layers", plain_headers),
    ]


def measure(arguments: argparse.Namespace) -> Results:
    shapes, count = ([IMAGES], QUICK_BLOCKS) if arguments.quick else (SHAPES, BLOCKS)
    return {
        "members": [*members(shapes, count), *attention(count)],
        "blocks": list(blocks(shapes, count)),
        "weights": list(weights(count)),
        "layers": list(layers(IMAGES, count)),
    }


def main() -> None:
    parser = report.parser(__doc__, "family")
    parser.add_argument("--quick", action="store_true", help="one shape, and few blocks")
    report.run(
        parser.parse_args(),
        ["chandrop", "mlx"],
        measure,
        "The family, measured",
        page,
        plot,
        short=lambda results: [short(compared(results, "members", "blocks"))],
    )


if __name__ == "__main__":
    main()
