"""Measures whether networks still train well with masks that thin them.

Run it with ``python benchmarks/thin_training.py [--output benchmarks/results/NAME]``. Two
networks learn two tasks (see ``image_tasks.py``) without dropout, with masks for each
example, and with thin masks, which the batch shares. Time is the number of steps times the
median time of a step, which is measured apart: all methods take turns in one process. The
JSON is written after every run, and ``--resume`` goes on from there.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pandas as pd
import plots
import report
from image_tasks import CLASSES, IMAGE_TASKS, ImageTask
from matplotlib.figure import Figure
from measure import Call, medians
from mlx.optimizers import Adam
from report import Results, table
from tqdm import tqdm
from training import Residual, training_step

from chandrop.nn import Dropout2d
from chandrop.thin import ThinDropout, ThinSequential
from chandrop.uncertainty import (
    expected_calibration_error,
    negative_log_likelihood,
)

WIDTH = 32
BATCH, LEARNING_RATE = 32, 2e-3
SEEDS, STEPS, EVALUATIONS = 5, 500, 10
BLOCKS = 25
# The accuracies to reach, as parts of the final one without dropout.
LEVELS = (0.97, 0.99)
SCORED = 100  # Images at a time.

PACKAGES = ["chandrop", "mlx"]
CASE = ["task", "network", "method"]
# The measures, with their titles in a table and how many digits to write.
MEASURES = {
    "accuracy": ("accuracy, %,", 1),
    "negative log-likelihood": ("NLL", 3),
    "expected calibration error": ("ECE, %,", 1),
}


class Method(NamedTuple):
    """The kind of layers of a network, and how many times as many steps it takes.

    Thin steps are cheaper: with more of them the curves are about as long in seconds.
    """

    sequential: type[nn.Sequential]
    dropout: Callable[[float], nn.Module] | None = None
    p: float = 0.0
    longer: float = 1

    def dropouts(self) -> list[nn.Module]:
        return [] if self.dropout is None else [self.dropout(self.p)]


NONE = "no dropout"
METHODS = {
    NONE: Method(nn.Sequential),
    "per example, p = 0.25": Method(nn.Sequential, Dropout2d, 0.25),
    "per example, p = 0.5": Method(nn.Sequential, Dropout2d, 0.5),
    "thin, p = 0.25": Method(ThinSequential, ThinDropout, 0.25, longer=1.5),
    "thin, p = 0.5": Method(ThinSequential, ThinDropout, 0.5, longer=2.5),
}


def three_by_three(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, WIDTH, kernel_size=3, padding=1)


def with_head(trunk: nn.Module, size: int) -> nn.Module:
    linear = nn.Linear(WIDTH * (size // 4) ** 2, CLASSES)
    return nn.Sequential(trunk, lambda x: x.flatten(1), linear)


def plain(method: Method, size: int) -> nn.Module:
    """Three convolutions, each followed by dropout, and a linear layer."""
    layers: list[nn.Module] = []
    for channels, pools in ((1, 1), (WIDTH, 1), (WIDTH, 0)):
        layers += [three_by_three(channels), nn.ReLU(), *[nn.MaxPool2d(2, 2)] * pools]
        layers += method.dropouts()
    return with_head(method.sequential(*layers), size)


def block(method: Method) -> nn.Module:
    """A residual block of three convolutions, with dropout inside."""
    layers = [nn.Conv2d(WIDTH, WIDTH, kernel_size=1), nn.ReLU(), *method.dropouts()]
    layers += [three_by_three(WIDTH), nn.ReLU(), *method.dropouts()]
    layers += [nn.Conv2d(WIDTH, WIDTH, kernel_size=1)]
    return Residual(method.sequential(*layers))


def residual(method: Method, size: int) -> nn.Module:
    """A convolution, two residual blocks, and a linear layer."""
    layers = [three_by_three(1), nn.ReLU(), nn.MaxPool2d(2, 2), block(method)]
    layers += [nn.MaxPool2d(2, 2), block(method), nn.ReLU()]
    return with_head(nn.Sequential(*layers), size)


NETWORKS = {"plain": plain, "residual": residual}


def batches(task: ImageTask, steps: int, seed: int) -> Iterator[tuple[mx.array, mx.array]]:
    """Yields batches, with each image in one of them, in another order in every epoch."""
    generator = np.random.default_rng(seed)
    count = len(task.labels) // BATCH
    for step in range(steps):
        if step % count == 0:
            order = mx.array(generator.permutation(len(task.labels)))
        place = order[step % count * BATCH :][:BATCH]
        yield task.images[place], task.labels[place]


def score(network: nn.Module, images: mx.array, labels: mx.array) -> dict[str, float]:
    """Scores a network, with its dropout off, on images it was not trained with."""
    parts = mx.split(images, range(SCORED, len(images), SCORED))
    network.eval()
    probabilities = mx.softmax(mx.concatenate([network(part) for part in parts]), axis=-1)
    network.train()
    right = probabilities.argmax(-1) == labels
    return {
        "accuracy": 100 * right.mean().item(),
        "negative log-likelihood": negative_log_likelihood(probabilities, labels).item(),
        "expected calibration error": 100
        * expected_calibration_error(probabilities, labels).item(),
    }


def learn(
    task_name: str, network_name: str, method_name: str, seed: int, steps: int, on: str
) -> dict[str, Any]:
    """Trains a network, and scores it before, and then at equal distances."""
    task, method = IMAGE_TASKS[task_name](), METHODS[method_name]
    scored = getattr(task, f"{on}_images"), getattr(task, f"{on}_labels")
    mx.random.seed(seed)
    network = NETWORKS[network_name](method, size=task.images.shape[1])
    step = training_step(network, Adam(LEARNING_RATE))
    steps = round(steps * method.longer)
    scores = [{"steps": 0} | score(network, *scored)]
    for done, batch in enumerate(batches(task, steps, seed), start=1):
        step(*batch)
        if done % (steps // EVALUATIONS) == 0:
            scores.append({"steps": done} | score(network, *scored))
    case = dict(zip(CASE, (task_name, network_name, method_name), strict=True))
    return case | {"seed": seed} | pd.DataFrame(scores).to_dict("list")


def step_milliseconds(
    task_name: str, network_name: str, count: int
) -> Iterator[dict[str, Any]]:
    """Yields the median milliseconds of every method's step."""
    task = IMAGE_TASKS[task_name]()
    some = itertools.cycle(list(batches(task, len(task.labels) // BATCH, seed=0)))

    def call(method: Method) -> Call:
        network = NETWORKS[network_name](method, size=task.images.shape[1])
        step = training_step(network, Adam(LEARNING_RATE))
        return lambda: step(*next(some))

    calls = {name: call(method) for name, method in METHODS.items()}
    for name, seconds in medians(calls, count).items():
        case = dict(zip(CASE, (task_name, network_name, name), strict=True))
        yield case | {"milliseconds": seconds * 1e3}


class Study:
    """The runs and times of steps so far, in a file."""

    def __init__(self, path: Path, resume: bool):
        self.path = path
        if resume and path.with_suffix(".json").exists():
            # The figures are as old as the oldest of them: an unknown commit stays so.
            self.results = {"commit": None, "dirty": None} | report.load(path)
        else:
            self.results = report.origin(PACKAGES) | {"steps": [], "runs": []}

    def has(self, kind: str, *names: str | int) -> bool:
        """Whether it has an entry that begins with these."""
        return any(
            tuple(entry.values())[: len(names)] == names for entry in self.results[kind]
        )

    def add(self, kind: str, *entries: dict[str, Any]) -> None:
        self.results[kind] += entries
        report.store(self.path, self.results)


def measure(arguments: argparse.Namespace) -> Results:
    """Measures all that the study does not have: a seed of all cases, and then another."""
    study = Study(arguments.output, arguments.resume)
    settings = list(itertools.product(IMAGE_TASKS, NETWORKS))
    for setting in tqdm(settings, desc="steps"):
        if not study.has("steps", *setting):
            study.add("steps", *step_milliseconds(*setting, arguments.blocks))
    cases = list(itertools.product(range(arguments.seeds), IMAGE_TASKS, NETWORKS, METHODS))
    for seed, *case in tqdm(cases, desc="runs"):
        if not study.has("runs", *case, seed):
            study.add("runs", learn(*case, seed, arguments.steps, arguments.on))
    return study.results


def scores_of(results: Results) -> pd.DataFrame:
    """Returns a row for each score, with the seconds of training until it."""
    runs = pd.DataFrame(results["runs"]).explode(["steps", *MEASURES])
    runs = runs.merge(pd.DataFrame(results["steps"]), on=CASE)
    runs["seconds"] = runs["steps"] * runs["milliseconds"] / 1e3
    return runs.astype(dict.fromkeys(["steps", "seconds", *MEASURES], float))


def at(run: pd.DataFrame, column: str, value: float) -> pd.Series:
    """Returns a run's scores where a column has a value, on a line between two of them."""
    columns = ["steps", "seconds", *MEASURES]
    values = [np.interp(value, run[column], run[name]) for name in columns]
    return pd.Series(values, columns)


def reached(run: pd.DataFrame, level: float) -> pd.Series:
    """Returns the steps and seconds after which a run first has an accuracy, or nan."""
    above = run["accuracy"] >= level
    if not above.any():
        return pd.Series({"steps": np.nan, "seconds": np.nan})
    last = int(above.argmax())
    rise = run.iloc[max(last - 1, 0) : last + 1]
    return at(rise, "accuracy", level)[["steps", "seconds"]]


class Comparison(NamedTuple):
    """Of one task and network. A frame has a row for each method and seed.

    Attributes:
        milliseconds: those of a step by method.
        places: the scores after equal steps and after equal time.
        levels: the steps and seconds to each accuracy that is to be reached.
    """

    milliseconds: pd.Series
    places: dict[str, pd.DataFrame]
    levels: dict[float, pd.DataFrame]


def compare(scores: pd.DataFrame) -> Comparison:
    runs = scores.groupby(["method", "seed"], sort=False)
    # The fewest steps that a method was given, and when the first method is done.
    steps, seconds = runs[["steps", "seconds"]].max().min()
    without = runs.last()["accuracy"][NONE].mean()
    levels = [round(level * without, 1) for level in LEVELS]
    of_runs = partial(runs.apply, include_groups=False)
    return Comparison(
        scores.groupby("method")["milliseconds"].first(),
        {
            f"{steps:.0f} steps": of_runs(at, column="steps", value=steps),
            f"{seconds:.1f} s": of_runs(at, column="seconds", value=seconds),
        },
        {level: of_runs(reached, level=level) for level in levels},
    )


def by_method(values: pd.DataFrame, column: str, function: Any, *arguments: Any) -> Any:
    """Applies a function to each method's seeds."""
    return values[column].groupby(level="method").agg(function, *arguments)


def spread(of_seeds: pd.Series, digits: int) -> str:
    """Writes the mean and deviation over seeds."""
    missing = of_seeds.isna().sum()
    if missing:
        return f"not with {missing} of {len(of_seeds)} seeds"
    deviation = of_seeds.std() if len(of_seeds) > 1 else 0
    return f"{of_seeds.mean():.{digits}f} ± {deviation:.{digits}f}"


def of_methods(columns: dict[str, pd.Series]) -> str:
    """A table with a row for each method."""
    rows = pd.DataFrame(columns).loc[list(METHODS)].rename_axis(None)
    return table(rows, headers="keys")


def scores_table(comparison: Comparison) -> str:
    columns = {"ms a step": comparison.milliseconds.map("{:.1f}".format)}
    for when, values in comparison.places.items():
        for measure, (title, digits) in MEASURES.items():
            columns[f"{title} in {when}"] = by_method(values, measure, spread, digits)
    return of_methods(columns)


def levels_table(comparison: Comparison) -> str:
    return of_methods(
        {
            f"{column} to {level:.1f} %": by_method(values, column, spread, digits)
            for level, values in comparison.levels.items()
            for column, digits in (("steps", 0), ("seconds", 1))
        }
    )


def rates() -> list[float]:
    return sorted({method.p for method in METHODS.values() if method.p})


def with_rate(p: float) -> dict[str, str]:
    """Returns the methods of a rate, with no dropout, and what a picture calls them."""
    kinds = {nn.Sequential: "a mask for each example", ThinSequential: "thin masks"}
    return {NONE: NONE} | {
        name: kinds[method.sequential] for name, method in METHODS.items() if method.p == p
    }


def mean(of_seeds: pd.Series) -> float:
    # What not all seeds reach is not reached.
    return of_seeds.mean(skipna=False)


def short_rows(results: Results) -> Iterator[dict[str, str]]:
    """The rows of the docs, one for each rate: without, for each example, and thin."""
    for setting, comparison in comparisons(results).items():
        in_equal_steps, in_equal_time = comparison.places.values()
        to_first_level, *_ = comparison.levels.values()
        means = {
            "ms a step": comparison.milliseconds,
            "equal steps, %": by_method(in_equal_steps, "accuracy", mean),
            "equal time, %": by_method(in_equal_time, "accuracy", mean),
            "s to the level": by_method(to_first_level, "seconds", mean),
        }
        for p in rates():
            names = list(with_rate(p))
            yield {"": ", ".join(setting), "p": str(p)} | {
                title: " / ".join(values[names].map("{:.1f}".format)).replace("nan", "-")
                for title, values in means.items()
            }


EXPLANATION = (
    "`python benchmarks/thin_training.py` wrote this page. Mean ± deviation over the "
    "seeds, each with weights, an order of batches and masks of its own, on the same test "
    f"images. Adam with a constant learning rate of {LEARNING_RATE}, batches of {BATCH}, "
    f"{WIDTH} channels. Milliseconds are medians of compiled steps that took turns in one "
    "run; seconds are steps times those, and leave scoring out. Equal steps are as many as "
    "every method was given at least, equal time is that in which the first of them was "
    "done with all of its own. The levels are "
    f"{' and '.join(f'{level:.0%}' for level in LEVELS)} of the final accuracy without "
    "dropout; a run reaches one on the straight line between two scores. NLL is the "
    "negative log-likelihood, ECE the expected calibration error, both with dropout off, "
    "as the accuracy."
)


def comparisons(results: Results) -> dict[tuple[str, str], Comparison]:
    settings = scores_of(results).groupby(["task", "network"], sort=False)
    return {setting: compare(scores) for setting, scores in settings}


def page(results: Results) -> list[str]:
    parts = [EXPLANATION]
    for setting, comparison in comparisons(results).items():
        parts += [f"## {', '.join(setting)}", scores_table(comparison)]
        parts += [levels_table(comparison)]
    return parts


def short(results: Results) -> list[str]:
    note = (
        "Each cell: no dropout / a mask for each example / thin. The level is "
        f"{LEVELS[0]:.0%} of the final accuracy without dropout; -: a seed missed it."
    )
    return [table(list(short_rows(results)), headers="keys"), note]


def plot(results: Results) -> Figure:
    """The errors against time, and how long thin masks take to the level."""
    scores = scores_of(results)
    scores["error"] = 100 - scores["accuracy"]
    seconds = pd.DataFrame(
        by_method(comparison.levels[min(comparison.levels)], "seconds", mean)
        for comparison in comparisons(results).values()
    )
    rows, shares = [], {}
    for p in rates():
        masks = scores["method"].map(with_rate(p))
        rows.append(scores.assign(p=p, masks=masks).dropna(subset="masks"))
        _, each, thin = with_rate(p)
        # This leaves out what not all seeds reach.
        shares[p] = (seconds[thin] / seconds[each]).median()
    return plots.learning(pd.concat(rows), shares)


def main() -> None:
    parser = report.parser(__doc__, "thin_training")
    parser.add_argument("--seeds", default=SEEDS, type=int)
    parser.add_argument("--steps", default=STEPS, type=int, help="at least 10")
    parser.add_argument("--blocks", default=BLOCKS, type=int)
    parser.add_argument(
        "--on", choices=["validation", "test"], default="test", help="images to score"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep what the output has, and do the rest"
    )
    arguments = parser.parse_args()
    title = "Thin training, measured"
    report.run(arguments, PACKAGES, measure, title, page, plot, short=short)


if __name__ == "__main__":
    main()
