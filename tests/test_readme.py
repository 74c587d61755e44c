"""The figures of the README and of docs/ are those that the benchmarks wrote."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("results", "page"),
    [
        ("cpu.short.md", "README.md"),
        ("models.short.md", "docs/whole-models.md"),
        ("uncertainty.short.md", "docs/uncertainty.md"),
        ("family.short.md", "docs/family.md"),
        ("thin.short.md", "docs/thin.md"),
        ("thin_training.short.md", "docs/thin.md"),
    ],
)
def test_the_table_is_the_benchmarks(results, page):
    written = (ROOT / "benchmarks" / "results" / results).read_text().strip()
    assert written in (ROOT / page).read_text()
