"""Measures the time of imports, each in a process of its own, with compiled bytecode."""

import os
import statistics
import subprocess
import sys
import tempfile

_CODE = """
import time
start = time.perf_counter()
import mlx.nn
middle = time.perf_counter()
import chandrop.nn
print(middle - start, time.perf_counter() - middle)
"""


def import_seconds(processes: int = 25) -> dict[str, float]:
    """Returns the median seconds of importing mlx.nn, and chandrop.nn after it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, "-c", _CODE]
        runs = []
        for _ in range(processes + 1):
            printed = subprocess.check_output(command, env=environment, text=True)
            runs.append([float(number) for number in printed.split()])
    # The first process writes the bytecode.
    theirs, ours = map(statistics.median, zip(*runs[1:], strict=True))
    return {"mlx.nn": theirs, "chandrop.nn": ours}
