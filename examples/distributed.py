"""Trains on handwritten digits, to the same weights on any number of ranks, bit for bit.

Run it with ``python examples/distributed.py``, or on two or four ranks of this machine with
``mlx.launch -n 2 --backend ring -- python examples/distributed.py``.

Ranks that build their model from one seed start from the same weights, but also hold the
same keys, and would draw the same masks. Either of two lines fixes this. Once, after the
model is built,

    rekey(network, fold_in(key, rank))

gives each rank its own masks. In each step,

    rekey(network, example_keys(fold_in(key, step), n, offset=rank * n))

gives it the masks that one process would draw for the whole batch. The network is then
called as usual, ``network(x)``; ``--rekey`` does this. Without that option,
``functional_call`` takes the same keys, and the weights are the same.

Each example's key is derived from the step and from its position in the whole batch, so the
masks do not depend on the cut. The sums do not either, since the batch is always cut into
four parts of fixed size, whichever rank computes them. With one part for each rank, as with
``mlx.nn.average_gradients``, the weights would differ by rounding, and by more once
rounding decides which of two units is the largest.

``BatchNorm`` cannot be used here: its statistics depend on the cut.
"""

import argparse
import sys
import time
from typing import Any
from zlib import crc32

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from digit_network import DigitNetwork, Floats, Labels, load_split_digits
from mlx.utils import tree_flatten, tree_map

from chandrop.nn import functional_call, rekey
from chandrop.random import example_keys, fold_in

BATCH, PARTS = 64, 4
PART = BATCH // PARTS


def mean_over_ranks(parts: list[Any]) -> Any:
    """Returns the mean of the trees of all parts, including those of the other ranks."""
    mine = tree_map(lambda *arrays: mx.stack(arrays), *parts)
    return tree_map(lambda array: mx.distributed.all_gather(array).mean(0), mine)


def train(
    network: DigitNetwork,
    images: Floats,
    labels: Labels,
    key: mx.array,
    steps: int,
    by_rekey: bool = False,
) -> list[float]:
    """Trains in place, and returns the loss over the whole batch at each step."""
    ranks = mx.distributed.init()
    parts = np.split(np.arange(PARTS), ranks.size())[ranks.rank()]
    optimizer = optim.Adam(learning_rate=4e-3)

    def loss(parameters: Any, x: mx.array, y: mx.array, keys: mx.array) -> mx.array:
        logits = functional_call(network, parameters, x, key=keys)
        return nn.losses.cross_entropy(logits, y, reduction="mean")

    def loss_by_own_keys(x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.cross_entropy(network(x), y, reduction="mean")

    generator = np.random.default_rng(0)
    losses = []
    for step in range(steps):
        batch = generator.choice(len(images), BATCH, replace=False)
        results = []
        for first in parts * PART:
            part = batch[first : first + PART]
            keys = example_keys(fold_in(key, step), PART, offset=first)
            x, y = mx.array(images[part]), mx.array(labels[part])
            if by_rekey:
                rekey(network, keys)
                results.append(nn.value_and_grad(network, loss_by_own_keys)(x, y))
            else:
                results.append(mx.value_and_grad(loss)(network.parameters(), x, y, keys))
        value, gradients = mean_over_ranks(results)
        optimizer.update(network, gradients)
        mx.eval(value, network.parameters(), optimizer.state)
        losses.append(value.item())
    return losses


def checksum(network: DigitNetwork) -> int:
    """Returns a number that differs if one bit of the weights does."""
    weights = dict(tree_flatten(network.parameters())).values()
    return crc32(b"".join(np.array(array).tobytes() for array in weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--rekey",
        action="store_true",
        help="set the layers' keys, and call the network itself",
    )
    parser.add_argument("--output", help="file for the weights (.safetensors)")
    arguments = parser.parse_args()
    started = time.perf_counter()

    ranks = mx.distributed.init()
    if PARTS % ranks.size():
        sys.exit(f"{PARTS} parts cannot be shared by {ranks.size()} ranks.")
    images, test_images, labels, test_labels = load_split_digits()
    mx.random.seed(0)
    network = DigitNetwork()
    key = mx.random.key(1)
    losses = train(network, images, labels, key, arguments.steps, arguments.rekey)

    if ranks.rank() > 0:
        return
    network.eval()
    guesses = np.array(network(mx.array(test_images))).argmax(-1)
    print(f"ranks:                      {ranks.size()}")
    print(f"loss, first and last step:  {losses[0]:.4f}, {losses[-1]:.4f}")
    print(f"test accuracy:              {(guesses == test_labels).mean():.4f}")
    print(f"checksum of the weights:    {checksum(network):08x}")
    print(f"total seconds:              {time.perf_counter() - started:.1f}")
    if arguments.output:
        network.save_weights(arguments.output)


if __name__ == "__main__":
    main()
