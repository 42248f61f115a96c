"""The pictures of an evaluation: attention on nodules, patch colours, training curves, probes and controls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..maps.body_colours import body_colours, fit_body_colours
from .figure_style import BLUE, GREEN, GREY, ORANGE, PINK, PRINT_WIDTH, RED, band, bare, outline, save, show_ct, style


def draw_attention(
    path: Path, fields_hu: np.ndarray, masks: np.ndarray, maps: dict[str, np.ndarray], titles: Sequence[str]
) -> None:
    """One column a nodule: the CT with the readers' outline, then one row a map over the same CT.

    Args:
        path: the PNG; an SVG is written beside it.
        fields_hu: (n, size, size) HU.
        masks: (n, size, size) bool.
        maps: by row title, (n, size, size) non-negative.
        titles: n column titles.
    """
    with style():
        num_rows, num_columns = 1 + len(maps), len(fields_hu)
        side = min(PRINT_WIDTH / num_columns, 1.9)
        figure, axes = plt.subplots(
            num_rows, num_columns, figsize=(side * num_columns, side * num_rows), squeeze=False, layout="constrained"
        )
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        for column, title in enumerate(titles):
            for row, heat in enumerate([None, *maps.values()]):
                axis = axes[row, column]
                show_ct(axis, fields_hu[column])
                if heat is not None:
                    _overlay(axis, heat[column])
                outline(axis, masks[column])
            axes[0, column].set_title(title, loc="center")
        for row, name in enumerate(["CT, outlined", *maps]):
            axes[row, 0].set_ylabel(name)
        save(figure, path)


def draw_patch_colours(
    path: Path, slices_hu: np.ndarray, tokens: dict[str, np.ndarray], titles: Sequence[str]
) -> None:
    """One row a slice: the CT in the lung window, then the first three principal components of its patch tokens.

    Args:
        path: the PNG; an SVG is written beside it.
        slices_hu: (n, size, size) HU.
        tokens: by column title, (n, rows, columns, D); one basis for all n slices of a column.
        titles: n row titles.
    """
    with style():
        num_rows, num_columns = len(slices_hu), 1 + len(tokens)
        side = min(PRINT_WIDTH / num_columns, 2.4)
        figure, axes = plt.subplots(
            num_rows, num_columns, figsize=(side * num_columns, side * num_rows), squeeze=False, layout="constrained"
        )
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        for row, slice_hu in enumerate(slices_hu):
            show_ct(axes[row, 0], slice_hu)
            axes[row, 0].set_ylabel(titles[row])
        for column, values in enumerate(tokens.values(), start=1):
            for row, colours in enumerate(patch_colours(values, slices_hu)):
                axes[row, column].imshow(colours, interpolation="nearest")
                bare(axes[row, column])
        for axis, title in zip(axes[0], ["CT, lung window", *tokens], strict=True):
            axis.set_title(title)
        save(figure, path)


def patch_colours(tokens: np.ndarray, slices_hu: np.ndarray) -> np.ndarray:
    """First three principal components of the patch tokens inside the body as red, green, blue; air is black.

    Args:
        tokens: (n, rows, columns, D).
        slices_hu: (n, size, size) HU, size a multiple of rows and columns.

    Returns:
        (n, rows, columns, 3) in [0, 1].
    """
    num, rows, columns, _ = tokens.shape
    by_patch = slices_hu.reshape(num, rows, slices_hu.shape[1] // rows, columns, slices_hu.shape[2] // columns)
    mean_hu = by_patch.mean(axis=(2, 4))
    return body_colours(tokens, mean_hu, fit_body_colours(tokens, mean_hu))


def draw_curves(path: Path, records: list[dict[str, float]], log_k: float) -> None:
    """Losses, CLS loss and teacher entropy against log K, effective rank, learning rate over the steps."""
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(PRINT_WIDTH, 5.0), sharex=True, layout="constrained")
        beneath = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.03), "columnspacing": 1.0, "handletextpad": 0.4}
        losses = {
            "dino_global": (BLUE, "-"),
            "dino_local": (GREEN, "--"),
            "ibot": (ORANGE, "-."),
            "gram": (RED, ":"),
            "koleo": (PINK, (0, (5, 1, 1, 1, 1, 1))),
        }
        for name, line in losses.items():
            _curve(axes[0, 0], records, name, *line, name.replace("_", " "))
        axes[0, 0].set(title="Loss terms, weighted")
        if axes[0, 0].lines:
            axes[0, 0].legend(ncols=3, handlelength=2.6, **beneath)

        _curve(axes[0, 1], records, "cls_loss", BLUE, "-", "CLS loss")
        _curve(axes[0, 1], records, "teacher_entropy", GREEN, "-.", "teacher entropy, marginal")
        axes[0, 1].axhline(log_k, color=GREY, linestyle="--", label=f"log K = {log_k:.2f}")
        axes[0, 1].set(title="CLS loss and teacher entropy (nats)")
        axes[0, 1].legend(ncols=2, handlelength=2.6, **beneath)

        _curve(axes[1, 0], records, "effective_rank", BLUE, "-", "effective rank")
        axes[1, 0].set(title="Effective rank of the teacher's CLS tokens", xlabel="step", ylim=(0, None))
        _curve(axes[1, 1], records, "lr", RED, "-", "learning rate")
        greatest = max((record["lr"] for record in records if record.get("lr")), default=0.0)
        # The power of ten stands in the title: above the axis it would run into it.
        power = int(np.floor(np.log10(greatest))) if greatest > 0 else 0
        axes[1, 1].yaxis.set_major_formatter(lambda value, _: f"{value / 10**power:g}")
        axes[1, 1].set(title=f"Learning rate (1e{power})", xlabel="step", ylim=(0, None))
        save(figure, path)


def draw_probes(path: Path, probes: list[dict[str, Any]]) -> None:
    """One line a question: AUC and its interval for the backbone and whatever the report compares it with.

    Args:
        path: the PNG; an SVG is written beside it.
        probes: measured probes of the report.
    """
    shown = [
        ("backbone", "cls", BLUE, "o"),
        ("starting weights", "cls", PINK, "p"),
        ("random weights", "cls", GREY, "v"),
        ("backbone", "cls+mean", BLUE, "s"),
        ("starting weights", "cls+mean", PINK, "P"),
        ("random weights", "cls+mean", GREY, "X"),
        ("raw pixels, PCA-64", "–", GREEN, "^"),
        ("size only", "–", ORANGE, "D"),
    ]
    with style(axes__spines__left=False):
        in_all = {(score["features"], score["pooling"]) for score in probes[0]["scores"]}
        shown = [line for line in shown if line[:2] in in_all]  # not every run has starting weights
        height = (0.055 * len(shown) + 0.14) * len(probes) + 1.1
        figure, axis = plt.subplots(figsize=(PRINT_WIDTH, height), layout="constrained")
        for position, probe in enumerate(probes):
            by_name = {(score["features"], score["pooling"]): score for score in probe["scores"]}
            for line, (features, pooling, colour, marker) in enumerate(shown):
                score = by_name[features, pooling]
                y = position + 0.72 * (line - (len(shown) - 1) / 2) / len(shown)
                label = f"{features}{'' if pooling == '–' else f' ({pooling})'}" if position == 0 else None
                axis.plot(score["interval"], [y, y], color=colour, linewidth=1.0, alpha=0.6)
                axis.plot(score["auc"], y, marker, color=colour, markersize=4, label=label, zorder=3)
            band(axis, position)
        axis.axvline(0.5, color=GREY, linestyle="--", linewidth=0.9)
        axis.set_yticks(
            range(len(probes)), [f"{p['question']}\n{p['num_positive']} of {p['num_nodules']} nodules" for p in probes]
        )
        axis.set(ylim=(len(probes) - 0.5, -0.5), xlabel="AUC out of fold, 95 % interval by patient (0.5 is chance)")
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        figure.legend(loc="outside upper center", ncols=3 if len(shown) < 8 else 4, handletextpad=0.2)
        save(figure, path)


def draw_localisation(path: Path, fields: list[dict[str, Any]]) -> None:
    """One panel a field, one line a map: AUPRC of the backbone beside random weights, the centre prior and chance.

    Args:
        path: the PNG; an SVG is written beside it.
        fields: of `attention.attention_record`.
    """
    names = [gain["map"] for gain in fields[0]["gains"]]
    with style(axes__spines__left=False):
        figure, axes = plt.subplots(
            1,
            len(fields),
            figsize=(PRINT_WIDTH, 0.36 * len(names) + 1.0),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axis, field in zip(axes[0], fields, strict=True):
            for position, name in enumerate(names):
                band(axis, position)
                for network, colour, marker, y in (
                    ("backbone", BLUE, "o", position - 0.16),
                    ("random weights", GREY, "v", position + 0.16),
                ):
                    scores = field["maps"][f"{network}, {name}"]
                    axis.plot(scores["auprc_interval"], [y, y], color=colour, linewidth=1.0, alpha=0.6)
                    axis.plot(scores["auprc"], y, marker, color=colour, markersize=4, label=network, zorder=3)
            prior = field["maps"]["centre prior"]
            axis.axvline(prior["auprc"], color=ORANGE, linestyle="--", linewidth=0.9, label="centre prior")
            axis.axvline(prior["chance"], color=GREY, linestyle=":", linewidth=1.1, label="chance")
            title = f"{field['name'].capitalize()}\n{field['field_mm']:g} mm, {field['size_px']} px"
            axis.set(
                title=title, xlabel="AUPRC", ylim=(len(names) - 0.5, -0.5), xlim=(0, 1), xticks=np.arange(0, 1, 0.2)
            )
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
        axes[0, 0].set_yticks(range(len(names)), [name.replace(" to ", " to\n") for name in names])
        _legend_above(figure, axes[0, 0])
        save(figure, path)


def draw_patch_probes(path: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """One line a question: trained with and without Gram anchoring beside the controls, CLS left and pooled right.

    Args:
        path: the PNG; an SVG is written beside it.
        rows: by question or average, its scores: features, pooling, auc, interval and by_network.
    """
    networks = [("trained", BLUE, "o"), ("trained with Gram", RED, "s"), ("random weights", GREY, "v")]
    controls = [("raw pixels, PCA-64", GREEN, "^"), ("size only", ORANGE, "D")]
    panels = {"CLS token": "cls", "Mean of patch tokens": "mean", "Maximum of patch tokens": "max"}
    with style(axes__spines__left=False):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(PRINT_WIDTH, 0.46 * len(rows) + 0.9),
            sharex=True,
            sharey=True,
            layout="constrained",
        )
        for axis, (title, pooling) in zip(axes, panels.items(), strict=True):
            shown = [(name, pooling, *how) for name, *how in networks] + [(name, "–", *how) for name, *how in controls]
            for position, scores in enumerate(rows.values()):
                by_name = {(score["features"], score["pooling"]): score for score in scores}
                band(axis, position)
                for line, (features, tokens, colour, marker) in enumerate(shown):
                    score = by_name[features, tokens]
                    y = position + 0.15 * (line - (len(shown) - 1) / 2)
                    axis.plot(score["interval"], [y, y], color=colour, linewidth=1.0, alpha=0.6)
                    axis.plot(score["by_network"], [y] * len(score["by_network"]), "|", color=colour, markersize=3.5)
                    axis.plot(score["auc"], y, marker, color=colour, markersize=3.8, label=features, zorder=3)
            axis.axvline(0.5, color=GREY, linestyle="--", linewidth=0.9)
            axis.set(title=title, xlabel="AUC", ylim=(len(rows) - 0.5, -0.5))
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
        axes[0].set_yticks(range(len(rows)), list(rows))
        _legend_above(figure, axes[0])
        save(figure, path)


def _legend_above(figure: Figure, axis: Axes) -> None:
    """What the panels share, each label once."""
    handles = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), handletextpad=0.4)


def _curve(axis: Axes, records: list[dict[str, float]], name: str, colour: str, line: str | tuple, label: str) -> None:
    points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), color=colour, linestyle=line, label=label)


def _overlay(axis: Axes, heat: np.ndarray) -> None:
    """The less heat the more of the CT shines through; each map is scaled by its own range."""
    scaled = (heat - heat.min()) / max(heat.max() - heat.min(), 1e-12)
    axis.imshow(scaled, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * scaled)
