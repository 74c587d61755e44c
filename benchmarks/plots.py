"""Draws what the benchmarks measured: a picture for a question, its answer as the title."""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from staleness import RESULTS, ROOT

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from picture import picture, write

OURS, THEIRS, OTHERS = "tab:blue", "tab:orange", "silver"


def write_of(results: Path, figure: Figure) -> None:
    """Writes the picture of a NAME.json, whose SHA-256 the file holds."""
    folder = results.parent
    if folder.resolve() == RESULTS:
        folder = ROOT / "docs" / "pictures"
    digest = hashlib.sha256(results.read_bytes()).hexdigest()
    write(figure, folder / f"{results.stem}.png", Source=digest)


def draw_bars(axes: Axes, lengths: Mapping[str, float], colors: list[str]) -> None:
    """Draws a bar for each length, and its number instead of an axis."""
    bars = axes.barh(list(lengths), list(lengths.values()), color=colors)
    axes.bar_label(bars, fmt="{:.3g}", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.25)
    axes.set_xticks([])
    axes.spines.bottom.set_visible(False)


def draw_ratios(axes: Axes, frame: pd.DataFrame, x: str, label: str) -> None:
    """Draws a point for each row, in the color of its way, on an axis of ratios."""
    sns.stripplot(
        frame,
        x=x,
        y="name",
        hue="way",
        palette={"eager": "dimgray", "compiled": OURS},
        jitter=False,
        size=7,
        ax=axes,
    )
    axes.axvline(1, color="gray")
    axes.grid(axis="y", color="gainsboro")
    axes.set(xlabel=label, ylabel="", xscale="log")
    axes.legend(title=None)


def with_ticks(axes: Axes, *ticks: float) -> None:
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def speed(seconds: Mapping[str, Mapping[str, float]]) -> Figure:
    """How fast is it? Takes the seconds of each library in each way."""
    ratios = {way: of_way["mlx.nn"] / of_way["chandrop"] for way, of_way in seconds.items()}
    faster = sum(ratio > 1 for ratio in ratios.values())
    behind = sum(
        min(of_way["torch"], of_way["JAX"]) < of_way["chandrop"]
        for of_way in seconds.values()
    )
    figure = picture(
        f"chandrop's Dropout2d is faster on a CPU than mlx.nn's in {faster} of "
        f"{len(seconds)} uses, up to {max(ratios.values()):.0f} times; torch or JAX is "
        f"faster than chandrop in {behind}",
        height=4.4,
    )
    titles = {name: name for name in ("chandrop", "mlx.nn", "torch", "JAX")}
    titles["floor of MLX"] = "x * 2 in MLX"
    every = figure.subplots(2, 2, sharey=True)
    for axes, (way, of_way) in zip(every.flat, seconds.items(), strict=True):
        milliseconds = {titles[name]: 1e3 * of_way[name] for name in titles}
        draw_bars(axes, milliseconds, [OURS, THEIRS, *[OTHERS] * 3])
        axes.set_title(way)
    # The axis is shared: the last panel turned it around again.
    axes.set_ylim(len(titles) - 0.5, -0.5)
    figure.supxlabel("milliseconds; each panel has its own scale", fontsize=10)
    return figure


def test_losses(losses: pd.DataFrame) -> Figure:
    """Does checkpointing change what is learned? Takes a row for each seed."""
    means = losses.groupby(["dropout", "checkpointing"])["loss"].mean().unstack()
    times = means["with"] / means["without"]
    figure = picture(
        "grad_checkpoint multiplies the test loss of mlx-lm's LoRA by "
        f"{times['mlx.nn']:.1f} with mlx.nn's dropout, and by {times['chandrop']:.1f} with "
        "chandrop's",
        height=3.4,
    )
    axes = figure.subplots()
    names = losses.assign(checkpointing=losses["checkpointing"] + "\ngrad_checkpoint")
    style = {"x": "loss", "y": "checkpointing", "hue": "dropout", "ax": axes}
    palette = {"mlx.nn": THEIRS, "chandrop": OURS}
    sns.barplot(names, **style, palette=palette, saturation=1, errorbar=None)
    handles, labels = axes.get_legend_handles_labels()
    black = dict.fromkeys(palette, "black")
    sns.stripplot(names, **style, palette=black, dodge=True, legend=False)
    dot = Line2D([], [], color="black", marker="o", linestyle="")
    axes.legend([*handles, dot], [*labels, "a seed"], loc="upper right")
    axes.set(xlabel="test loss", ylabel="", xlim=(0, None))
    axes.locator_params("x", nbins=5)
    return figure


