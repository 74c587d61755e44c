"""Draws the answers of the digit network and its subnetworks."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from digit_answers import (
    BINS,
    ENTROPY,
    ENTROPY_OFF,
    MUTUAL_INFORMATION,
    SUBNETWORKS,
    Answers,
    calibration,
    told_apart,
)
from digit_network import Floats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from picture import picture, write

from chandrop.uncertainty import (
    Classification,
    reliability_curve,
    risk_coverage_curve,
)

OFF = "dimgray"
ON = "tab:blue"
WRONG = "firebrick"
FEW = 10
SHOWN = 5  # in a row


def draw(
    folder: Path, test: Answers, turned: Answers, letters: Answers, noise: Answers
) -> None:
    """Writes four pictures."""
    pictures = {
        "examples": of_examples(test),
        "calibration": of_calibration(test, turned),
        "errors": of_errors(turned),
        "unfamiliar": of_unfamiliar(test, letters, noise),
    }
    for name, figure in pictures.items():
        write(figure, folder / f"digits_{name}.png")


def of_examples(test: Answers) -> Figure:
    """The surest digits, each of another class, and the least sure ones."""
    unsure = np.array(test.subnetworks.mutual_information)
    guesses = np.array(test.subnetworks.probabilities.argmax(-1))
    labels = np.array(test.labels)
    wrong = guesses != labels
    surest = [np.where(labels == digit, unsure, np.inf).argmin() for digit in range(10)]
    surest = sorted(surest, key=lambda index: unsure[index])[:SHOWN]
    least_sure = (-unsure).argsort()[: 2 * SHOWN]
    figure = picture(
        f"{wrong[least_sure].sum()} of {wrong.sum()} errors among {len(wrong)} test digits "
        f"are in the {len(least_sure)} on which {SUBNETWORKS} subnetworks disagree most",
        height=4.3,
    )
    agree, disagree = figure.subfigures(2, 1, height_ratios=[1, 1.85])
    for rows, title, chosen in (
        (agree, "They agree on these:", sorted(surest, key=lambda index: labels[index])),
        (disagree, "They disagree most on these:", least_sure),
    ):
        rows.suptitle(title, x=0.02, ha="left", fontsize=10, weight="normal")
        every = rows.subplots(len(chosen) // SHOWN, SHOWN)
        for axes, index in zip(every.flat, chosen, strict=True):
            caption = f"says {guesses[index]}"
            if wrong[index]:
                caption += f", is {labels[index]}"
            draw_image(axes, test.images[index], caption, wrong[index])
    return figure


def draw_image(axes: Axes, image: Floats, caption: str, wrong: bool) -> None:
    axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.set_xlabel(caption, color=WRONG if wrong else "black")


def of_calibration(test: Answers, turned: Answers) -> Figure:
    """Accuracy against confidence."""

    def errors(answers: Answers) -> tuple[str, str]:
        subnetworks = calibration(answers.subnetworks, answers.labels)["ECE"]
        off = calibration(answers.off, answers.labels)["ECE"]
        return (
            "better" if subnetworks < off else "worse",
            f"calibration error {subnetworks:.3f},\nof the network alone {off:.3f}",
        )

    figure = picture(
        f"On turned digits, {SUBNETWORKS} subnetworks are calibrated {errors(turned)[0]} "
        f"than the network alone, and on upright ones {errors(test)[0]}",
        height=3.9,
    )
    panels = figure.subplots(1, 2, sharey=True)
    for axes, answers, name in zip(
        panels, (turned, test), ("Turned", "Upright"), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="silver", zorder=0)
        draw_reliability(axes, "network alone", answers.off, answers.labels, OFF)
        draw_reliability(axes, "subnetworks", answers.subnetworks, answers.labels, ON)
        axes.set_title(f"{name}: {errors(answers)[1]}", fontsize=9)
        axes.set(xlim=(0, 1.07), ylim=(-0.06, 1.07), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.set(aspect="equal", xlabel="confidence")
    panels[0].set_ylabel("accuracy")
    panels[0].plot([], [], "o", color="gray", mfc="none", label=f"fewer than {FEW} images")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(
        *handles, loc="outside lower center", ncols=3, fontsize=9, columnspacing=1
    )
    return figure


def draw_reliability(
    axes: Axes, name: str, answer: Classification, labels: mx.array, color: str
) -> None:
    """Draws a reliability curve, with hollow points beside it for bins of few images."""
    confidence, accuracy, images = map(
        np.array, reliability_curve(answer.probabilities, labels, BINS)
    )
    few = images < FEW
    axes.plot(confidence[~few], accuracy[~few], "o-", color=color, label=name)
    axes.plot(confidence[few], accuracy[few], "o", color=color, mfc="none")


def of_errors(turned: Answers) -> Figure:
    """The errors that remain if only the surest answers are accepted."""
    answers = {
        ENTROPY_OFF: turned.off,
        ENTROPY: turned.subnetworks,
        MUTUAL_INFORMATION: turned.subnetworks,
    }
    curves = {
        measure: risk_coverage_curve(
            answers[measure].probabilities.argmax(-1) != turned.labels, unsure
        )
        for measure, unsure in turned.uncertainties().items()
    }

    def percent(measure: str, accepted: float) -> float:
        risk = curves[measure].risk
        return 100 * risk[round(accepted * len(risk)) - 1].item()

    def area(measure: str) -> float:
        return curves[measure].risk.mean().item()

    better = "better" if area(ENTROPY) < area(ENTROPY_OFF) else "no better"
    figure = picture(
        f"Subnetworks read {percent(ENTROPY, 1):.0f} % of turned digits wrong, and of the "
        f"surest half {percent(ENTROPY, 0.5):.0f} %; they find errors {better} than the "
        "network alone",
        height=4.4,
    )
    axes = figure.subplots()
    lines = {ENTROPY_OFF: (OFF, "-"), ENTROPY: (ON, "-"), MUTUAL_INFORMATION: (ON, ":")}
    for measure, (color, style) in lines.items():
        curve = curves[measure]
        coverage, risk = 100 * np.array(curve.coverage), 100 * np.array(curve.risk)
        axes.plot(coverage, risk, color=color, linestyle=style, label=f"by {measure}")
    axes.set(xlabel="accepted, the surest first (%)", ylabel="wrong among the accepted (%)")
    axes.set(xlim=(0, 100), ylim=(0, None))
    axes.locator_params("y", nbins=5)
    axes.legend(loc="upper left")
    return figure


def of_unfamiliar(test: Answers, letters: Answers, noise: Answers) -> Figure:
    """The mutual information of digits and of what is none, with four images of each."""
    areas = told_apart(test, letters)
    more = "more" if areas[MUTUAL_INFORMATION] > 0.5 else "no more"
    figure = picture(
        f"Subnetworks disagree {more} on letters than on digits, and their entropy tells "
        f"the two apart with an AUROC of {areas[ENTROPY]:.2f}, that of the network alone "
        f"with {areas[ENTROPY_OFF]:.2f}",
        height=4.9,
    )
    groups = (test, letters, noise)
    panels = figure.subplots(len(groups), sharex=True)
    for axes, answers in zip(panels, groups, strict=True):
        unsure = np.array(answers.subnetworks.mutual_information)
        shares = np.full(len(unsure), 100 / len(unsure))
        axes.hist(unsure, np.linspace(0, 1.2, 25), weights=shares, color=ON)
        axes.axvline(np.median(unsure), color=WRONG)
        axes.set_title(answers.name)
        axes.set(ylabel="images (%)", xlim=(0, 1.6), xticks=[0, 0.5, 1])
        corner = axes.inset_axes((0.76, 0.02, 0.24, 0.96))
        chosen = np.pad(answers.images[[0, 2, 7, 19], ..., 0], ((0, 0), (1, 1), (1, 1)))
        corner.imshow(np.block([[*chosen[:2]], [*chosen[2:]]]), cmap="gray_r")
        corner.set_axis_off()
    panels[-1].set_xlabel("disagreement: mutual information (nats); red: the median")
    return figure
