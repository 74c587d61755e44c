"""The programs of ``docs/mlx-limits.md``: a newer MLX which mends one shows here."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from fuzz.limits import LIMITS

PAGE = (Path(__file__).parents[1] / "docs" / "mlx-limits.md").read_text()
# The version that the page speaks of, or a newer one.
is_described = pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", mx.__version__)[:3])) < (0, 32, 4)
    or mx.default_device() != mx.Device(mx.cpu),
    reason="the page is about MLX 0.32.4 on the CPU",
)


def programs():
    """The heading of each program, the program, and what it prints if that is certain."""
    for section in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        heading = section.splitlines()[0]
        [program] = re.findall(r"```py\n(.*?)```", section, re.DOTALL)
        printed = re.findall(r"```text\n(.*?)```", section, re.DOTALL)
        yield pytest.param(program, *(printed or [None]), id=heading)


def what_prints(program, folder):
    """What a program prints; the last line of its error, or the signal that ended it."""
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode < 0:
        return run.stdout + signal.Signals(-run.returncode).name
    return run.stdout + run.stderr.splitlines()[-1] if run.returncode else run.stdout


@is_described
@pytest.mark.parametrize(("program", "printed"), list(programs()))
def test_program(program, printed, tmp_path, request):
    if "mx.compile" in program:
        request.getfixturevalue("compiles")
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 10
    received = what_prints(program, tmp_path)
    if printed is None:
        assert received in ("", "SIGSEGV", "SIGABRT")
    else:
        assert received.strip() == printed.strip()


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.heading)
def test_what_the_random_programs_run_into_is_on_the_page(limit):
    assert f"### {limit.heading}\n" in PAGE