def members(ratios: pd.DataFrame) -> Figure:
    """What do the members cost? Takes a row for each member and way."""
    blocks = ratios["name"].str.startswith("drop_block")
    figure = picture(
        f"A member takes at most {ratios['ratio'][~blocks].max():.2f} times as long as its "
        f"formula; blocks, up to {ratios['ratio'][blocks].max():.1f} times as long as a "
        "max-pool",
        height=5.9,
    )
    axes = figure.subplots()
    draw_ratios(axes, ratios, "ratio", "times the formula (blocks: a max-pool)")
    with_ticks(axes, 0.03, 0.1, 0.3, 1, 3)
    return figure


def speedups(faster: pd.DataFrame) -> Figure:
    """What does thinning gain? Takes a row for each case and way, with its limit."""
    steps = faster[faster["name"].str.startswith("training step")]
    gains = steps[steps["way"] == "compiled"].set_index("p")["faster"]
    figure = picture(
        "A compiled thin training step is "
        + ", ".join(f"{gain:.1f}" for gain in gains)
        + " times as fast at p = "
        + ", ".join(map(str, gains.index)),
        height=4.1,
    )
    axes = figure.subplots()
    draw_ratios(axes, faster, "faster", "times as fast as without thinning")
    limits = faster.drop_duplicates("name")
    style = {"color": "black", "marker": "|", "markersize": 16, "linestyle": ""}
    axes.plot(limits["limit"], limits["name"], **style, label="limit by multiplications")
    handles = axes.get_legend_handles_labels()
    axes.get_legend().remove()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    with_ticks(axes, 1, 2, 4, 8, 16)
    return figure


def subnetworks(shares: Mapping[str, float], count: int) -> Figure:
    """What is gained by all subnetworks at once? Takes the times over those of a loop."""
    least = min(shares, key=lambda name: shares[name])
    figure = picture(
        f"{count} subnetworks at once take {shares[least]:.0%} to "
        f"{max(shares.values()):.0%} of a loop's time, the least for {least}",
        height=2.8,
    )
    axes = figure.subplots()
    percents = {fill(name, 20): 100 * share for name, share in shares.items()}
    draw_bars(axes, percents | {"a loop": 100}, [*[OURS] * len(shares), OTHERS])
    axes.set_xlabel("time, % of a loop's")
    return figure


def learning(scores: pd.DataFrame, shares: Mapping[float, float]) -> Figure:
    """Do thin masks train as well? Takes a row for each score of each run.

    `shares` has for each rate the time of thin masks to a level of accuracy, over that of
    masks for each example.
    """
    figure = picture(
        "To the same accuracy, thin masks take "
        + " and ".join(f"{share:.1f}" for share in shares.values())
        + " times the time of masks for each example, at p = "
        + " and ".join(map(str, shares)),
        height=8.2,
    )
    settings = scores.groupby(["task", "network"], sort=False)
    every = figure.subplots(len(settings), len(shares), sharex="row", sharey=True)
    palette = {
        "no dropout": "dimgray",
        "a mask for each example": THEIRS,
        "thin masks": OURS,
    }
    for row, (setting, of_setting) in zip(every, settings, strict=True):
        row[0].set_title(", ".join(setting))
        for axes, p in zip(row, shares, strict=True):
            sns.lineplot(
                of_setting[of_setting["p"] == p],
                x="seconds",
                y="error",
                hue="masks",
                palette=palette,
                errorbar="sd",
                legend=False,
                ax=axes,
            )
            axes.set(xlabel="", ylabel="", yscale="log", ylim=(1, 100))
            axes.set_xlim(0, None)
            axes.locator_params("x", nbins=4, integer=True)
            axes.set_yticks([1, 10, 100], ["1", "10", "100"])
            axes.text(0.97, 0.9, f"p = {p}", ha="right", va="top", transform=axes.transAxes)
    for axes in every[-1]:
        axes.set_xlabel("seconds of training")
    figure.supylabel("errors in the test (%)", fontsize=10)
    handles = [Line2D([], [], color=color, label=name) for name, color in palette.items()]
    seeds = scores["seed"].nunique()
    band = Patch(color="gainsboro", label=f"± deviation over {seeds} seeds")
    figure.legend(handles=[*handles, band], loc="outside lower center", ncols=2)
    return figure
