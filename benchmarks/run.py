"""Measures channel dropout against everything that does the same job.

Run it with ``python benchmarks/run.py [--output benchmarks/results/NAME]``. All libraries
take turns in one process. A second process, pinned to one core, repeats it, since MLX's CPU
backend uses one core and torch and JAX use all.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn
import numpy as np
import report
import targets
from measure import BLOCKS, medians, peak_bytes
from report import Results
from tables import HEADLINE, WAYS, Row, of_headline, whole
from tqdm import tqdm

import chandrop

# Ranks of 1, 2 and 3 spatial axes at 10^4, 10^6 and 10^7 elements, and the README's shape.
SHAPES = [
    (8, 32, 40),
    (16, 1024, 64),
    (64, 2048, 64),
    (4, 8, 8, 40),
    (16, 32, 32, 64),
    (32, 32, 32, 64),
    (32, 64, 64, 64),
    (2, 4, 8, 8, 20),
    (4, 16, 16, 16, 64),
    (8, 32, 32, 32, 32),
]
DTYPES = ["float32", "float16", "bfloat16"]
# Little spatial extent, and few channels: 8191 is prime.
HARD_SHAPES = [(512, 16, 128), (32, 8192, 4), (32, 8191, 4), (32, 103, 103, 3)]
PACKAGES = [
    "chandrop",
    "mlx",
    "torch",
    "jax",
    "flax",
    "equinox",
    "dm-haiku",
    "keras",
    "numpy",
]

Case = tuple[Sequence[int], str, str]


def cases(most: int) -> Iterator[Case]:
    """Yields every shape, dtype and way, of up to `most` elements."""
    inputs = [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    inputs += [(shape, "float32") for shape in HARD_SHAPES]
    for shape, dtype in inputs:
        if math.prod(shape) <= most:
            yield from ((shape, dtype, way) for way in WAYS)


def measure_cases(
    cases: Iterable[Case],
    cores: int,
    names: Sequence[str] | None = None,
    blocks: int = BLOCKS,
) -> Iterator[Row]:
    """Yields the medians of each case, of all libraries or of those in `names`."""
    # Here, since it imports all of them.
    from libraries import FRAMEWORKS, MLX

    generator = np.random.default_rng(0)
    for shape, dtype, way in tqdm(list(cases), desc=f"{cores} core(s)"):
        x = generator.normal(size=shape).astype(np.float32)
        calls = {}
        for framework in FRAMEWORKS:
            calls.update(framework(x, dtype).calls(way, tuple(shape)))
        calls["draw"] = MLX(x, dtype).draw(shape)
        if names is not None:
            calls = {name: call for name, call in calls.items() if name in names}
        yield {
            "cores": cores,
            "shape": list(shape),
            "elements": math.prod(shape),
            "dtype": dtype,
            "way": way,
            "seconds": medians(calls, blocks),
        }


def measure_in_a_process(most: int, cores: int) -> list[Row]:
    """Measures in a process that has `cores` cores from its start."""

    def pin() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        command = [sys.executable, __file__, "--most", str(most), "--cores", str(cores)]
        subprocess.run(
            [*command, "--output", str(path)],
            check=True,
            preexec_fn=pin if hasattr(os, "sched_setaffinity") else None,
        )
        return json.loads(path.read_text())


def peak_memory() -> dict[str, int]:
    """Bytes of the input, and those at most used beside it, at the headline's shape."""
    x = mx.random.normal(HEADLINE)
    mx.eval(x)
    layers = {"chandrop": chandrop.nn.Dropout2d(0.5), "mlx.nn": mlx.nn.Dropout2d(0.5)}
    return {"input": x.nbytes} | {
        name: peak_bytes(lambda layer=layer: mx.eval(layer(x)))
        for name, layer in layers.items()
    }


def measure(arguments: argparse.Namespace) -> Results:
    cores = os.cpu_count() or 1
    rows = []
    if hasattr(os, "sched_setaffinity") and cores > 1:
        rows = measure_in_a_process(arguments.most, 1)
    else:
        print("This system pins no process to a core: that half is left out.")
    rows += measure_in_a_process(arguments.most, cores)
    return {"peak_memory": peak_memory(), "rows": rows}


def core_counts(results: Results) -> list[int]:
    return sorted({row["cores"] for row in results["rows"]}, reverse=True)


def page(results: Results) -> list[str]:
    parts = [
        "`python benchmarks/run.py` (or `make bench`) wrote this page: medians of "
        "milliseconds, and in brackets their ratio to the floor, `x * 2` in the same "
        "framework and way. A gradient is the output and the vjp together, compiled but "
        "in torch. `torch.compile` was run at one shape only.",
        "## Targets\n\nFloat32 and 32x32x32x64 unless said.",
        targets.of_all(results),
        "Those of the redesign, in float32:",
        targets.of_redesign(results),
    ]
    for count in core_counts(results):
        for way in WAYS:
            title = f"## {way.capitalize()}, {count} core(s)"
            parts += [title, whole(results, count, way)]
    return parts


def short(results: Results) -> list[str]:
    return [
        f"{count} core(s):\n\n{of_headline(results, count)}"
        for count in core_counts(results)
    ]


def main() -> None:
    parser = report.parser(__doc__, "cpu")
    parser.add_argument("--most", type=int, default=10**8, help="leave larger inputs out")
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cores:
        rows = list(measure_cases(cases(arguments.most), arguments.cores))
        arguments.output.write_text(json.dumps(rows))
        return
    title = "Channel dropout, measured"
    report.run(arguments, PACKAGES, measure, title, page, short=short)


if __name__ == "__main__":
    main()
