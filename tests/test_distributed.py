"""Ranks drop differently, or as one process does, and train to the same weights."""

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
RANKS = Path(__file__).parent / "ranks.py"
SCRIPTS = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    not mx.distributed.is_available(), reason="MLX was built without a distributed backend"
)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run(script, *arguments, ranks=1):
    """Runs a script on ranks of this machine, and gives what it printed."""
    command = ["python", str(script), *map(str, arguments)]
    if ranks > 1:
        options = ["--backend", "ring", "--starting-port", str(free_port()), "--"]
        command = [str(SCRIPTS / "mlx.launch"), "-n", str(ranks), *options, *command]
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
    return output


def weights_of(path, *options, ranks=1):
    """Runs the example, and gives what it has trained."""
    output = run(EXAMPLE, "--steps", 6, "--output", path, *options, ranks=ranks)
    # The launcher exits with 0 also if a rank fails.
    assert path.exists(), output
    return mx.load(str(path))


@pytest.fixture(scope="module")
def weights_of_one_process(tmp_path_factory):
    return weights_of(tmp_path_factory.mktemp("one") / "weights.safetensors")


@pytest.mark.parametrize(("ranks", "options"), [(2, []), (4, []), (2, ["--rekey"])])
def test_weights(ranks, options, weights_of_one_process, tmp_path):
    weights = weights_of(tmp_path / "weights.safetensors", *options, ranks=ranks)
    assert weights.keys() == weights_of_one_process.keys()
    for name, expected in weights_of_one_process.items():
        assert_same(weights[name], expected)


def test_masks_of_plain_layers(tmp_path):
    """Ranks that are seeded alike drop alike, until ``rekey`` gives them keys."""
    masks = []
    for ranks in (1, 2):
        output = run(RANKS, tmp_path, ranks=ranks)
        paths = [tmp_path / f"{rank}.safetensors" for rank in range(ranks)]
        assert all(path.exists() for path in paths), output
        masks.append([mx.load(str(path)) for path in paths])
        mx.eval(masks[-1])
    (whole,), (first, second) = masks
    assert first["is_told"].item()
    assert second["is_told"].item()
    assert not whole["is_told"].item()
    assert not first["is_told_in_vain"].item()
    assert_same(first["seeded_alike"], second["seeded_alike"])
    assert not mx.array_equal(first["own_keys"], second["own_keys"])
    parts = [first["as_one_process"], second["as_one_process"]]
    assert not mx.array_equal(*parts)
    assert_same(mx.concatenate(parts, axis=1), whole["as_one_process"])


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
