"""Channel-wise dropout for MLX with explicit random keys.

Functions are in :mod:`chandrop.functional`, layers in :mod:`chandrop.nn`, keys in
:mod:`chandrop.random`, and what subnetworks say together in :mod:`chandrop.uncertainty`.
"""

try:
    import mlx.core as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "chandrop needs MLX with a backend, and MLX did not import. On Linux, "
        "`pip install mlx` brings none. Choose one and only one:\n"
        '    pip install "chandrop[cpu]"\n'
        '    pip install "chandrop[cuda12]"\n'
        '    pip install "chandrop[cuda13]"'
    ) from error

from chandrop import functional, nn, random, uncertainty

__all__ = ["functional", "nn", "random", "uncertainty"]
__version__ = "0.1.0"
