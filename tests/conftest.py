import os
import tempfile
from getpass import getuser
from pathlib import Path

import mlx.core as mx
import pytest
from compiler import mx_compiles
from hypothesis import settings

# MLX compiles kernels at first use, so the first example of a test can take seconds.
settings.register_profile(
    "laws", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
settings.load_profile("laws")

FALSE_ALARMS_A_RUN = 1e-6


def pytest_configure(config):
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        # Two processes must not compile one kernel into one file at the same time.
        # Nor may one MLX load what another has compiled.
        name = f"chandrop-tests-{getuser()}-{mx.__version__}-{worker}"
        folder = Path(tempfile.gettempdir(), name)
        folder.mkdir(exist_ok=True)
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    config.addinivalue_line(
        "markers",
        "statistical(false_alarms): a statistical test and how often right code fails it",
    )


def pytest_report_header():
    """Says on which device the laws are tried."""
    gpu = "Metal" if mx.metal.is_available() else "CUDA"
    device = gpu if mx.default_device() == mx.Device(mx.gpu) else "the CPU"
    return f"laws: on {device}, MLX {mx.__version__}"


def pytest_collection_modifyitems(items):
    """Keeps the false alarms of all statistical tests together within the budget."""
    marks = [item.get_closest_marker("statistical") for item in items]
    total = sum(mark.kwargs["false_alarms"] for mark in marks if mark)
    if total > FALSE_ALARMS_A_RUN:
        raise pytest.UsageError(
            f"The statistical tests declare {total:.2g} false alarms a run, more than "
            f"{FALSE_ALARMS_A_RUN}. Lower the rate that a test declares."
        )


@pytest.fixture
def false_alarms(request):
    return request.node.get_closest_marker("statistical").kwargs["false_alarms"]


@pytest.fixture
def key():
    return mx.random.key(20261122)


@pytest.fixture
def get_key():
    """Returns a new key at every call."""
    state = mx.random.key(20261122)

    def next_key():
        nonlocal state
        state, key = mx.random.split(state)
        return key

    return next_key


@pytest.fixture(scope="session")
def compiles():
    """Skips where ``mx.compile`` does nothing."""
    if not mx_compiles():
        pytest.skip("mx.compile does nothing here: no C++ compiler (g++) was found")
