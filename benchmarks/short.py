"""Measures in about a minute what the README says about speed, and the redesign's targets.

Run it with ``python benchmarks/short.py [--output benchmarks/results/NAME]``. As in run.py,
all libraries take turns in one process, which has all cores.
"""

import argparse
import os

import plots
import report
from imports import import_seconds
from matplotlib.figure import Figure
from report import Results
from run import measure_cases
from tables import HEADLINE, KNOWN, WAYS, all_cores, find_one, of_headline
from targets import REDESIGN, of_redesign

PACKAGES = ["chandrop", "mlx", "torch", "jax"]
# The ratios of the targets are close to them, so that they need many blocks.
BLOCKS = 51


def measure(_: argparse.Namespace) -> Results:
    cores = os.cpu_count() or 1
    headline = [(HEADLINE, "float32", way) for way in WAYS]
    names = [*KNOWN, "floor of MLX"]
    rows = list(measure_cases(headline, cores, names, BLOCKS))
    others = [
        (tuple(shape), "float32", way)
        for _, _, shape, way, _ in REDESIGN
        if shape != HEADLINE
    ]
    names = ["chandrop", "chandrop layer", "mlx.nn", "floor of MLX"]
    rows += measure_cases(dict.fromkeys(others), cores, names, BLOCKS)
    return {"rows": rows, "imports": import_seconds()}


def readme(results: Results) -> list[str]:
    return [of_headline(results, all_cores(results), KNOWN, floors=["MLX"])]


def targets(results: Results) -> list[str]:
    return [of_redesign(results)]


def plot(results: Results) -> Figure:
    wanted = {"cores": all_cores(results), "shape": HEADLINE, "dtype": "float32"}
    return plots.speed({way: find_one(results, **wanted, way=way) for way in WAYS})


def page(results: Results) -> list[str]:
    return [
        "`python benchmarks/short.py` (or `make bench-short`) wrote this page.",
        *targets(results),
        *readme(results),
    ]


def main() -> None:
    arguments = report.parser(__doc__, "short").parse_args()
    title = "Channel dropout, measured in short"
    report.run(
        arguments, PACKAGES, measure, title, page, plot, readme=readme, targets=targets
    )


if __name__ == "__main__":
    main()
