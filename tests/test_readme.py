"""The figures of the README are those that the benchmark wrote."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def test_the_table_is_the_benchmarks():
    written = (ROOT / "benchmarks" / "results" / "cpu.short.md").read_text().strip()
    assert written in (ROOT / "README.md").read_text()
