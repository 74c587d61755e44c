"""Training on several ranks gives the weights that one process gets."""

import importlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from subjects import assert_same

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed.py"
SCRIPTS = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    not mx.distributed.is_available(), reason="MLX was built without a distributed backend"
)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def weights_of(path, *launcher):
    """Runs the example, and gives what it has trained."""
    command = [
        *map(str, launcher),
        "python",
        str(EXAMPLE),
        "--steps",
        "6",
        "--output",
        str(path),
    ]
    environment = os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    # Ranks outlive a launcher that is killed, unless all of their group is.
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    # The launcher exits with 0 also if a rank fails.
    assert path.exists(), output
    return mx.load(str(path))


@pytest.fixture(scope="module")
def weights_of_one_process(tmp_path_factory):
    return weights_of(tmp_path_factory.mktemp("one") / "weights.safetensors")


@pytest.mark.parametrize("ranks", [2, 4])
def test_weights(ranks, weights_of_one_process, tmp_path):
    options = ["-n", ranks, "--backend", "ring", "--starting-port", free_port(), "--"]
    weights = weights_of(tmp_path / "weights.safetensors", SCRIPTS / "mlx.launch", *options)
    assert weights.keys() == weights_of_one_process.keys()
    for name, expected in weights_of_one_process.items():
        assert_same(weights[name], expected)


def test_the_cut_does_not_matter(monkeypatch):
    """One part or eight, the losses of the first ten steps differ by rounding."""
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    distributed = importlib.import_module("distributed")
    images, _, labels, _ = distributed.load_split_digits()

    def losses(parts):
        monkeypatch.setattr(distributed, "PARTS", parts)
        monkeypatch.setattr(distributed, "PART", distributed.BATCH // parts)
        mx.random.seed(0)
        network = distributed.DigitNetwork()
        return distributed.train(network, images, labels, mx.random.key(1), steps=10)

    np.testing.assert_allclose(losses(8), losses(1), rtol=1e-5)
