"""Drops residual blocks at rates that grow with depth and with the steps of training.

Run it with ``python examples/stochastic_depth.py``, after
``pip install ".[cpu,examples]"``.

A residual network learns from 200 of scikit-learn's 8x8 digits, with and without stochastic
depth (Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV
2016): for each example, block ``i`` of ``n`` is skipped with probability ``p * i / n``. In
the first half of training ``p`` grows from 0 to its final value, as the dropout rate does
in Morerio et al., "Curriculum dropout", ICCV 2017.

With so few blocks it changes little: it is meant for networks of a hundred blocks or more.

The rates are arrays in the model's state, so the compiled step takes new ones at each call,
and is traced once.
"""

import argparse
import time
from functools import partial
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

from chandrop.nn import DropPath

BLOCKS = 8
WIDTH = 32
TRAINING_IMAGES = 200
BATCH = 50


class Data(NamedTuple):
    images: mx.array
    labels: mx.array


class Trained(NamedTuple):
    """The course of training a network.

    Attributes:
        losses: the loss of each step, in training mode.
        traces: the number of traces of the step so far, after each step.
    """

    losses: list[float]
    traces: list[int]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.drop_path = DropPath(0.0)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.drop_path(nn.gelu(self.linear(self.norm(x))))


class ResidualNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, WIDTH)
        self.blocks = [Block() for _ in range(BLOCKS)]
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def set_rate(self, p: float) -> None:
        """Sets the rate of the last block, and proportionally lower ones before it."""
        for depth, block in enumerate(self.blocks, start=1):
            # A number would be fixed when the step is traced.
            block.drop_path.p = mx.array(p * depth / BLOCKS)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns logits ``(B, 10)`` for images ``(B, 64)``."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def rate_at(step: int, steps: int, end: float) -> float:
    """Returns the last block's rate, which rises from 0 to `end` in the first half."""
    return end * min(1.0, step / (steps / 2))


def load_data(seed: int) -> tuple[Data, Data]:
    """Returns a few images for training, and all others for testing."""
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    parts = train_test_split(
        images,
        digits.target,
        train_size=TRAINING_IMAGES,
        random_state=seed,
        stratify=digits.target,
    )
    train_images, test_images, train_labels, test_labels = map(mx.array, parts)
    return Data(train_images, train_labels), Data(test_images, test_labels)


def train(
    network: ResidualNetwork,
    data: Data,
    steps: int,
    end_rate: float,
    seed: int,
    progress: tqdm,
) -> Trained:
    """Trains in place, with a compiled step that carries the keys and rates as state."""
    optimizer = optim.Adam(learning_rate=optim.cosine_decay(3e-3, steps))
    # Otherwise the state that the first step adds would cause a second trace.
    optimizer.init(network.trainable_parameters())
    state = [network.state, optimizer.state]
    traces = 0

    def loss(network: ResidualNetwork, images: mx.array, labels: mx.array) -> mx.array:
        return nn.losses.cross_entropy(network(images), labels, reduction="mean")

    loss_and_gradients = nn.value_and_grad(network, loss)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(images: mx.array, labels: mx.array) -> mx.array:
        nonlocal traces
        traces += 1  # Python code runs only during a trace
        value, gradients = loss_and_gradients(network, images, labels)
        optimizer.update(network, gradients)
        return value

    network.train()
    generator = np.random.default_rng(seed)
    trained = Trained([], [])
    for number in range(steps):
        network.set_rate(rate_at(number, steps, end_rate))
        batch = mx.array(generator.choice(TRAINING_IMAGES, BATCH, replace=False))
        value = step(data.images[batch], data.labels[batch])
        mx.eval(value, state)
        trained.losses.append(value.item())
        trained.traces.append(traces)
        progress.update()
    network.eval()
    return trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="training steps, at least 2")
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind")
    parser.add_argument("--p", type=float, default=0.5, help="final rate of the last block")
    arguments = parser.parse_args()
    started = time.perf_counter()

    kinds = {"all blocks, always": 0.0, "stochastic depth": arguments.p}
    losses: dict[str, list[float]] = {name: [] for name in kinds}
    accuracies: dict[str, list[float]] = {name: [] for name in kinds}
    early, late = set(), set()
    with tqdm(
        total=arguments.seeds * len(kinds) * arguments.steps, desc="training", unit="step"
    ) as progress:
        for seed in range(arguments.seeds):
            data, test = load_data(seed)
            for name, end_rate in kinds.items():
                mx.random.seed(seed)
                network = ResidualNetwork()
                trained = train(network, data, arguments.steps, end_rate, seed, progress)
                right = network(test.images).argmax(-1) == test.labels
                losses[name].append(np.mean(trained.losses[-20:]))
                accuracies[name].append(right.mean().item())
                early.add(trained.traces[1])
                late.add(trained.traces[-1])

    print(f"{'':20}  training loss         test accuracy")
    for name in kinds:
        print(
            f"{name:20}  {np.mean(losses[name]):.4f} (+- {np.std(losses[name]):.4f})"
            f"   {np.mean(accuracies[name]):.4f} (+- {np.std(accuracies[name]):.4f})"
        )
    without, with_depth = accuracies.values()
    gains = np.subtract(with_depth, without)
    print(f"gain in accuracy, split by split: {' '.join(f'{gain:+.4f}' for gain in gains)}")
    print(f"means (and standard deviations) over {arguments.seeds} splits and weights")
    print(f"traces after 2 steps: {max(early)}, after {arguments.steps}: {max(late)}")
    print(f"total seconds: {time.perf_counter() - started:.0f}")


if __name__ == "__main__":
    main()
