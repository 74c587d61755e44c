"""Measures channel dropout against everything that does the same job.

Run it with ``python benchmarks/run.py [--output benchmarks/results/NAME]``. With
``--tables`` it measures nothing, and writes the tables anew from what NAME.json has.

All libraries take turns in one process. A second process, pinned to one core, repeats it,
since MLX's CPU backend uses one core and torch and JAX use all. Writes NAME.json with the
medians, NAME.md with every table, NAME.short.md with those of docs/speed.md and
NAME.readme.md with the README's.
"""

import argparse
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

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

Row = dict[str, object]


def measure(most: int, cores: int) -> list[Row]:
    """Measures every shape, dtype and way, of up to `most` elements."""
    import numpy as np
    from libraries import FRAMEWORKS, MLX
    from measure import medians
    from tables import WAYS
    from tqdm import tqdm

    inputs = [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    inputs += [(shape, "float32") for shape in HARD_SHAPES]
    cases = [
        (shape, dtype, way)
        for shape, dtype in inputs
        if math.prod(shape) <= most
        for way in WAYS
    ]
    generator = np.random.default_rng(0)
    rows: list[Row] = []
    for shape, dtype, way in tqdm(cases, desc=f"{cores} core(s)"):
        x = generator.normal(size=shape).astype(np.float32)
        calls = {}
        for framework in FRAMEWORKS:
            calls.update(framework(x, dtype).calls(way, shape))
        calls["draw"] = MLX(x, dtype).draw(shape)
        rows.append(
            {
                "cores": cores,
                "shape": list(shape),
                "elements": math.prod(shape),
                "dtype": dtype,
                "way": way,
                "seconds": medians(calls),
            }
        )
    return rows


def measure_in_a_process(most: int, cores: int) -> list[Row]:
    """Measures in a process that has `cores` cores from its start."""

    def pin() -> None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "rows.json")
        command = [sys.executable, __file__, "--most", str(most), "--cores", str(cores)]
        subprocess.run(
            [*command, "--output", str(path)],
            check=True,
            preexec_fn=pin if hasattr(os, "sched_setaffinity") else None,
        )
        rows: list[Row] = json.loads(path.read_text())
        return rows


def peak_memory() -> dict[str, int]:
    """Bytes of the input, and those at most used beside it, at the headline's shape."""
    import mlx.core as mx
    import mlx.nn
    from tables import HEADLINE

    import chandrop

    x = mx.random.normal(HEADLINE)
    mx.eval(x)
    bytes_used = {"input": x.nbytes}
    for name, layer in (
        ("chandrop", chandrop.nn.Dropout2d(0.5)),
        ("mlx.nn", mlx.nn.Dropout2d(0.5)),
    ):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(layer(x))
        bytes_used[name] = mx.get_peak_memory() - before
    return bytes_used


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, object]:
    """What the figures were measured on, with the versions of `packages`."""
    processor = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def heading(where: dict[str, Any]) -> str:
    """The line that says what :func:`machine` found."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (
        f"{where['processor']}, {where['cores']} cores, {where['system']}; "
        f"Python {where['python']}, {versions}."
    )


def write(path: pathlib.Path, results: dict[str, Any]) -> None:
    """Writes the JSON and the tables."""
    from tables import WAYS, Measurements, of_readme, short, whole
    from targets import table

    measurements = Measurements(results["rows"], results["peak_memory"])
    cores = sorted({row["cores"] for row in results["rows"]}, reverse=True)
    parts = [
        "# Channel dropout, measured",
        heading(results["machine"]),
        "`python benchmarks/run.py` (or `make bench`) wrote this page: medians of "
        "milliseconds, and in brackets their ratio to the floor, `x * 2` in the same "
        "framework and way. A gradient is the output and the vjp together, compiled but "
        "in torch. `torch.compile` was run at one shape only.",
        "## Targets\n\nFloat32 and 32x32x32x64 unless said.",
        table(measurements),
    ]
    for count in cores:
        for way in WAYS:
            parts += [
                f"## {way.capitalize()}, {count} core(s)",
                whole(measurements, count, way),
            ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    tables = [f"{count} core(s):\n\n{short(measurements, count)}" for count in cores]
    path.with_suffix(".short.md").write_text(
        "\n\n".join([*tables, heading(results["machine"])]) + "\n"
    )
    path.with_suffix(".readme.md").write_text(of_readme(measurements) + "\n")
    print(table(measurements))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results/cpu", type=pathlib.Path)
    parser.add_argument("--most", type=int, default=10**8, help="leave larger inputs out")
    parser.add_argument(
        "--update",
        action="store_true",
        help="keep the rows of larger inputs that are there",
    )
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing, and write the tables anew"
    )
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tables:
        stored = arguments.output.with_suffix(".json").read_text()
        write(arguments.output, json.loads(stored))
        return
    if arguments.cores:
        rows = measure(arguments.most, arguments.cores)
        arguments.output.write_text(json.dumps(rows))
        return
    all_cores = os.cpu_count() or 1
    rows = []
    if hasattr(os, "sched_setaffinity") and all_cores > 1:
        rows = measure_in_a_process(arguments.most, 1)
    else:
        print("This system pins no process to a core: that half is left out.")
    rows += measure_in_a_process(arguments.most, all_cores)
    if arguments.update:
        kept = json.loads(arguments.output.with_suffix(".json").read_text())["rows"]
        rows += [row for row in kept if row["elements"] > arguments.most]
    results = {"machine": machine(), "peak_memory": peak_memory(), "rows": rows}
    write(arguments.output, results)


if __name__ == "__main__":
    main()
