"""Learns handwritten digits with channel dropout, and shows what the network does not know.

Run it with ``python examples/digits.py``.

Trains a small convolutional network on scikit-learn's 1,797 8x8 digits. Then compares the
network, dropout off, with an ensemble of its subnetworks (Gal and Ghahramani, "Dropout as a
Bayesian approximation", ICML 2016; see ``digit_answers.py``) on test digits, on the same
digits turned, and on letters and noise, which it has not seen in training.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from digit_answers import SUBNETWORKS, Answers, accuracy, ask, calibration, told_apart
from digit_network import DigitNetwork, Floats, Labels, load_split_digits
from digit_pictures import draw
from tqdm import tqdm
from unseen_images import printed_letters, shuffled, turned

BATCH = 64
DEGREES = 30


def train(network: DigitNetwork, images: Floats, labels: Labels, epochs: int) -> None:
    """Trains in place, with a compiled step that carries the dropout keys as state."""
    steps = epochs * (len(images) // BATCH)
    optimizer = optim.Adam(learning_rate=optim.cosine_decay(4e-3, steps))
    state = [network.state, optimizer.state]

    def loss(network: DigitNetwork, x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.cross_entropy(network(x), y, reduction="mean")

    loss_and_gradients = nn.value_and_grad(network, loss)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        value, gradients = loss_and_gradients(network, x, y)
        optimizer.update(network, gradients)
        return value

    network.train()
    generator = np.random.default_rng(0)
    with tqdm(total=steps, desc="training", unit="step") as progress:
        for _ in range(epochs):
            order = generator.permutation(len(images))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                batch = order[start : start + BATCH]
                value = step(mx.array(images[batch]), mx.array(labels[batch]))
                mx.eval(value, state)
                progress.set_postfix(loss=f"{value.item():.3f}", refresh=False)
                progress.update()


def report_calibration(answers: Answers) -> None:
    print(f"\n{answers.name}, calibration:")
    for who, answer in {
        "dropout off": answers.off,
        "subnetworks": answers.subnetworks,
    }.items():
        scores = calibration(answer, answers.labels).items()
        columns = "   ".join(f"{score} {value:.4f}" for score, value in scores)
        right = accuracy(answer, answers.labels)
        print(f"  {who}:   accuracy {right:.4f}   {columns}")


def report_told_apart(known: Answers, unknown: Answers) -> None:
    print(f"\n{unknown.name}, told from {known.name.lower()}, AUROC:")
    for measure, area in told_apart(known, unknown).items():
        print(f"  {area:.4f} by {measure}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--output", default="pictures", type=Path, help="folder for the pictures"
    )
    arguments = parser.parse_args()
    started = time.perf_counter()

    images, test_images, labels, test_labels = load_split_digits()
    mx.random.seed(0)
    network = DigitNetwork()
    train(network, images, labels, arguments.epochs)

    network.eval()
    test = ask(network, "Test digits", test_images, test_labels)
    # Two angles per digit, for more errors to look at.
    turned_twice = ask(
        network,
        f"Test digits turned by up to {DEGREES}°",
        turned(np.concatenate([test_images, test_images]), DEGREES),
        np.concatenate([test_labels, test_labels]),
    )
    letters = ask(network, "Letters", printed_letters())
    noise = ask(network, "Shuffled pixels", shuffled(test_images))

    test_accuracy = accuracy(test.off, test.labels)
    if test_accuracy < 0.97:
        sys.exit(f"The test accuracy is {test_accuracy:.4f}, below 0.97.")
    report_calibration(test)
    report_calibration(turned_twice)
    report_told_apart(test, letters)
    report_told_apart(test, noise)
    print(f"\ntest accuracy, dropout off:      {test_accuracy:.4f}")
    ensemble_accuracy = accuracy(test.subnetworks, test.labels)
    print(f"test accuracy, {SUBNETWORKS} subnetworks:   {ensemble_accuracy:.4f}")
    draw(arguments.output, test, turned_twice, letters, noise)
    print(f"total seconds:                   {time.perf_counter() - started:.1f}")


if __name__ == "__main__":
    main()
