"""Learns grey and white matter from half a brain, and shows its uncertainty in the rest.

Run it with ``python examples/brain_mri.py``.

Trains a small 3D network with ``Dropout3d`` on patches from the front half of the MNI152
brain of 2009: the mean T1 scan of 152 people and its maps of grey and white matter, which
nilearn ships (Fonov et al., "Unbiased average age-appropriate atlases for pediatric
studies", NeuroImage 54, 2011). Then an ensemble of its subnetworks, one for each key,
classifies every voxel (Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML
2016). The script compares their uncertainty with errors and with boundaries in the back
half, which was not used in training. Left and right halves would not do, since they are
mirror images in this brain.

The network with dropout off predicts its errors equally well: most of the uncertainty here
is within every subnetwork (the expected entropy), for example where a voxel holds two
tissues, and little is between them (the mutual information).
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from nilearn.datasets import (
    load_mni152_brain_mask,
    load_mni152_gm_template,
    load_mni152_template,
    load_mni152_wm_template,
)
from numpy.typing import NDArray
from picture import picture, write
from scipy.ndimage import generate_binary_structure, maximum_filter, minimum_filter
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, roc_auc_score
from tqdm import tqdm

from chandrop.nn import Dropout3d
from chandrop.uncertainty import Classification, predict, risk_coverage_curve

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]
Marks = NDArray[np.bool_]

VOXEL = 2  # millimetres
BOX = np.s_[11:87, 12:108, 0:80]  # the brain and a margin, in voxels
CORNER = (-76, -110, -72)  # of the box, in millimetres
SPLIT = 48  # in voxels of the box; what is behind is unseen
PATCH = 16
BATCH = 4
CLASSES = {"neither": "#20242c", "grey matter": "#8fa3b8", "white matter": "#f4ead2"}
ERROR = "#e8112d"
SPLIT_COLOR = "#2ca02c"


class Volumes(NamedTuple):
    """A brain, or a part of it: axis 0 points right, axis 1 to the front, axis 2 up."""

    scan: Floats
    truth: Labels
    brain: Marks


class Answers(NamedTuple):
    """Predictions for voxels, and the truth: arrays of one shape."""

    truth: Labels
    guess: Labels
    unsure: Floats
    boundary: Marks

    @property
    def wrong(self) -> Marks:
        return self.guess != self.truth


class TissueNetwork(nn.Module):
    """Classifies voxels from features at a fine and a coarse scale."""

    def __init__(self, p: float = 0.1):
        super().__init__()
        self.fine = nn.Conv3d(1, 8, kernel_size=3, padding=1)
        self.down = nn.Conv3d(8, 16, kernel_size=2, stride=2)
        self.coarse = nn.Conv3d(16, 16, kernel_size=3, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.hidden = nn.Linear(8 + 16, 32)
        self.head = nn.Linear(32, len(CLASSES))
        self.dropouts = [Dropout3d(p) for _ in range(3)]

    def __call__(self, x: mx.array) -> mx.array:
        """Returns logits ``(B, X, Y, Z, 3)`` for scans ``(B, X, Y, Z, 1)``."""
        fine = nn.relu(self.fine(x))
        coarse = self.dropouts[0](nn.relu(self.down(fine)))
        coarse = self.dropouts[1](nn.relu(self.coarse(coarse)))
        both = mx.concatenate([fine, self.up(coarse)], axis=-1)
        return self.head(self.dropouts[2](nn.relu(self.hidden(both))))


def load_volumes() -> Volumes:
    scan, grey, white, brain = (
        load(resolution=VOXEL).get_fdata(dtype=np.float32)[BOX]
        for load in (
            load_mni152_template,
            load_mni152_gm_template,
            load_mni152_wm_template,
            load_mni152_brain_mask,
        )
    )
    truth = np.stack([1 - grey - white, grey, white]).argmax(0)
    return Volumes(scan, truth, brain > 0)


def as_input(scans: Floats) -> mx.array:
    """Standardises the brightness, and adds a channel axis."""
    return mx.array((scans[..., None] - 0.7) / 0.2)


def cut_patches(
    volumes: Volumes, generator: np.random.Generator
) -> tuple[mx.array, mx.array]:
    """Returns scan and truth of a batch of patches around random voxels of the brain."""
    centres = generator.choice(np.argwhere(volumes.brain), BATCH)
    corners = np.clip(centres - PATCH // 2, 0, np.subtract(volumes.brain.shape, PATCH))
    cuts = [tuple(slice(place, place + PATCH) for place in corner) for corner in corners]
    scans = np.stack([volumes.scan[cut] for cut in cuts])
    truths = np.stack([volumes.truth[cut] for cut in cuts])
    return as_input(scans), mx.array(truths)


def train(network: TissueNetwork, volumes: Volumes, steps: int) -> None:
    """Trains in place, with a compiled step that carries the dropout keys as state."""
    optimizer = optim.Adam(learning_rate=optim.cosine_decay(5e-3, steps))
    optimizer.init(network.trainable_parameters())
    state = [network.state, optimizer.state]

    def loss(network: TissueNetwork, x: mx.array, y: mx.array) -> mx.array:
        return nn.losses.cross_entropy(network(x), y, reduction="mean")

    loss_and_gradients = nn.value_and_grad(network, loss)

    @partial(mx.compile, inputs=state, outputs=state)
    def step(x: mx.array, y: mx.array) -> mx.array:
        value, gradients = loss_and_gradients(network, x, y)
        optimizer.update(network, gradients)
        return value

    network.train()
    generator = np.random.default_rng(0)
    with tqdm(range(steps), desc="training", unit="step") as progress:
        for _ in progress:
            value = step(*cut_patches(volumes, generator))
            mx.eval(value, state)
            progress.set_postfix(loss=f"{value.item():.3f}", refresh=False)


def is_boundary(truth: Labels) -> Marks:
    """Marks the voxels with a neighbour, of 6, in another class."""
    cross = generate_binary_structure(3, 1)
    return maximum_filter(truth, footprint=cross) != minimum_filter(truth, footprint=cross)


def as_answers(summary: Classification, volumes: Volumes) -> Answers:
    return Answers(
        volumes.truth,
        np.array(summary.probabilities[0].argmax(-1)),
        np.array(summary.predictive_entropy[0]),
        is_boundary(volumes.truth),
    )


def within(answers: Answers, brain: Marks, half: tuple[slice, ...]) -> Answers:
    """Returns the answers for the brain's voxels in one half, as one-dimensional arrays."""
    return Answers(*(array[half][brain[half]] for array in answers))


