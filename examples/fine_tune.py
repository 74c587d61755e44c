"""Fine-tunes a language model by mlx-lm's LoRA, with dropout, checkpointing and resuming.

Run it with ``make fine-tune``, or, from Python 3.11 on, with
``python examples/fine_tune.py`` after ``pip install ".[cpu,examples]" mlx-lm``.

To save memory, mlx-lm's ``grad_checkpoint`` computes each block once more for the gradient.
``mlx.nn``'s dropout then draws another mask, and the gradient is not that of the loss. Two
lines mend this:

    from chandrop.nn import convert

    convert(model)  # after linear_to_lora_layers, before train

Nothing is downloaded. A small Llama, whose tokens are bytes, first learns Python source.
Then LoRA adapts it to English, the topics of Python's ``help``, by mlx-lm's own ``train``.
Halfway each run stops, and a new model goes on from the saved files. You should see that
the test loss falls alike without checkpointing and with chandrop, and that mlx-lm's
checkpointing alone loses most of it, without an error or a warning.

How much it loses depends on the settings. Without checkpointing, a learning rate of 3e-4
does as well as this one of 5e-4, and 1e-3 does worse. Checkpointing alone ends 0.04 above
that at 3e-4, with two seeds, and 0.03 above it at 5e-4 with ``--p 0.1``, with one.
"""

import argparse
import doctest
import inspect
import pydoc_data.topics
import subprocess
import tarfile
import tempfile
import time
import typing
import zipfile
from contextlib import redirect_stdout
from io import StringIO
from typing import NamedTuple
from unittest.mock import patch

import matplotlib.pyplot as plt
import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from matplotlib.figure import Figure
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.llama import Model, ModelArgs, TransformerBlock
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, evaluate, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from numpy.typing import NDArray
from tqdm import tqdm

from chandrop.nn import convert, get_keys, set_keys

LAYERS, WIDTH = 4, 64
LENGTH = 32  # bytes that the model reads
BASE_BATCH, BASE_LEARNING_RATE = 16, 3e-3
BATCH, LEARNING_RATE = 4, 5e-4
TESTS = 128

# As mlx-lm's trainer takes them: tokens, and how many of them are not to be learned.
Dataset = list[tuple[list[int], int]]
# By the number of steps.
Losses = dict[int, float]


class Kind(NamedTuple):
    """A kind of run, and the line that it is drawn with."""

    checkpointing: bool
    chandrop: bool
    line: dict[str, typing.Any]


KINDS = {
    "no checkpointing": Kind(False, False, {"color": "skyblue", "linewidth": 7}),
    "mlx-lm's checkpointing alone": Kind(True, False, {"color": "firebrick"}),
    "mlx-lm's checkpointing and chandrop": Kind(True, True, {"color": "navy"}),
}


class Task(NamedTuple):
    """What all runs have in common."""

    base: Model
    data: Dataset
    tests: Dataset
    p: float
    steps: int


class Reporter(TrainingCallback):
    """Advances the progress bar, and keeps the test losses by the number of steps."""

    def __init__(self, progress: tqdm, first_step: int = 0):
        self.progress = progress
        self.first_step = first_step
        self.losses: Losses = {}

    def on_train_loss_report(self, train_info: dict[str, float]) -> None:
        self.progress.update()

    def on_val_loss_report(self, val_info: dict[str, float]) -> None:
        self.losses[self.first_step + val_info["iteration"]] = val_info["val_loss"]


