"""The README and docs/: their tables are the benchmarks', their example and links work."""

import pathlib
import re
import subprocess
import sys
from hashlib import sha256

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / page for page in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
TARGET = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)
THEIRS, OURS = "from mlx.nn import Dropout", "from chandrop.nn import Dropout"


@pytest.mark.parametrize(
    ("results", "page"),
    [
        ("silent_faults.short.md", "README.md"),
        ("short.readme.md", "README.md"),
        ("short.targets.md", "docs/speed.md"),
        ("cpu.short.md", "docs/speed.md"),
        ("models.short.md", "docs/whole-models.md"),
        ("uncertainty.short.md", "docs/uncertainty.md"),
        ("family.short.md", "docs/family.md"),
        ("thin.short.md", "docs/thin.md"),
        ("thin_training.short.md", "docs/thin.md"),
    ],
)
def test_the_table_is_the_benchmarks(results, page):
    path = f"benchmarks/results/{results}"
    block = f"<!-- {path} -->\n{(ROOT / path).read_text()}<!-- end -->\n"
    assert block in (ROOT / page).read_text()


@pytest.mark.parametrize(
    "name", ["short", "silent_faults", "uncertainty", "family", "thin", "thin_training"]
)
def test_the_picture_is_of_the_results(name):
    """The picture holds the digest of the results that it was drawn from."""
    digest = sha256((ROOT / f"benchmarks/results/{name}.json").read_bytes()).hexdigest()
    assert digest.encode() in (ROOT / f"docs/pictures/{name}.png").read_bytes()


def test_each_picture_is_on_a_page():
    """test_links_lead_somewhere checks that each picture of a page exists."""
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in TARGET.findall(page.read_text())
    }
    assert linked.issuperset(ROOT.glob("docs/pictures/*"))


@pytest.mark.parametrize("line", [THEIRS, OURS])
def test_the_example_prints_what_the_readme_says(line):
    """The example runs in its own process, as a reader would run it."""
    code, says = re.search(r"```python\n(.*?)```(.*?)\n##", README, re.DOTALL).groups()
    theirs, ours = re.findall(r"`(\d\.\d\d)`", says)
    assert code.splitlines()[2].startswith(THEIRS)
    command = [sys.executable, "-c", code.replace(THEIRS, line, 1)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == (theirs if line == THEIRS else ours)


def anchors(text):
    """Returns the anchors that GitHub assigns to the headings of a page."""
    headings = HEADING.findall(FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in TARGET.findall(FENCED.sub("", page.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text()), target


def test_the_page_of_the_laws_names_every_file_of_them():
    page = (ROOT / "docs" / "laws.md").read_text()
    linked = {target for target in TARGET.findall(page) if "tests/laws/" in target}
    laws = (path.name for path in ROOT.glob("tests/laws/test_*.py"))
    assert linked == {f"../tests/laws/{name}" for name in laws}


def test_the_readme_is_short():
    lines = README.splitlines()
    assert sum(not line.startswith("<!-- ") for line in lines) < 200
