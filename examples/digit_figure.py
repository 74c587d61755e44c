"""Draws the answers of the digit network and its subnetworks."""

import matplotlib.pyplot as plt
import mlx.core as mx
import numpy as np
from digit_answers import (
    BINS,
    ENTROPY_OFF,
    MUTUAL_INFORMATION,
    Answers,
    calibration,
    told_apart,
)
from digit_network import Floats
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from chandrop.uncertainty import Classification, reliability_curve, risk_coverage_curve

OFF = "dimgray"
ON = "tab:blue"
WRONG = "firebrick"
FEW = 10
MARKERS = f"area of a point: number of images; hollow: fewer than {FEW}"


def draw(
    path: str, test: Answers, turned: Answers, letters: Answers, noise: Answers
) -> None:
    """Writes the whole picture."""
    figure = plt.figure(figsize=(10, 12.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[3.1, 4.6, 5])
    draw_agreement(top, test)
    draw_calibration(middle, [test, turned])
    left, right = bottom.subfigures(1, 2, width_ratios=[4.6, 5.4])
    draw_risk(left, turned)
    draw_disagreement(right, test, [letters, noise])
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_title(figure: SubFigure, text: str) -> None:
    left = 0.1 * figure.dpi / figure.bbox.width
    figure.suptitle(text, x=left, ha="left", fontsize=12, weight="bold")


def draw_image(axes: Axes, image: Floats, caption: str = "", color: str = "black") -> None:
    axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axes.set_xlabel(caption, fontsize=10, color=color)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_agreement(figure: SubFigure, test: Answers) -> None:
    """Draws the surest digit of each class, and the ten least sure of all."""
    unsure = np.array(test.subnetworks.mutual_information)
    guesses = np.array(test.subnetworks.probabilities.argmax(-1))
    labels = np.array(test.labels)
    surest = [np.where(labels == digit, unsure, np.inf).argmin() for digit in range(10)]
    least_sure = (-unsure).argsort()[:10]
    rows = {
        "Test digits on which the subnetworks agree": surest,
        "Test digits on which they disagree": least_sure,
    }
    for row, (title, chosen) in zip(figure.subfigures(2, 1), rows.items(), strict=True):
        draw_title(row, title)
        for axes, index in zip(row.subplots(1, 10), chosen, strict=True):
            right = guesses[index] == labels[index]
            caption = f"says {guesses[index]}" + ("" if right else f", is {labels[index]}")
            draw_image(axes, test.images[index], caption, "black" if right else WRONG)


def draw_calibration(figure: SubFigure, groups: list[Answers]) -> None:
    """Draws accuracy against confidence, and a table of scores."""
    draw_title(figure, "Calibration: is the network right as often as it says?")
    for axes, answers in zip(figure.subplots(1, len(groups)), groups, strict=True):
        axes.plot([0, 1], [0, 1], color="silver", zorder=0)
        axes.text(0.03, 0.97, "not confident enough", color="gray")
        axes.text(1.02, 0.03, "too confident", color="gray", ha="right")
        draw_reliability(axes, "dropout off", answers.off, answers.labels, OFF)
        draw_reliability(axes, "subnetworks", answers.subnetworks, answers.labels, ON)
        axes.set_title(answers.name, fontsize=11, loc="left")
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.06), ylim=(-0.06, 1.09))
        font = {"family": "monospace", "size": 10}
        axes.legend(
            title=f"{'':14}{'ECE':>8}{'NLL':>8}{'Brier':>8}",
            title_fontproperties=font,
            prop=font,
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
        )
    figure.text(0.99, 0.985, MARKERS, color="gray", ha="right", va="top")


def draw_reliability(
    axes: Axes, name: str, answer: Classification, labels: mx.array, color: str
) -> None:
    """Draws a reliability curve, with hollow points for bins of few images."""
    curve = reliability_curve(answer.probabilities, labels, BINS)
    confidence, accuracy, images = map(np.array, curve)
    sizes = 25 + 400 * images / images.sum()
    many = images >= FEW
    axes.scatter(confidence[many], accuracy[many], sizes[many], color=color, alpha=0.8)
    axes.scatter(confidence[~many], accuracy[~many], sizes[~many], "none", edgecolors=color)
    scores = "".join(f"{score:8.3f}" for score in calibration(answer, labels).values())
    axes.plot(confidence[many], accuracy[many], ".-", color=color, label=name + scores)


def draw_risk(figure: SubFigure, turned: Answers) -> None:
    """Draws the errors that remain if only the surest answers are accepted."""
    draw_title(figure, "Risk against coverage")
    axes = figure.subplots()
    answers = [turned.off, turned.subnetworks, turned.subnetworks]
    lines = [(OFF, "-"), (ON, "-"), (ON, ":")]
    for (measure, unsure), answer, (color, style) in zip(
        turned.uncertainties().items(), answers, lines, strict=True
    ):
        wrong = answer.probabilities.argmax(-1) != turned.labels
        curve = risk_coverage_curve(wrong, unsure)
        coverage, risk = 100 * np.array(curve.coverage), 100 * np.array(curve.risk)
        axes.plot(coverage, risk, color=color, linestyle=style, label=f"by {measure}")
    axes.set_title(turned.name, fontsize=11, loc="left")
    axes.set(xlabel="accepted (%), the surest first", ylabel="wrong among the accepted (%)")
    axes.set(xlim=(0, 100), ylim=(0, None))
    axes.locator_params("y", nbins=5)
    axes.legend(frameon=False, fontsize=10, loc="upper left")


def draw_disagreement(figure: SubFigure, test: Answers, unknowns: list[Answers]) -> None:
    """Draws the mutual information on each group, and four of its images."""
    draw_title(figure, "Disagreement on images of unseen kinds")
    groups = [test, *unknowns]
    for axes, answers in zip(
        figure.subplots(len(groups), sharex=True), groups, strict=True
    ):
        unsure = np.array(answers.uncertainties()[MUTUAL_INFORMATION])
        shares = np.full(len(unsure), 100 / len(unsure))
        axes.hist(unsure, np.linspace(0, 1.2, 25), weights=shares, color=ON)
        axes.set(ylabel="images (%)", xlim=(-0.02, 1.5))
        title = answers.name
        if answers is not test:
            area = told_apart(test, answers)
            title += f" against digits: AUROC {area[MUTUAL_INFORMATION]:.2f}"
            title += f" (dropout off: {area[ENTROPY_OFF]:.2f})"
        axes.set_title(title, fontsize=10.5, loc="left")
        corner = axes.inset_axes((0.74, 0.04, 0.25, 0.92))
        chosen = np.pad(answers.images[[0, 2, 7, 19], ..., 0], ((0, 0), (1, 1), (1, 1)))
        corner.imshow(np.block([[*chosen[:2]], [*chosen[2:]]]), cmap="gray_r")
        corner.set_axis_off()
    axes.set_xlabel("mutual information (nats)")