def measure(answers: Answers) -> dict[str, float]:
    """Scores the guesses, and how well the uncertainty predicts errors."""
    dice = f1_score(answers.truth, answers.guess, average=None)
    return {
        "accuracy": np.mean(~answers.wrong),
        **{f"Dice of {name}": score for name, score in zip(CLASSES, dice, strict=True)},
        "AUROC of errors": roc_auc_score(answers.wrong, answers.unsure),
        "AUROC of boundaries": roc_auc_score(answers.boundary, answers.unsure),
        "rank correlation with errors": spearmanr(answers.unsure, answers.wrong)[0],
        "rank correlation with boundaries": spearmanr(answers.unsure, answers.boundary)[0],
    }


def of_slices(volumes: Volumes, answers: Answers, unseen: Answers) -> Figure:
    """A slice from above: the scan, its tissues, the prediction, and its uncertainty."""
    z = 6
    left, back, bottom = CORNER
    right, front, _ = np.add(CORNER, np.multiply(VOXEL, volumes.scan.shape))
    split = back + SPLIT * VOXEL
    errors = np.where(volumes.brain & answers.wrong, 1, np.nan)
    tissue = {"cmap": ListedColormap(list(CLASSES.values())), "vmin": 0, "vmax": 2}
    panels = {
        "Scan": [(volumes.scan, {"cmap": "gray"})],
        "Grey and white matter": [(volumes.truth, tissue)],
        "Prediction, errors in red": [
            (answers.guess, tissue),
            (errors, {"cmap": ListedColormap([ERROR])}),
        ],
        "Uncertainty": [(answers.unsure, {"cmap": "magma", "vmin": 0, "vmax": np.log(2)})],
    }
    times = unseen.unsure[unseen.wrong].mean() / unseen.unsure[~unseen.wrong].mean()
    figure = picture(
        "Learned from the front half of a brain: in the other half, the uncertainty is "
        f"{times:.0f} times as high where the prediction is wrong",
        height=7.7,
    )
    every = figure.subplots(2, 2)
    for axes, (title, layers) in zip(every.flat, panels.items(), strict=True):
        axes.set_title(title)
        for volume, style in layers:
            image = axes.imshow(
                volume[:, :, (z - bottom) // VOXEL].T,
                extent=(left, right, back, front),
                origin="lower",
                interpolation="nearest",
                **style,
            )
        axes.axhline(split, color=SPLIT_COLOR, linestyle="--")
        axes.set_yticks([(back + split) / 2, (split + front) / 2], ["unseen", "trained on"])
        axes.set_xticks([])
        axes.tick_params(length=0, labelrotation=90)
        plt.setp(axes.get_yticklabels(), va="center", visible=axes in every[:, 0])
    figure.colorbar(
        image, ax=every, label="entropy (nats)", location="bottom", aspect=30, shrink=0.6
    )
    return figure


def of_groups(unseen: Answers) -> Figure:
    """The mean uncertainty of right and wrong voxels, inside and at boundaries."""
    wrong, boundary = unseen.wrong, unseen.boundary
    groups = {
        "right, inside": ~wrong & ~boundary,
        "right, at a boundary": ~wrong & boundary,
        "wrong, inside": wrong & ~boundary,
        "wrong, at a boundary": wrong & boundary,
    }
    means = [unseen.unsure[group].mean() for group in groups.values()]
    figure = picture(
        f"At boundaries of tissues, the network is {means[3] / means[1]:.0f} times as "
        f"uncertain where it is wrong, and inside them {means[2] / means[0]:.0f} times",
        height=3.1,
    )
    axes = figure.subplots()
    bars = axes.barh(
        [f"{name}\n({group.mean():.1%} of voxels)" for name, group in groups.items()],
        means,
        color=["tab:blue", "tab:blue", ERROR, ERROR],
    )
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="mean entropy in the unseen half (nats)")
    return figure


