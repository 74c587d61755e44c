"""Stores what a benchmark measured, and writes its tables.

Benchmark NAME has NAME.json with the figures, the machine and the commit, NAME.md with all
tables, and NAME.KIND.md with those that a page of the documentation shows. The page has
them between ``<!-- benchmarks/results/NAME.KIND.md -->`` and ``<!-- end -->``, where every
run replaces them. If it has a picture, that is ``docs/pictures/NAME.png``, or beside
NAME.json if that is elsewhere; it holds the SHA-256 of the NAME.json that it shows.
"""

import importlib.metadata
import json
import os
import platform
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import plots
from matplotlib.figure import Figure
from staleness import RESULTS, ROOT, git
from tabulate import tabulate

Results = dict[str, Any]
# Returns the tables and paragraphs of a page.
Parts = Callable[[Results], list[str]]

BLOCK = re.compile(r"(<!-- (benchmarks/results/\S+) -->\n).*?(<!-- end -->)", re.DOTALL)

table = partial(tabulate, tablefmt="pipe", disable_numparse=True)


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def parser(doc: str, name: str) -> ArgumentParser:
    """Returns a parser of the flags that all benchmarks have."""
    parser = ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument(
        "--output", default=RESULTS / name, type=Path, help="the path of NAME"
    )
    parser.add_argument(
        "--tables",
        action="store_true",
        help="measure nothing, and write the tables again from NAME.json",
    )
    return parser


def origin(packages: Sequence[str]) -> Results:
    """Returns the machine and the commit, with the versions of `packages`."""
    return {
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "versions": {name: importlib.metadata.version(name) for name in packages},
        },
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "src")) or None,
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def heading(results: Results) -> str:
    """Returns the line that says where the figures were measured."""
    machine = results["machine"]
    versions = [f"{name} {version}" for name, version in machine["versions"].items()]
    if "commit" in results:
        changes = " with uncommitted changes" * results.get("dirty", False)
        versions.append(f"commit {results['commit'][:7]}{changes}")
    else:
        versions.append("an older commit, which was not stored")
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}; "
        f"Python {machine['python']}, {', '.join(versions)}."
    )


def store(path: Path, results: Results) -> None:
    """Writes the JSON. What is None, such as an unknown commit, is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {name: value for name, value in results.items() if value is not None}
    text = json.dumps(known, indent=1, default=asdict)
    path.with_suffix(".json").write_text(text + "\n")


def load(path: Path) -> Results:
    return json.loads(path.with_suffix(".json").read_text())


def run(
    arguments: Namespace,
    packages: Sequence[str],
    measure: Callable[[Namespace], Results],
    title: str,
    page: Parts,
    plot: Callable[[Results], Figure | None] = lambda _: None,
    **short: Parts,
) -> Results:
    """Measures, unless only the tables are wanted, and writes all files.

    Args:
        arguments: the parsed flags.
        packages: the packages whose versions are stored.
        measure: returns the figures. They may also replace what `origin` returns.
        title: the heading of NAME.md.
        page: returns what follows it there.
        plot: draws NAME.png, if the results have what it shows.
        short: returns the tables of NAME.KIND.md, by KIND.

    Returns:
        What NAME.json has.
    """
    path = arguments.output
    if not arguments.tables:
        # In this order, since the checkout may change while it is measured.
        store(path, origin(packages) | measure(arguments))
    results = load(path)
    where, parts = heading(results), page(results)
    write(path.with_suffix(".md"), f"# {title}", where, *parts)
    for kind, tables in short.items():
        write(path.with_suffix(f".{kind}.md"), *tables(results), where)
    fill_pages()
    figure = plot(results)
    if figure is not None:
        plots.write_of(path.with_suffix(".json"), figure)
    print(next(part for part in parts if part.startswith("|")))
    return results


def write(path: Path, *parts: str) -> None:
    path.write_text("\n\n".join(parts) + "\n")


def fill_pages() -> None:
    """Replaces the tables in the README and in docs/ by those in the results."""

    def filled(block: re.Match[str]) -> str:
        start, source, end = block.groups()
        return start + (ROOT / source).read_text() + end

    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        text = page.read_text()
        page.write_text(BLOCK.sub(filled, text))
