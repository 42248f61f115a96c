"""The picture of label efficiency: one curve for each kind of features, over the share of patients with labels."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ..probes.label_efficiency import FROM_SCRATCH
from ..probes.probe_suite import BACKBONE, NO_POOLING, RANDOM, SIZE
from .figure_style import BLUE, GREY, ORANGE, PINK, PRINT_WIDTH, RED, save, style

_COLOURS = {BACKBONE: BLUE, RANDOM: GREY, SIZE: ORANGE, FROM_SCRATCH: RED}
_STYLES = {
    "cls": ("-", "o"),
    "mean": ("--", "s"),
    "max": (":", "v"),
    NO_POOLING: ("-.", "^"),
}  # no two curves differ in colour alone
_LABEL_GAP = 0.032  # of the height of the axis, between labels at the ends of curves


def draw_label_efficiency(path: Path, record: dict[str, Any]) -> None:
    """AUC over the share of training patients, on a logarithmic axis, each curve named at its end.

    Args:
        path: the PNG; an SVG is written beside it.
        record: of `label_efficiency`.
    """
    percent = np.array([100 * counts["share"] for counts in record["shares"]])
    with style():
        figure, axis = plt.subplots(figsize=(PRINT_WIDTH, 4.0), layout="constrained")
        ends = []
        for curve in record["curves"]:
            colour = _COLOURS.get(curve["features"], PINK)
            line, marker = _STYLES[curve["pooling"]]
            if curve["features"] == FROM_SCRATCH:
                marker = "D"
            mean = np.array([point["auc"] for point in curve["points"]])
            sd = np.array([point["sd"] for point in curve["points"]])
            axis.fill_between(percent, mean - sd, np.minimum(mean + sd, 1), color=colour, alpha=0.1, linewidth=0)
            axis.plot(percent, mean, line, marker=marker, color=colour, markersize=4)
            pooling = "" if curve["pooling"] == NO_POOLING else f" ({curve['pooling']})"
            ends.append((mean[-1], f"{curve['features']}{pooling}", colour))
            if curve["features"] == FROM_SCRATCH:
                axis.plot([percent[0] * 0.75, percent[-1]], [mean[-1]] * 2, color=colour, linewidth=0.7)
                axis.text(
                    percent[0] * 0.78, mean[-1], "from scratch, all labels", color=colour, fontsize=7, va="bottom"
                )
        axis.axhline(0.5, color=GREY, linestyle="--", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xticks(percent, [f"{share:g} %\n{_patients(record, share)}" for share in percent], minor=False)
        axis.minorticks_off()
        axis.set(
            xlim=(percent[0] * 0.75, percent[-1] * 6),
            ylim=(0.45, 1.0),
            ylabel="AUC within test folds (0.5 is chance)",
            xlabel="share of the training patients whose labels are used",
        )
        _name_ends(axis, percent[-1], ends)
        save(figure, path)


def _patients(record: dict[str, Any], percent: float) -> str:
    own = next(counts for counts in record["shares"] if np.isclose(100 * counts["share"], percent))
    return f"{own['patients']:.0f} patients"


def _name_ends(axis: plt.Axes, last: float, ends: list[tuple[float, str, str]]) -> None:
    """Names beside the last points, moved apart where curves end close together."""
    low, high = axis.get_ylim()
    gap = _LABEL_GAP * (high - low) * 1.6
    ends = sorted(ends)
    heights = np.array([end[0] for end in ends])
    for _ in range(100):  # push neighbours apart until none overlaps
        for index in range(len(heights) - 1):
            overlap = gap - (heights[index + 1] - heights[index])
            if overlap > 0:
                heights[index] -= overlap / 2
                heights[index + 1] += overlap / 2
    for (end, name, colour), height in zip(ends, heights, strict=True):
        axis.annotate(
            name,
            (last, end),
            (last * 1.35, height),
            color=colour,
            fontsize=7.5,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
