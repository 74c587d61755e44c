"""The examples run and do what they claim; test_distributed.py has that of many ranks."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tqdm import tqdm

from chandrop.nn import get_keys, rekey

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(example):
    """Imports an example as a module."""
    specification = spec_from_file_location(example, EXAMPLES / f"{example}.py")
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def output_of(example, folder, *options):
    finished = subprocess.run(
        [sys.executable, str(EXAMPLES / example), *options],
        cwd=folder,
        # Compiling C++ would take 15 seconds.
        env=os.environ | {"MLX_DISABLE_COMPILE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def line_of(output, name):
    """Returns the rest of the one line that begins with `name`."""
    (line,) = [line for line in output.splitlines() if line.startswith(name)]
    return line.removeprefix(name)


def scores_of(output, name):
    """Returns the means of the two scores of a line, without their deviations."""
    first, second = re.findall(r"(\d\.\d+) \(\+- \d\.\d+\)", line_of(output, name))
    return float(first), float(second)


def test_recurrent_runs(tmp_path):
    output = output_of("recurrent.py", tmp_path, "--steps", "2", "--seeds", "1")
    for name in (
        "no dropout",
        "a new mask for each row",
        "one mask for all rows (locked)",
        "8 subnetworks of the locked",
    ):
        accuracy, nll = scores_of(output, name)
        assert 0 < accuracy < 1
        assert 1 < nll < 4  # two steps are few: log(10) is 2.3
    gain = float(line_of(output, "gain by locking, split by split: "))
    assert -1 < gain < 1


def test_stochastic_depth_runs(tmp_path):
    output = output_of("stochastic_depth.py", tmp_path, "--steps", "5", "--seeds", "2")
    for name in ("all blocks, always", "stochastic depth"):
        loss, accuracy = scores_of(output, name)
        assert 0.5 < loss < 4
        assert 0 < accuracy < 1
    gains = line_of(output, "gain in accuracy, split by split: ").split()
    assert len(gains) == 2
    assert line_of(output, "traces after 2 steps: ") == "2, after 5: 5"  # not compiled


def test_thin_network_runs(tmp_path):
    output = output_of("thin_network.py", tmp_path, "--steps", "2", "--subnetworks", "2")
    figures = {
        name: [float(figure) for figure in line_of(output, f"{name}  ").split()]
        for name in (
            "thin",
            "dense, the same masks",
            "dense, a mask for each image",
            "thin, images skip blocks",
        )
    }
    for milliseconds, loss, accuracy in figures.values():
        assert milliseconds > 0
        assert 0.5 < loss < 10
        assert 0 < accuracy < 1
    losses = [loss for _, loss, _ in figures.values()]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)  # four digits are printed
    assert len({*losses[1:]}) == 3
    for name in ("thin and dense, first losses:", "  thin and dense, probabilities:"):
        apart = line_of(output, name).split()
        assert float(apart[2]) < 1e-4
    for name in ("  seconds, thin:", "  seconds, dense:"):
        assert float(line_of(output, name)) > 0
    assert 0 < float(line_of(output, "  accuracy:")) < 1


def test_functional_style_runs(tmp_path):
    output = output_of("functional_style.py", tmp_path, "--steps", "20")
    assert 0.3 < float(line_of(output, "test accuracy:")) < 1
    assert line_of(output, "same key, same parameters, twice:").strip() == "True"


def test_modules_runs(tmp_path):
    output = output_of("modules.py", tmp_path, "--steps", "20")
    assert 0 < float(line_of(output, "last loss:")) < 2
    assert 0.3 < float(line_of(output, "test accuracy:")) < 1


def test_ensemble_runs(tmp_path):
    """In 50 steps the members together already give likelier answers than one."""
    output = output_of("ensemble.py", tmp_path, "--steps", "50")
    accuracies, likelihoods = zip(
        *(
            map(float, re.findall(r"\d\.\d{4}", line_of(output, name)))
            for name in (
                "a member (mean of all)",
                "a member's 16 subnetworks",
                "all 8 members",
                "all 128 subnetworks",
            )
        ),
        strict=True,
    )
    assert all(0.7 < accuracy < 1 for accuracy in accuracies)
    member, of_a_member, members, of_all = likelihoods
    assert members < member
    assert of_all < of_a_member


@pytest.mark.parametrize("example", ["functional_style", "modules", "ensemble"])
def test_the_three_styles_are_short(example):
    assert len((EXAMPLES / f"{example}.py").read_text().splitlines()) < 80


def test_the_readme_lists_all_examples():
    """By a link, and a script also by its command."""
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"]({path.name})" in page
        if "def main()" in path.read_text():
            assert f"examples/{path.name}" in page or f"make {path.stem}" in page


needs_mlx_lm = pytest.mark.skipif(
    not (find_spec("mlx_lm") and find_spec("matplotlib")),
    reason="it needs mlx-lm and matplotlib, which `make fine-tune` installs",
)


@needs_mlx_lm
def test_fine_tune_runs(tmp_path):
    steps = ("--steps", "4", "--base-steps", "2", "--seeds", "2")
    output = output_of("fine_tune.py", tmp_path, *steps)
    runs = [
        [float(loss) for loss in line_of(output, name).split()]
        for name in (
            "no checkpointing",
            "mlx-lm's checkpointing alone",
            "mlx-lm's checkpointing and chandrop",
        )
    ]
    for losses in runs:
        assert len(losses) == 2
        assert all(2 < loss < np.log(256) for loss in losses)
    assert (tmp_path / line_of(output, "picture:").strip()).stat().st_size > 10_000


@needs_mlx_lm
def test_fine_tune_resumes_bit_for_bit(tmp_path, uncompiled):
    """Three steps from saved files, in a new model, are those of the model that saved."""
    example = load("fine_tune")
    reporter = example.Reporter(tqdm(disable=True))
    data = example.cut("Explicit is better than implicit. " * 100)
    base = example.language_model()

    def train(model, optimizer):
        np.random.seed(0)
        options = {"batch_size": 4, "iters": 3, "grad_checkpoint": True}
        file = tmp_path / "adapters.safetensors"
        example.train_quietly(
            model, optimizer, data, None, reporter, adapter_file=file, **options
        )

    def prepared():
        model = example.with_adapters(base, 0.3, chandrop=True)
        return model, example.optim.Adam(1e-3)

    model, optimizer = prepared()
    train(model, optimizer)
    example.save(model, optimizer, tmp_path)
    resumed, its_optimizer = prepared()
    example.load(resumed, its_optimizer, tmp_path)
    # In this order: MLX reads a file when its arrays are needed, and train() overwrites it.
    train(resumed, its_optimizer)
    train(model, optimizer)
    expected = dict(tree_flatten(model.trainable_parameters())) | get_keys(model)
    received = dict(tree_flatten(resumed.trainable_parameters())) | get_keys(resumed)
    assert expected.keys() == received.keys()
    assert any("lora_b" in name for name in expected)
    assert any("dropout" in name for name in expected)
    for name, array in expected.items():
        assert mx.array_equal(received[name], array), name


@pytest.fixture
def uncompiled():
    mx.disable_compile()
    yield
    mx.enable_compile()


def test_rates_reach_the_step(uncompiled):
    """The first step has a rate of 0 and drops nothing; later steps drop.

    test_rates.py checks that rates also reach a compiled step.
    """
    example = load("stochastic_depth")
    data, _ = example.load_data(seed=0)

    def losses(end_rate):
        mx.random.seed(0)
        network = example.ResidualNetwork()
        trained = example.train(network, data, 4, end_rate, 0, tqdm(disable=True))
        rates = [block.drop_path.p.item() for block in network.blocks]
        np.testing.assert_allclose(rates, end_rate * np.arange(1, 9) / 8)
        return trained.losses

    always, dropped = losses(0.0), losses(0.5)
    assert dropped[0] == always[0]
    assert all(a != b for a, b in zip(dropped[1:], always[1:], strict=True))


@pytest.fixture(scope="module")
def recurrent():
    return load("recurrent")


@pytest.fixture
def images():
    return mx.random.uniform(shape=(5, 8, 8), key=mx.random.key(3))


def network_of(recurrent, spatial_axes, key):
    mx.random.seed(0)
    network = recurrent.RowReader(0.5, spatial_axes)
    rekey(network, key)
    return network


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gal_lstm(network, images, input_mask, hidden_mask, output_mask):
    """Returns the outputs of an LSTM whose masks ``(B, C)`` are the same at all rows.

    Gal and Ghahramani, NeurIPS 2016, equation 7, with MLX's order of the gates.
    """
    weights = {
        name: np.array(array, np.float64)
        for name, array in network.lstm.parameters().items()
    }
    hidden = cell = np.zeros(hidden_mask.shape)
    outputs = []
    for row in np.moveaxis(np.array(images, np.float64), 1, 0):
        gates = (row * input_mask) @ weights["Wx"].T
        gates = gates + (hidden * hidden_mask) @ weights["Wh"].T + weights["bias"]
        i, f, g, o = np.split(gates, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden * output_mask)
    return np.stack(outputs, axis=1)


def masks_of(network, key):
    """Returns the masks ``(B, 8, C)`` that the layers draw at the first call with a key."""
    rekey(network, key)
    wide = mx.ones((5, 8, network.lstm.hidden_size))
    masks = [
        network.drop_input(mx.ones((5, 8, 8))),
        network.drop_hidden(wide),
        network.drop_output(wide),
    ]
    rekey(network, key)
    return [np.array(mask) for mask in masks]


def test_locked_masks(recurrent, images, key):
    """The network is an LSTM whose three masks are each the same at all rows."""
    network = network_of(recurrent, recurrent.LOCKED, key)
    masks = masks_of(network, key)
    for mask in masks:
        assert (mask == mask[:, :1]).all()
        assert set(np.unique(mask)) == {0, 2}
    assert (masks[1] != masks[2]).any()
    expected = gal_lstm(network, images, *(mask[:, 0] for mask in masks))
    np.testing.assert_allclose(np.array(network.read(images)), expected, atol=1e-4)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_mask_matters(recurrent, images, key, place):
    """The check of the locked masks fails if one of the three is left out."""
    network = network_of(recurrent, recurrent.LOCKED, key)
    masks = [mask[:, 0] for mask in masks_of(network, key)]
    masks[place] = np.ones_like(masks[place])
    expected = gal_lstm(network, images, *masks)
    assert np.abs(np.array(network.read(images)) - expected).max() > 1e-2


def test_new_masks(recurrent, images, key):
    """Without a shared axis, masks and outputs differ between rows."""
    network = network_of(recurrent, recurrent.NEW_AT_EACH_ROW, key)
    masks = masks_of(network, key)
    for mask in masks:
        assert (mask != mask[:, :1]).any()
    locked = gal_lstm(network, images, *(mask[:, 0] for mask in masks))
    assert np.abs(np.array(network.read(images)) - locked).max() > 1e-2
