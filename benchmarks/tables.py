"""Draws tables of what run.py and short.py measured."""

from collections.abc import Sequence
from typing import Any

from report import Results, table

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
# The README's: those that most readers know.
KNOWN = LIBRARIES[:5]
FRAMEWORK = dict.fromkeys(LIBRARIES[:3], "MLX") | {"torch": "torch"}
FLOORS = {name: f"floor of {FRAMEWORK.get(name, 'JAX')}" for name in LIBRARIES}
WAYS = ["eager", "compiled", "compiled after relu", "gradient"]
HEADLINE = [32, 32, 32, 64]

Row = dict[str, Any]


def find(results: Results, **wanted: Any) -> list[Row]:
    """Returns the rows that have these values."""
    return [row for row in results["rows"] if wanted.items() <= row.items()]


def find_one(results: Results, **wanted: Any) -> dict[str, float]:
    """Returns the seconds of the only row that has these values."""
    (row,) = find(results, **wanted)
    return row["seconds"]


def all_cores(results: Results) -> int:
    return max(row["cores"] for row in results["rows"])


def by_x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def in_milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g}"


def with_ratio(seconds: float | None, floor: float | None) -> str:
    if seconds is None or floor is None:
        return "-"
    return f"{in_milliseconds(seconds)} ({seconds / floor:.2f})"


def of_headline(
    results: Results,
    cores: int,
    libraries: Sequence[str] = LIBRARIES,
    floors: Sequence[str] = ("MLX", "torch", "JAX"),
) -> str:
    """One shape, float32, every way: a table for a page of the documentation."""
    titles = {name: name for name in libraries}
    titles |= {f"floor of {framework}": f"`x * 2` in {framework}" for framework in floors}
    wanted = {"cores": cores, "shape": HEADLINE, "dtype": "float32"}
    seconds = [find_one(results, **wanted, way=way) for way in WAYS]
    rows = [
        [title, *(in_milliseconds(of_way.get(name)) for of_way in seconds)]
        for name, title in titles.items()
    ]
    return table(rows, ["milliseconds", *WAYS])


def whole(results: Results, cores: int, way: str) -> str:
    """Every shape and dtype in one way: milliseconds, and the ratio to the floor."""
    rows = []
    for found in find(results, cores=cores, way=way):
        seconds = found["seconds"]
        cells = [
            with_ratio(seconds.get(name), seconds.get(FLOORS[name])) for name in LIBRARIES
        ]
        rows.append([by_x(found["shape"]), found["dtype"], *cells])
    return table(rows, ["shape", "dtype", *LIBRARIES])
