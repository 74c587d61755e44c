"""The public home of a name, which outlives a move of the file that defines it.

The price: ``inspect.getsource`` of a class looks into the wrong file.
"""

from collections.abc import Callable
from typing import Any


def set_home(package: str, *names: Callable[..., Any]) -> None:
    """Sets ``__module__``, which pickles and tracebacks show, to the public package."""
    for name in names:
        name.__module__ = package
