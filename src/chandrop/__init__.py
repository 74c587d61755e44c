"""Channel-wise dropout for MLX with explicit random keys.

Functions are in :mod:`chandrop.functional`, layers and tools for whole models in
:mod:`chandrop.nn`, keys in :mod:`chandrop.random`, thin networks in :mod:`chandrop.thin`,
and summaries of subnetworks in :mod:`chandrop.uncertainty`.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

try:
    import mlx.core as _  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "chandrop needs MLX with a backend, and MLX did not import. On Linux, "
        "`pip install mlx` brings none. Choose one and only one:\n"
        '    pip install "chandrop[cpu]"\n'
        '    pip install "chandrop[cuda12]"\n'
        '    pip install "chandrop[cuda13]"'
    ) from _error

if TYPE_CHECKING:
    from chandrop import functional, nn, random, thin, uncertainty

__all__ = ["functional", "nn", "random", "thin", "uncertainty"]
__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    # Loaded when they are first used, since chandrop.nn wraps functions of MLX.
    if name in __all__:
        return import_module(f"chandrop.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
