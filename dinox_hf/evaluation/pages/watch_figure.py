"""The curve of a watched run: what its checkpoints were worth, step by step, beside what they are compared with."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .figure_style import BLUE, GREEN, GREY, ORANGE, PRINT_WIDTH, save, style

_MALIGNANCY = "malignancy A"
_LINES = [
    ("backbone, cls", "backbone, CLS", BLUE, "o", "-"),
    ("random weights, cls", "random weights, CLS", GREY, "v", "--"),
    ("raw pixels, PCA-64, –", "raw pixels", GREEN, "^", "-."),
    ("size only, –", "size only", ORANGE, "D", ":"),
]


def draw_watch(path: Path, points: list[dict[str, Any]]) -> None:
    """One panel a measure over the steps; what no checkpoint could measure has none.

    Args:
        path: the PNG; an SVG is written beside it.
        points: lines of `watch.Watch`, by step, none of them an error.
    """
    panels = [_gain, _malignancy, _rank, *([_dense] if any(point["dense"] for point in points) else [])]
    with style():
        num_columns = 3 if len(panels) == 3 else 2
        num_rows = -(-len(panels) // num_columns)
        figure, axes = plt.subplots(
            num_rows, num_columns, figsize=(PRINT_WIDTH, 2.9 * num_rows), squeeze=False, layout="constrained"
        )
        for axis, panel in zip(axes.flat, panels, strict=True):
            panel(axis, points)
            axis.set(xlabel="step", xlim=(0, None))
            axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True, nbins=5))
            if axis.get_legend_handles_labels()[1]:
                axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), handlelength=2.4)
        save(figure, path)


def _gain(axis: Axes, points: list[dict[str, Any]]) -> None:
    axis.set(title="CLS gain over random (AUC)")
    _band(
        axis,
        [(point["step"], point["cls_gain"]) for point in points if point["cls_gain"]],
        BLUE,
        "o",
        "-",
        None,
        has_band=True,
    )
    axis.axhline(0, color=GREY, linewidth=0.9, linestyle="--")


def _malignancy(axis: Axes, points: list[dict[str, Any]]) -> None:
    axis.set(title="Malignancy A (AUC)")
    for name, label, colour, marker, line in _LINES:
        scores = [(p["step"], p["auc"][_MALIGNANCY][name]) for p in points if name in p["auc"].get(_MALIGNANCY, {})]
        _band(axis, scores, colour, marker, line, label, has_band=name.startswith("backbone"))


def _rank(axis: Axes, points: list[dict[str, Any]]) -> None:
    steps, ranks = [point["step"] for point in points], [point["effective_rank"] for point in points]
    axis.plot(steps, ranks, color=BLUE, marker="o", markersize=3.5)
    axis.set(title="Effective rank (CLS)", ylim=(0, 1.1 * max(ranks)))


def _dense(axis: Axes, points: list[dict[str, Any]]) -> None:
    axis.set(title="Attention (AUPRC) and outlines (Dice)")
    shown = [
        ("attention AUPRC, native resolution", "backbone, mean of heads", "attention", BLUE, "o", "-"),
        ("attention AUPRC, native resolution", "random weights, mean of heads", "attention, random", GREY, "v", "--"),
        ("outlines Dice, native resolution", "backbone", "outlines", GREEN, "s", "-."),
        ("outlines Dice, native resolution", "random weights", "outlines, random", ORANGE, "D", ":"),
    ]
    for measure, name, label, colour, marker, line in shown:
        found = [(p["step"], p["dense"][measure][name]) for p in points if name in p["dense"].get(measure, {})]
        if found:
            axis.plot(
                *zip(*found, strict=True), color=colour, marker=marker, linestyle=line, markersize=3.5, label=label
            )


def _band(axis: Axes, scores: list, colour: str, marker: str, line: str, label: str | None, has_band: bool) -> None:
    """A line through the values and, between the ends of their intervals, a band."""
    if not scores:
        return
    steps = [step for step, _ in scores]
    values, low, high = zip(*(score for _, score in scores), strict=True)
    if has_band:
        axis.fill_between(steps, low, high, color=colour, alpha=0.14, linewidth=0)
    axis.plot(steps, values, color=colour, marker=marker, linestyle=line, markersize=3.5, label=label)
