"""The address of the repository: the one place is pyproject.toml."""

from functools import cache
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


@cache
def address() -> str:
    """Returns the address, or "" as long as there is none."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    hook = tomllib.loads(text)["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    return hook["address"].rstrip("/")
