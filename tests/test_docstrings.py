"""The public docstrings: each has an example, and what it leaves out, it points to.

The reference on the site has each of them.
"""

import inspect
import pathlib
import re

import pytest

import chandrop

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = {
    f"{package}.{name}": getattr(getattr(chandrop, package), name)
    for package in chandrop.__all__
    for name in getattr(chandrop, package).__all__
}
# Types, and what functions return; the functions have the text.
RESULTS = {
    "functional.Rate": None,
    "random.Key": None,
    "uncertainty.Classification": "classify",
    "uncertainty.Regression": "regress",
    "uncertainty.Reliability": "reliability_curve",
    "uncertainty.RiskCoverage": "risk_coverage_curve",
}
POINTER = re.compile(r"(:(func|class):`|``(mlx|torch)\.|as there)")


def docstring(value):
    text = inspect.getdoc(value) or ""
    if inspect.isclass(value):
        text += "\n" + (inspect.getdoc(value.__init__) or "")
    return text


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - RESULTS))
def test_it_says_or_points_to(name):
    text = docstring(PUBLIC[name])
    first, *others = text.split("\n\n")
    assert re.fullmatch(r"[^\n]+\.", first)
    assert others
    assert "\nExample:\n" in text
    assert ">>> " in text
    for section in ("Args:", "Raises:", "Source:"):
        assert section in text or POINTER.search(text), section


@pytest.mark.parametrize("name", sorted(name for name in RESULTS if RESULTS[name]))
def test_a_result_points_to_its_function(name):
    assert f"see :func:`{RESULTS[name]}`" in docstring(PUBLIC[name])


@pytest.mark.parametrize("package", chandrop.__all__)
def test_the_reference_has_each_name_once(package):
    page = (ROOT / "docs" / "api" / f"{package}.md").read_text()
    listed = re.findall(r"^::: (.*)", page, re.MULTILINE)
    names = getattr(chandrop, package).__all__
    home = f"chandrop.{package}"
    assert sorted(listed) == sorted([home, *(f"{home}.{name}" for name in names)])
