"""Turns the measurements into tables of Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

LIBRARIES = [
    "chandrop",
    "chandrop layer",
    "mlx.nn",
    "torch",
    "JAX",
    "Flax",
    "Equinox",
    "Haiku",
    "Keras",
]
FRAMEWORK = dict.fromkeys(LIBRARIES[:3], "MLX") | {"torch": "torch"}
FLOORS = {name: f"floor of {FRAMEWORK.get(name, 'JAX')}" for name in LIBRARIES}
WAYS = ["eager", "compiled", "compiled after relu", "gradient"]
HEADLINE = [32, 32, 32, 64]
SMALL = 20_000

Row = dict[str, Any]


class Measurements:
    """Looks up medians in seconds by threads, shape, dtype, way and name."""

    def __init__(self, rows: Iterable[Row], peak_memory: dict[str, int]):
        self.rows = list(rows)
        self.peak_memory = peak_memory
        self.all_cores = max(row["cores"] for row in self.rows)

    def find(self, **wanted: Any) -> list[Row]:
        return [row for row in self.rows if wanted.items() <= row.items()]

    def seconds(self, name: str, **wanted: Any) -> float | None:
        (row,) = self.find(**wanted)
        return row["seconds"].get(name)


def in_milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.3g}"


def with_ratio(seconds: float | None, floor: float | None) -> str:
    if seconds is None or floor is None:
        return "-"
    return f"{in_milliseconds(seconds)} ({seconds / floor:.2f})"


def short(
    measurements: Measurements,
    cores: int,
    libraries: Sequence[str] = LIBRARIES,
    floors: Sequence[str] = ("MLX", "torch", "JAX"),
) -> str:
    """One shape, float32, every way: a table for a page of the documentation."""
    names = {name: name for name in libraries}
    for framework in floors:
        names[f"floor of {framework}"] = f"`x * 2` in {framework}"
    wanted = {"cores": cores, "shape": HEADLINE, "dtype": "float32"}
    rows = [
        [
            title,
            *(
                in_milliseconds(measurements.seconds(name, **wanted, way=way))
                for way in WAYS
            ),
        ]
        for name, title in names.items()
    ]
    return tabulate(rows, ["milliseconds", *WAYS], tablefmt="pipe", disable_numparse=True)


def of_readme(measurements: Measurements) -> str:
    """The table of the README: all cores, and the libraries that most readers know."""
    libraries = ["chandrop", "chandrop layer", "mlx.nn", "torch", "JAX"]
    return short(measurements, measurements.all_cores, libraries, floors=["MLX"])


def whole(measurements: Measurements, cores: int, way: str) -> str:
    """Every shape and dtype in one way: milliseconds, and the ratio to the floor."""
    rows = []
    for found in measurements.find(cores=cores, way=way):
        seconds = found["seconds"]
        shape = "x".join(map(str, found["shape"]))
        cells = [
            with_ratio(seconds.get(name), seconds.get(FLOORS[name])) for name in LIBRARIES
        ]
        rows.append([shape, found["dtype"], *cells])
    return tabulate(
        rows, ["shape", "dtype", *LIBRARIES], tablefmt="pipe", disable_numparse=True
    )
