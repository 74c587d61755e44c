"""Trains an ensemble in one step by ``mx.vmap``, and asks many subnetworks of each member.

Run it with ``python examples/ensemble.py``, after ``pip install ".[cpu,examples]"``.

Eight networks learn from 200 digits, with their parameters stacked along axis 0. You should
see that all together are better than one, and that the subnetworks of a member, which are
the member with its dropout on, have a better likelihood than the member, dropout off.
"""

import argparse
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from digit_network import load_split_digits
from tqdm import tqdm

from chandrop.nn import Dropout, functional_call, stack_parameters
from chandrop.uncertainty import classify, negative_log_likelihood

MEMBERS, KEYS = 8, 16


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), Dropout(0.5), nn.Linear(128, 10))


def report(name: str, groups: mx.array, labels: mx.array) -> None:
    """Prints the mean scores of groups of networks, from logits (group, network, B, 10)."""
    answers = [classify(logits).probabilities for logits in groups]
    accuracy = mx.stack([(p.argmax(-1) == labels).mean() for p in answers]).mean().item()
    nll = mx.stack([negative_log_likelihood(p, labels) for p in answers]).mean().item()
    print(f"{name:26}  accuracy {accuracy:.4f}  negative log-likelihood {nll:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps

    images, test_images, labels, test_labels = map(mx.array, load_split_digits())
    x, y, test_x = images[:200].flatten(1), labels[:200], test_images.flatten(1)
    mx.random.seed(0)
    ensemble = build()
    ensemble.update(stack_parameters([build() for _ in range(MEMBERS)]))
    optimizer = optim.Adam(3e-3)
    optimizer.init(ensemble.trainable_parameters())  # avoids a second trace
    state = [ensemble.state, optimizer.state]

    def member_loss(parameters: Any, key: mx.array) -> mx.array:
        logits = functional_call(ensemble, parameters, x, key=key)
        return nn.losses.cross_entropy(logits, y, reduction="mean")

    @partial(mx.compile, inputs=state, outputs=state)
    def step(keys: mx.array) -> None:
        gradients = mx.vmap(mx.grad(member_loss))(ensemble.parameters(), keys)
        optimizer.update(ensemble, gradients)

    training_keys = mx.random.split(mx.random.key(1), steps * MEMBERS)
    for keys in tqdm(training_keys.reshape(steps, MEMBERS, 2), "training", unit="step"):
        mx.eval(step(keys), state)

    def member(parameters: Any, key: mx.array, dropout: bool = True) -> mx.array:
        # key[None] is one mask for all images, and so one subnetwork.
        return functional_call(ensemble, parameters, test_x, key=key[None], dropout=dropout)

    parameters, keys = ensemble.parameters(), mx.random.split(mx.random.key(2), KEYS)
    off = mx.vmap(lambda p: member(p, keys[0], dropout=False))(parameters)
    on = mx.vmap(mx.vmap(member, in_axes=(None, 0)), in_axes=(0, None))(parameters, keys)
    report("a member (mean of all)", off[:, None], test_labels)
    report(f"a member's {KEYS} subnetworks", on, test_labels)
    report(f"all {MEMBERS} members", off[None], test_labels)
    report(f"all {MEMBERS * KEYS} subnetworks", on.flatten(0, 1)[None], test_labels)


if __name__ == "__main__":
    main()
