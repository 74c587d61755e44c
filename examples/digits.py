"""Learns handwritten digits with channel dropout, and shows what the network does not know.

Run it with ``python examples/digits.py``.

Trains a small convolutional network on the 1,797 digits of 8x8 pixels that scikit-learn
ships, then evaluates an ensemble of its subnetworks, one for each key, by ``mx.vmap``
(Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016), and draws the
digits that the ensemble agrees on, those that it does not, and how it comes to disagree
as a digit is turned.
"""

import argparse
import sys
import time
from functools import partial

import matplotlib.pyplot as plt
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from digit_network import DigitNetwork, Floats, Labels, load_split_digits
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from scipy.ndimage import rotate
from tqdm import tqdm

from chandrop.nn import functional_call

MEMBERS = 32
BATCH = 64
ANGLES = range(0, 181, 10)


def train(network: DigitNetwork, images: Floats, labels: Labels, epochs: int) -> None:
    """Trains in place, by a compiled step that carries the dropout keys as state."""
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


def member_probabilities(network: DigitNetwork, images: Floats, key: mx.array) -> Floats:
    """Gives what each member of the ensemble says: ``(MEMBERS, B, 10)``.

    One key is one subnetwork: it is broadcast over the batch, so that a member drops the
    same channels for every image.
    """
    x = mx.array(images)

    def member(key: mx.array) -> mx.array:
        keys = mx.broadcast_to(key, (len(x), 2))
        logits = functional_call(network, network.parameters(), x, key=keys, dropout=True)
        return mx.softmax(logits, axis=-1)

    return np.array(mx.vmap(member)(mx.random.split(key, MEMBERS)))


def entropy(probabilities: Floats) -> Floats:
    """In nats, over the last axis."""
    return -(probabilities * np.log(probabilities + 1e-12)).sum(-1)


def disagreement(members: Floats) -> Floats:
    """The mutual information of label and member, in nats (Houlsby et al., 2011).

    It is 0 where all members say the same, however uncertain each of them is.
    """
    return entropy(members.mean(0)) - entropy(members).mean(0)


def turned(images: Floats) -> Floats:
    """Gives images ``(B, 8, 8, 1)`` turned by each angle: ``(angles, B, 8, 8, 1)``."""
    turns = [rotate(images, angle, axes=(1, 2), reshape=False, order=1) for angle in ANGLES]
    return np.stack(turns).clip(0, 1)


def draw_digit(axes: Axes, image: Floats, caption: str = "", color: str = "black") -> None:
    axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axes.set_xlabel(caption, fontsize=9, color=color)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_sure_and_unsure(
    figure: SubFigure, images: Floats, labels: Labels, members: Floats
) -> None:
    """Draws the surest digit of each class, and the ten least sure of all."""
    unsure = disagreement(members)
    guesses = members.mean(0).argmax(-1)
    surest = [np.where(labels == digit, unsure, np.inf).argmin() for digit in range(10)]
    least_sure = (-unsure).argsort()[:10]
    rows = {"The members agree": surest, "The members disagree": least_sure}
    for row, (title, chosen) in zip(figure.subfigures(2, 1), rows.items(), strict=True):
        row.suptitle(title, x=0.008, ha="left", fontsize=11, weight="bold")
        for axes, index in zip(row.subplots(1, 10), chosen, strict=True):
            right = guesses[index] == labels[index]
            caption = f"says {guesses[index]}" + ("" if right else f", is {labels[index]}")
            draw_digit(axes, images[index], caption, "black" if right else "firebrick")


def draw_turning(figure: SubFigure, turns: Floats, members: Floats) -> None:
    """Draws one digit turned, what the members say of it, and how they disagree on all.

    Args:
        figure: where to draw.
        turns: digits turned, ``(angles, B, 8, 8, 1)``; the first of them is shown.
        members: what the members say of them, ``(MEMBERS, angles, B, 10)``.
    """
    columns = len(ANGLES)
    axes = figure.subplot_mosaic(
        [list(map(str, ANGLES)), ["says"] * columns, ["unsure"] * columns],
        height_ratios=[1, 2.4, 1.6],
    )
    figure.suptitle("One digit turned", x=0.008, ha="left", fontsize=11, weight="bold")
    for angle, turn in zip(ANGLES, turns, strict=True):
        draw_digit(axes[str(angle)], turn[0])

    says = members[:, :, 0].mean(0).T
    colors = plt.get_cmap("tab10").colors
    axes["says"].stackplot(ANGLES, says, colors=colors, alpha=0.85)
    for digit, share in enumerate(says):
        place = share[1:-1].argmax() + 1 if share[0] < 0.5 else 1
        if share.max() > 0.3:
            middle = says[:digit, place].sum() + share[place] / 2
            axes["says"].text(ANGLES[place], middle, digit, color="white", weight="bold")
    axes["says"].set(ylim=(0, 1), ylabel="mean probability")
    axes["says"].tick_params(labelbottom=False)

    unsure = disagreement(members)
    axes["unsure"].plot(ANGLES, unsure[:, 0], color="black", label="this digit")
    low, middle, high = np.quantile(unsure, [0.25, 0.5, 0.75], axis=1)
    axes["unsure"].plot(ANGLES, middle, color="tab:blue", label="median of 64 digits")
    axes["unsure"].fill_between(
        ANGLES,
        low,
        high,
        color="tab:blue",
        alpha=0.2,
        linewidth=0,
        label="the middle half of them",
    )
    axes["unsure"].set(ylabel="disagreement\n(nats)", xlabel="turned by (degrees)")
    axes["unsure"].set_ylim(bottom=0)
    axes["unsure"].legend(frameon=False, fontsize=9, ncols=3, loc="upper center")
    for name in ("says", "unsure"):
        half = ANGLES.step / 2
        axes[name].set_xlim(ANGLES[0] - half, ANGLES[-1] + half)
        axes[name].set_xticks(range(0, 181, 30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--output", default="digits.png", help="where to write the picture")
    arguments = parser.parse_args()
    started = time.perf_counter()

    images, test_images, labels, test_labels = load_split_digits()
    mx.random.seed(0)
    network = DigitNetwork()
    train(network, images, labels, arguments.epochs)

    network.eval()
    guesses = np.array(network(mx.array(test_images))).argmax(-1)
    accuracy = (guesses == test_labels).mean()
    members = member_probabilities(network, test_images, mx.random.key(1))
    ensemble_accuracy = (members.mean(0).argmax(-1) == test_labels).mean()

    six = np.where(test_labels == 6, disagreement(members), np.inf).argmin()
    shown = np.concatenate([test_images[[six]], test_images[:63]])
    turns = turned(shown)
    said = member_probabilities(network, turns.reshape(-1, 8, 8, 1), mx.random.key(1))

    figure = plt.figure(figsize=(10, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 2])
    draw_sure_and_unsure(top, test_images, test_labels, members)
    draw_turning(bottom, turns, said.reshape(MEMBERS, *turns.shape[:2], 10))
    figure.savefig(arguments.output, dpi=120)

    if accuracy < 0.97:
        sys.exit(f"The test accuracy is {accuracy:.4f}, below 0.97.")
    print(f"test accuracy, dropout off:      {accuracy:.4f}")
    print(f"test accuracy, {MEMBERS} subnetworks:   {ensemble_accuracy:.4f}")
    print(f"seconds in all:                  {time.perf_counter() - started:.1f}")
    print(f"picture:                         {arguments.output}")


if __name__ == "__main__":
    main()
