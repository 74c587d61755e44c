"""Compares two figures of one run, and draws tables of such comparisons."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from report import Results, table, verdict
from tqdm import tqdm


@dataclass
class Comparison:
    """Two figures of one run, and the most that the first may be beside the second."""

    where: str
    what: str
    against: str
    figures: tuple[float, float]
    unit: str = "ms"
    most_ratio: float | None = None
    most_difference: float | None = None

    @property
    def ratio(self) -> float:
        return self.figures[0] / self.figures[1]

    @property
    def difference(self) -> float:
        return self.figures[0] - self.figures[1]

    def row(self) -> list[str]:
        digits = 0 if self.unit in ("draws", "kernels") else 2
        target, met = "", ""
        if self.most_ratio is not None:
            target = f"ratio {self.most_ratio:.3g}"
            met = verdict(self.ratio <= self.most_ratio)
        if self.most_difference is not None:
            target = f"difference {self.most_difference:.3g} {self.unit}"
            met = verdict(self.difference <= self.most_difference)
        figures = [f"{figure:.{digits}f} {self.unit}" for figure in self.figures]
        return [
            self.where,
            self.what,
            figures[0],
            self.against,
            figures[1],
            f"{self.ratio:.3f}",
            f"{self.difference:+.{digits}f} {self.unit}",
            target,
            met,
        ]


def measured(
    measurements: Sequence[Callable[[], Iterator[Comparison]]],
) -> dict[str, list[Comparison]]:
    """Returns all comparisons of all measurements, for the JSON."""
    progress = tqdm(measurements, desc="measuring")
    return {"comparisons": [item for measurement in progress for item in measurement()]}


def compared(results: Results) -> list[Comparison]:
    return [Comparison(**item) for item in results["comparisons"]]


def whole(results: Results) -> str:
    headers = ["of", "this", "", "against", "", "ratio", "difference", "at most", ""]
    return table([item.row() for item in compared(results)], headers)


def short(results: Results, is_shown: Callable[[Comparison], bool]) -> str:
    """The ratios of the comparisons that are shown."""
    rows = [
        [item.where, item.what, item.against, f"{item.ratio:.3f}"]
        for item in compared(results)
        if is_shown(item)
    ]
    return table(rows, ["of", "this", "against", "ratio"])
