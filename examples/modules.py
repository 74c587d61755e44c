"""Trains a network of layers in MLX's usual loop, compiled: dropout needs no extra code.

Run it with ``python examples/modules.py``, after ``pip install ".[cpu,examples]"``.

The layers hold their keys, and the keys are in ``network.state``, which the compiled step
carries anyway. Before training, ``check_step`` tries the step, and would raise if masks
repeated. You should see the loss fall, and about 97 % of the test digits right.
"""

import argparse
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from digit_network import load_split_digits
from tqdm import trange

from chandrop.nn import Dropout, Dropout2d, check_step

BATCH = 64


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            Dropout2d(0.1),  # drops whole channels
            nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(Dropout(0.3), nn.Linear(4 * 4 * 32, 10))

    def __call__(self, x: mx.array) -> mx.array:
        return self.head(self.convolutions(x).flatten(1))


def loss(network: Network, x: mx.array, y: mx.array) -> mx.array:
    return nn.losses.cross_entropy(network(x), y, reduction="mean")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps

    images, test_images, labels, test_labels = map(mx.array, load_split_digits())
    mx.random.seed(0)
    network = Network()
    optimizer = optim.Adam(2e-3)
    optimizer.init(network.trainable_parameters())  # avoids a second trace
    state = [network.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        value, gradients = nn.value_and_grad(network, loss)(network, x, y)
        optimizer.update(network, gradients)
        return value

    check_step(network, step, images[:BATCH], labels[:BATCH], optimizer=optimizer)
    network.train()
    with trange(steps, desc="training", unit="step") as progress:
        for _ in progress:
            batch = mx.random.randint(0, len(images), (BATCH,))
            value = step(images[batch], labels[batch])
            mx.eval(value, state)
            progress.set_postfix(loss=f"{value.item():.3f}", refresh=False)

    network.eval()  # turns dropout off
    accuracy = (network(test_images).argmax(-1) == test_labels).mean().item()
    print(f"last loss:      {value.item():.4f}")
    print(f"test accuracy:  {accuracy:.4f}")


if __name__ == "__main__":
    main()