def of_errors(unseen: Answers) -> Figure:
    """The errors that remain when the most uncertain voxels are left out."""
    curve = risk_coverage_curve(mx.array(unseen.wrong), mx.array(unseen.unsure))
    kept, left = 100 * np.array(curve.coverage), 100 * np.array(curve.risk)
    errors, at_80 = left[-1], np.interp(80, kept, left)
    figure = picture(
        f"In the unseen half, {errors:.1f} % of the voxels are wrong, and {at_80:.1f} % of "
        "the surest 80 %",
        height=3.3,
    )
    axes = figure.subplots()
    axes.plot(kept, left, color=ERROR)
    axes.plot([80, 100], [at_80, errors], "o", color=ERROR, clip_on=False)
    axes.annotate(f"{at_80:.1f} %", (78, at_80), ha="right", va="bottom")
    axes.annotate(f"{errors:.1f} %", (97, errors), ha="right", va="center")
    axes.set(xlabel="voxels kept, the surest first (%)", ylabel="errors (%)")
    axes.set(xlim=(0, 100), ylim=(0, None))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument("--members", type=int, default=32, help="how many subnetworks")
    parser.add_argument(
        "--output", default="pictures", type=Path, help="folder for the pictures"
    )
    arguments = parser.parse_args()
    started = time.perf_counter()

    volumes = load_volumes()
    front, back = np.s_[:, SPLIT:], np.s_[:, :SPLIT]
    mx.random.seed(0)
    network = TissueNetwork()
    train(network, Volumes(*(volume[front] for volume in volumes)), arguments.steps)

    keys = mx.random.split(mx.random.key(1), arguments.members)
    scans = as_input(volumes.scan[None])
    answers = as_answers(predict(network, keys, scans, chunk=4, progress=True), volumes)
    network_alone = as_answers(predict(network, None, scans), volumes)
    unseen = within(answers, volumes.brain, back)
    figures = {
        "trained on": measure(within(answers, volumes.brain, front)),
        "unseen": measure(unseen),
        "unseen, dropout off": measure(within(network_alone, volumes.brain, back)),
    }

    print(" " * 33, *figures, sep="  ")
    for measured in figures["unseen"]:
        cells = [f"{column[measured]:{len(half)}.3f}" for half, column in figures.items()]
        print(f"{measured:33}", *cells, sep="  ")
    pictures = {
        "slices": of_slices(volumes, answers, unseen),
        "groups": of_groups(unseen),
        "errors": of_errors(unseen),
    }
    for name, figure in pictures.items():
        write(figure, arguments.output / f"brain_{name}.png")
    print(f"total seconds: {time.perf_counter() - started:.0f}")


if __name__ == "__main__":
    main()