def cut(text: str) -> Dataset:
    """Cuts a text into pieces of equal length, in a random order."""
    tokens = np.frombuffer(text.encode(), np.uint8)
    pieces = tokens[: len(tokens) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    return [(piece.tolist(), 0) for piece in np.random.default_rng(0).permutation(pieces)]


def language_model() -> Model:
    return Model(
        ModelArgs(
            model_type="llama",
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            intermediate_size=2 * WIDTH,
            num_attention_heads=4,
            rms_norm_eps=1e-5,
            vocab_size=256,
            tie_word_embeddings=False,
        )
    )


def train_quietly(
    model: Model,
    optimizer: optim.Optimizer,
    data: Dataset,
    tests: Dataset | None,
    reporter: Reporter,
    **options: typing.Any,
) -> None:
    """Calls mlx-lm's ``train``, without its progress bar: there is one for all runs."""
    arguments = TrainingArgs(
        val_batches=-1, steps_per_report=1, max_seq_length=LENGTH + 1, **options
    )
    # grad_checkpoint changes the class of the blocks; the patch takes that back.
    with (
        redirect_stdout(StringIO()),
        patch.object(TransformerBlock, "__call__", TransformerBlock.__call__),
    ):
        train(model, optimizer, data, tests, arguments, training_callback=reporter)


def learn_source(steps: int, progress: tqdm) -> Model:
    """Returns the base: a model that has learned the source of a few modules of Python."""
    modules = argparse, doctest, inspect, subprocess, tarfile, typing, zipfile
    source = cut("".join(map(inspect.getsource, modules)))
    mx.random.seed(0)
    np.random.seed(0)
    base = language_model()
    optimizer = optim.Adam(optim.cosine_decay(BASE_LEARNING_RATE, steps))
    with tempfile.TemporaryDirectory() as folder:
        train_quietly(
            base,
            optimizer,
            source,
            None,
            Reporter(progress),
            batch_size=BASE_BATCH,
            iters=steps,
            adapter_file=f"{folder}/base.safetensors",
        )
    return base


def with_adapters(base: Model, p: float, chandrop: bool) -> Model:
    """Returns a model with the weights of the base, frozen, and adapters to train."""
    model = language_model()
    model.update(base.parameters())
    model.freeze()
    linear_to_lora_layers(model, LAYERS, {"rank": 8, "scale": 20.0, "dropout": p})
    if chandrop:
        convert(model)
    return model


def save(model: Model, optimizer: optim.Optimizer, folder: str) -> None:
    """Saves what mlx-lm's ``train`` does not: it has saved the adapters."""
    state = dict(tree_flatten(optimizer.state))
    mx.save_safetensors(f"{folder}/optimizer.safetensors", state)
    mx.save_safetensors(f"{folder}/keys.safetensors", get_keys(model))


def load(model: Model, optimizer: optim.Optimizer, folder: str) -> None:
    model.load_weights(f"{folder}/adapters.safetensors", strict=False)
    state = mx.load(f"{folder}/optimizer.safetensors")
    optimizer.state = tree_unflatten(list(state.items()))
    set_keys(model, mx.load(f"{folder}/keys.safetensors"))


def fine_tune(task: Task, kind: Kind, seed: int, progress: tqdm) -> Losses:
    """Returns the test losses of a run, which stops halfway and goes on from its files."""
    half, losses = task.steps // 2, {}
    with tempfile.TemporaryDirectory() as folder:
        for first, last in ((0, half), (half, task.steps)):
            mx.random.seed(seed + first)
            np.random.seed(seed + first)  # mlx-lm shuffles the data by it
            model = with_adapters(task.base, task.p, kind.chandrop)
            optimizer = optim.Adam(LEARNING_RATE)
            if first > 0:
                load(model, optimizer, folder)
            reporter = Reporter(progress, first)
            train_quietly(
                model,
                optimizer,
                task.data,
                task.tests,
                reporter,
                batch_size=BATCH,
                iters=last - first,
                steps_per_eval=max(1, task.steps // 6),
                adapter_file=f"{folder}/adapters.safetensors",
                grad_checkpoint=kind.checkpointing,
            )
            save(model, optimizer, folder)
            losses |= reporter.losses
    return losses | {task.steps: evaluate(model, task.tests, BATCH, -1, LENGTH + 1)}


def values_of(runs: list[Losses]) -> NDArray[np.floating]:
    return np.array([list(losses.values()) for losses in runs])


def draw(runs: dict[str, list[Losses]], task: Task) -> Figure:
    """Draws the test loss against the steps: the mean of the seeds, and their range."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    for name, losses in runs.items():
        steps = list(losses[0])
        values = values_of(losses)
        line = KINDS[name].line
        label = f"{name}: {values[:, -1].mean():.2f} at the end"
        axes.plot(steps, values.mean(0), label=label, **line)
        axes.fill_between(
            steps, values.min(0), values.max(0), color=line["color"], alpha=0.2, linewidth=0
        )
    before, gray = values[0, 0], {"color": "gray", "zorder": 0}
    axes.axhline(before, linestyle="--", label=f"before fine-tuning: {before:.2f}", **gray)
    axes.axvline(task.steps // 2, linestyle=":", label="stopped and resumed", **gray)
    title = f"mean and range; number of seeds: {len(losses)}"
    figure.legend(title=title, loc="outside lower center", ncols=2, frameon=False)
    axes.set(
        xlabel="steps of fine-tuning",
        ylabel="test loss (nats per byte)",
        xlim=(0, task.steps),
    )
    gains = [f"{before - values_of(losses)[:, -1].mean():.2f}" for losses in runs.values()]
    axes.set_title(
        f"mlx-lm's LoRA with dropout, p = {task.p}, lowers the test loss by {gains[0]};\n"
        f"with checkpointing by {gains[1]}, with checkpointing and chandrop by {gains[2]}",
        loc="left",
        weight="bold",
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=240, help="steps of a run, at least 2")
    parser.add_argument("--base-steps", type=int, default=450, help="steps of the base")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--p", type=float, default=0.3, help="dropout rate")
    parser.add_argument("--output", default="fine_tune.png", help="file for the picture")
    arguments = parser.parse_args()
    started = time.perf_counter()

    runs: dict[str, list[Losses]] = {name: [] for name in KINDS}
    total = arguments.base_steps + arguments.seeds * len(KINDS) * arguments.steps
    with tqdm(total=total, desc="training", unit="step") as progress:
        base = learn_source(arguments.base_steps, progress)
        topics = cut("\n".join(pydoc_data.topics.topics.values()))
        task = Task(base, topics[TESTS:], topics[:TESTS], arguments.p, arguments.steps)
        for seed in range(arguments.seeds):
            for name, kind in KINDS.items():
                progress.set_description(f"seed {seed}, {name}")
                runs[name].append(fine_tune(task, kind, seed, progress))
    draw(runs, task).savefig(arguments.output, dpi=120)

    print(f"test loss before fine-tuning: {runs[name][0][0]:.3f}; after it, by seed:")
    for name, losses in runs.items():
        print(f"{name:37}", *(f"{run[arguments.steps]:.3f}" for run in losses))
    print(f"total seconds: {time.perf_counter() - started:.0f}")
    print(f"picture:       {arguments.output}")


if __name__ == "__main__":
    main()
