"""The clients are those that this suite and docs/clients.md know."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"\b(mlx-[a-z]+)==([0-9.]+)")
PINS = dict(PIN.findall((ROOT / "pyproject.toml").read_text()))
PINS |= dict(PIN.findall((ROOT / "Makefile").read_text()))


@pytest.mark.parametrize("package", PINS)
def test_the_version_is_the_pinned_one(package):
    try:
        installed = version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert installed == PINS[package], (
        f"{package} {installed} is installed, but the suite knows {PINS[package]}. Run "
        "`make clients`; or change the pin, and see what docs/clients.md says of it."
    )
    assert f"{package} {PINS[package]}" in (ROOT / "docs/clients.md").read_text()
