"""Trains and samples a network without computing the channels that dropout drops.

Run it with ``python examples/thin_network.py``, after ``pip install ".[cpu,examples]"``.

A residual network learns scikit-learn's 8x8 digits, with half of the channels inside its
blocks dropped. A ``ThinSequential`` does not compute them (Graham, Reizenstein and
Robinson, "Efficient batchwise dropout training using submatrices", 2015). An
``nn.Sequential`` of the same layers computes them and multiplies by 0: the same losses, up
to rounding, in more time. Two more networks are trained for comparison: one with a mask for
each image, by ``Dropout2d``, and a thin one whose blocks are not computed for some of the
images: thin stochastic depth, by ``ThinDropPath``.

Finally, subnetworks of the thin and the dense network show how uncertain the answers are.
See ``docs/thin.md``.
"""

import argparse
import statistics
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

from chandrop.nn import Dropout2d
from chandrop.thin import ThinDropout, ThinDropPath, ThinSequential
from chandrop.uncertainty import Classification, predict

BLOCKS = 2
WIDTH = 64
PIXELS = 4 * 4  # after the stem
P = 0.5
BATCH = 32
TEST_IMAGES = 200
# The number of losses to compare: rounding errors grow with the steps.
COMPARED = 10


class Data(NamedTuple):
    images: mx.array
    labels: mx.array


class Kind(NamedTuple):
    """The layers of a network's blocks.

    Attributes:
        sequential: holds the layers inside a block.
        dropout: drops their channels.
        depth_p: the share of a batch's images that skip a block.
    """

    sequential: type[nn.Sequential]
    dropout: type[nn.Module]
    depth_p: float = 0.0


THIN = "thin"
DENSE = "dense, the same masks"
KINDS = {
    THIN: Kind(ThinSequential, ThinDropout),
    DENSE: Kind(nn.Sequential, ThinDropout),
    "dense, a mask for each image": Kind(nn.Sequential, Dropout2d),
    "thin, images skip blocks": Kind(ThinSequential, ThinDropout, depth_p=0.25),
}


class Trained(NamedTuple):
    """The course of training a network.

    Attributes:
        losses: the loss of each step, in training mode.
        seconds: the median time of a step.
    """

    losses: list[float]
    seconds: float


class Block(nn.Module):
    def __init__(self, kind: Kind):
        super().__init__()
        self.inside = kind.sequential(
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1),
            nn.BatchNorm(WIDTH),
            nn.ReLU(),
            kind.dropout(P),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1),
        )
        self.drop_path = ThinDropPath(kind.depth_p)

    def __call__(self, x: mx.array) -> mx.array:
        return nn.relu(x + self.drop_path(x, self.inside))


class ResidualNetwork(nn.Module):
    def __init__(self, kind: Kind):
        super().__init__()
        self.stem = nn.Conv2d(1, WIDTH, kernel_size=3, stride=2, padding=1)
        self.blocks = [Block(kind) for _ in range(BLOCKS)]
        self.head = nn.Linear(PIXELS * WIDTH, 10)

    def __call__(self, x: mx.array) -> mx.array:
        """Returns logits ``(B, 10)`` for images ``(B, 8, 8, 1)``."""
        x = nn.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(1))


def load_data() -> tuple[Data, Data]:
    """Returns training and test images with their labels."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    parts = train_test_split(
        images,
        digits.target,
        test_size=TEST_IMAGES,
        random_state=0,
        stratify=digits.target,
    )
    train_images, test_images, train_labels, test_labels = map(mx.array, parts)
    return Data(train_images, train_labels), Data(test_images, test_labels)


def network_of(kind: Kind) -> ResidualNetwork:
    """Returns a network; all kinds begin with the same weights and keys."""
    mx.random.seed(0)
    return ResidualNetwork(kind)


def train(network: ResidualNetwork, data: Data, steps: int, progress: tqdm) -> Trained:
    """Trains in place, with a compiled step that carries the dropout keys as state."""
    optimizer = optim.Adam(learning_rate=optim.cosine_decay(3e-3, steps))
    # Otherwise the state that the first step adds would cause a second trace.
    optimizer.init(network.trainable_parameters())
    state = [network.state, optimizer.state]

    def loss(network: ResidualNetwork, images: mx.array, labels: mx.array) -> mx.array:
        return nn.losses.cross_entropy(network(images), labels, reduction="mean")

    loss_and_gradients = nn.value_and_grad(network, loss)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(images: mx.array, labels: mx.array) -> mx.array:
        value, gradients = loss_and_gradients(network, images, labels)
        optimizer.update(network, gradients)
        return value

    network.train()
    generator = np.random.default_rng(0)
    losses, seconds = [], []
    for _ in range(steps):
        batch = mx.array(generator.choice(len(data.images), BATCH, replace=False))
        images, labels = data.images[batch], data.labels[batch]
        mx.eval(images, labels)
        started = time.perf_counter()
        value = step(images, labels)
        mx.eval(value, state)
        seconds.append(time.perf_counter() - started)
        losses.append(value.item())
        progress.update()
    network.eval()
    return Trained(losses, statistics.median(seconds))


def ask(
    network: ResidualNetwork, keys: mx.array, images: mx.array
) -> tuple[Classification, float]:
    """Returns the summary of the subnetworks, and the seconds that it took."""
    started = time.perf_counter()
    summary = predict(network, keys, images, batch_size=100)
    return summary, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="training steps")
    parser.add_argument("--subnetworks", type=int, default=16, help="number to sample")
    arguments = parser.parse_args()
    started = time.perf_counter()

    data, test = load_data()
    networks = {name: network_of(kind) for name, kind in KINDS.items()}
    with tqdm(total=len(KINDS) * arguments.steps, desc="training", unit="step") as progress:
        trained = {
            name: train(network, data, arguments.steps, progress)
            for name, network in networks.items()
        }

    print(f"{'':30}  milliseconds a step  last loss  test accuracy")
    for name, network in networks.items():
        accuracy = (network(test.images).argmax(-1) == test.labels).mean().item()
        losses, seconds = trained[name]
        print(f"{name:30}  {1e3 * seconds:19.1f}  {losses[-1]:9.4f}  {accuracy:13.4f}")
    first_losses = [trained[name].losses[:COMPARED] for name in (THIN, DENSE)]
    apart = np.abs(np.subtract(*first_losses)).max()
    print(f"thin and dense, first losses:  at most {apart:.1e} apart")

    # The parameters have the same names and shapes.
    networks[DENSE].update(networks[THIN].parameters())
    keys = mx.random.split(mx.random.key(1), arguments.subnetworks)
    summary, seconds = ask(networks[THIN], keys, test.images)
    dense_summary, dense_seconds = ask(networks[DENSE], keys, test.images)
    apart = mx.abs(summary.probabilities - dense_summary.probabilities).max().item()
    right = summary.probabilities.argmax(-1) == test.labels
    print(f"{len(keys)} subnetworks:")
    print(f"  thin and dense, probabilities:  at most {apart:.1e} apart")
    print(f"  seconds, thin:                  {seconds:.2f}")
    print(f"  seconds, dense:                 {dense_seconds:.2f}")
    print(f"  accuracy:                       {right.mean().item():.4f}")
    disagreement = np.array(summary.mutual_information)
    for name, chosen in {"right": np.array(right), "wrong": ~np.array(right)}.items():
        mean = f"{disagreement[chosen].mean():.3f}" if chosen.any() else "none"
        print(f"  disagreement where {name}:       {mean}")
    print(f"total seconds: {time.perf_counter() - started:.0f}")


if __name__ == "__main__":
    main()
