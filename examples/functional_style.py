"""Trains in the style of JAX: parameters, a key and data go in, parameters come out.

Run it with ``python examples/functional_style.py``, after
``pip install ".[cpu,examples]"``.

There is no ``nn.Module``, no optimizer and no state: the network is a function, its dropout
takes a key, and a step is a pure function. You should see about 97 % of the test digits
right, and that the same key leads to the same parameters again, to the last bit.
"""

import argparse
from math import prod, sqrt

import mlx.core as mx
import mlx.nn as nn
from digit_network import load_split_digits
from mlx.utils import tree_map
from tqdm import trange

from chandrop.functional import dropout2d
from chandrop.random import fold_in

Parameters = dict[str, mx.array]
SHAPES = {"first": (16, 3, 3, 1), "second": (32, 3, 3, 16), "head": (10, 4 * 4 * 32)}
P, BATCH, LEARNING_RATE = 0.2, 64, 0.2


def initial_parameters(key: mx.array) -> Parameters:
    return {
        name: mx.random.normal(shape, scale=sqrt(2 / prod(shape[1:])), key=fold_in(key, i))
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def network(parameters: Parameters, x: mx.array, key: mx.array | None = None) -> mx.array:
    """Returns logits ``(B, 10)`` for images ``(B, 8, 8, 1)``. A key turns dropout on."""
    for i, name in enumerate(("first", "second")):
        x = nn.relu(mx.conv2d(x, parameters[name], stride=i + 1, padding=1))
        if key is not None:
            x = dropout2d(x, P, fold_in(key, i))
    return x.flatten(1) @ parameters["head"].T


def loss(parameters: Parameters, key: mx.array, x: mx.array, y: mx.array) -> mx.array:
    return nn.losses.cross_entropy(network(parameters, x, key), y, reduction="mean")


@mx.compile
def step(parameters: Parameters, key: mx.array, x: mx.array, y: mx.array) -> Parameters:
    gradients = mx.grad(loss)(parameters, key, x, y)
    return tree_map(lambda p, g: p - LEARNING_RATE * g, parameters, gradients)


def train(key: mx.array, images: mx.array, labels: mx.array, steps: int) -> Parameters:
    parameters = initial_parameters(key)
    for number in trange(1, steps + 1, desc="training", unit="step"):
        batch_key, mask_key = mx.random.split(fold_in(key, number))
        batch = mx.random.randint(0, len(images), (BATCH,), key=batch_key)
        parameters = step(parameters, mask_key, images[batch], labels[batch])
        mx.eval(parameters)
    return parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps

    images, test_images, labels, test_labels = map(mx.array, load_split_digits())
    key = mx.random.key(0)
    parameters, again = (train(key, images, labels, steps) for _ in range(2))
    accuracy = (network(parameters, test_images).argmax(-1) == test_labels).mean().item()
    same = all(mx.array_equal(parameters[name], again[name]) for name in SHAPES)
    print(f"test accuracy:                     {accuracy:.4f}")
    print(f"same key, same parameters, twice:  {same}")


if __name__ == "__main__":
    main()
