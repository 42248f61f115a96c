"""The pictures of an evaluation: attention on nodules, patch colours, training curves, probes and controls."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ..model.image_processing_dinov3_ct import window_hu
from .body_colours import body_colours, fit_body_colours

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito: told apart by colour-blind readers as well.
BLUE, GREY, ORANGE, GREEN, RED, PINK = "#0072B2", "#8C8C8C", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
LUNG_WINDOW = (-600.0, 1500.0)  # level, width in HU
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def draw_attention(
    path: Path, fields_hu: np.ndarray, masks: np.ndarray, maps: dict[str, np.ndarray], titles: Sequence[str]
) -> None:
    """One column a nodule: the CT with the readers' outline, then one row a map over the same CT.

    Args:
        path: the PNG.
        fields_hu: (n, size, size) HU.
        masks: (n, size, size) bool.
        maps: by row title, (n, size, size) non-negative.
        titles: n column titles.
    """
    with plt.rc_context(_STYLE):
        num_rows = 1 + len(maps)
        figure, axes = plt.subplots(
            num_rows, len(fields_hu), figsize=(1.9 * len(fields_hu) + 0.4, 1.95 * num_rows + 0.3), squeeze=False
        )
        for column, title in enumerate(titles):
            for row, heat in enumerate([None, *maps.values()]):
                axis = axes[row, column]
                axis.imshow(window_hu(fields_hu[column], *LUNG_WINDOW), cmap="gray", vmin=0, vmax=1)
                if heat is not None:
                    _overlay(axis, heat[column])
                axis.contour(masks[column], levels=[0.5], colors=[ORANGE], linewidths=1.2)
                _bare(axis)
            axes[0, column].set_title(title, fontsize=8.5, loc="center")
        for row, name in enumerate(["CT, readers' outline", *maps]):
            axes[row, 0].set_ylabel(name)
        figure.tight_layout(pad=0.4)
        _save(figure, path)


def draw_patch_colours(
    path: Path, slices_hu: np.ndarray, tokens: dict[str, np.ndarray], titles: Sequence[str]
) -> None:
    """One row a slice: the CT in the lung window, then the first three principal components of its patch tokens.

    Args:
        path: the PNG.
        slices_hu: (n, size, size) HU.
        tokens: by column title, (n, rows, columns, D); one basis for all n slices of a column.
        titles: n row titles.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            len(slices_hu),
            1 + len(tokens),
            figsize=(2.9 * (1 + len(tokens)), 2.95 * len(slices_hu) + 0.25),
            squeeze=False,
        )
        for row, slice_hu in enumerate(slices_hu):
            axes[row, 0].imshow(window_hu(slice_hu, *LUNG_WINDOW), cmap="gray", vmin=0, vmax=1)
            axes[row, 0].set_ylabel(titles[row])
        for column, values in enumerate(tokens.values(), start=1):
            for row, colours in enumerate(patch_colours(values, slices_hu)):
                axes[row, column].imshow(colours, interpolation="nearest")
        for axis, title in zip(axes[0], ["CT, lung window", *tokens], strict=True):
            axis.set_title(title)
        for axis in axes.flat:
            _bare(axis)
        figure.tight_layout(pad=0.4)
        _save(figure, path)


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
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(9.2, 6.2), sharex=True)
        beneath = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "columnspacing": 1.0}
        losses = {"dino_global": BLUE, "dino_local": GREEN, "ibot": ORANGE, "gram": RED, "koleo": PINK}
        for name, colour in losses.items():
            _curve(axes[0, 0], records, name, colour, name.replace("_", " "))
        axes[0, 0].set(title="Loss terms, weighted")
        if axes[0, 0].lines:
            axes[0, 0].legend(ncols=5, handlelength=1.0, handletextpad=0.4, **beneath)

        _curve(axes[0, 1], records, "cls_loss", BLUE, "CLS loss")
        _curve(axes[0, 1], records, "teacher_entropy", GREEN, "teacher entropy, marginal")
        axes[0, 1].axhline(log_k, color=GREY, linestyle="--", label=f"log K = {log_k:.2f}")
        axes[0, 1].set(title="CLS loss and teacher entropy (nats)")
        axes[0, 1].legend(ncols=3, handlelength=1.5, **beneath)

        _curve(axes[1, 0], records, "effective_rank", BLUE, "effective rank")
        axes[1, 0].set(title="Effective rank of the teacher's CLS tokens", xlabel="step", ylim=(0, None))
        _curve(axes[1, 1], records, "lr", RED, "learning rate")
        axes[1, 1].set(title="Learning rate", xlabel="step", ylim=(0, None))
        axes[1, 1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        figure.tight_layout()
        _save(figure, path)


def draw_probes(path: Path, probes: list[dict[str, Any]]) -> None:
    """One line a question: AUC and its interval for the backbone and whatever the report compares it with.

    Args:
        path: the PNG.
        probes: measured probes of the report.
    """
    shown = [
        ("backbone", "cls", BLUE, "o"),
        ("starting weights", "cls", PINK, "o"),
        ("random weights", "cls", GREY, "o"),
        ("backbone", "cls+mean", BLUE, "s"),
        ("starting weights", "cls+mean", PINK, "s"),
        ("random weights", "cls+mean", GREY, "s"),
        ("raw pixels, PCA-64", "–", GREEN, "^"),
        ("size only", "–", ORANGE, "D"),
    ]
    with plt.rc_context(_STYLE | {"axes.spines.left": False}):
        in_all = {(score["features"], score["pooling"]) for score in probes[0]["scores"]}
        shown = [line for line in shown if line[:2] in in_all]  # not every run has starting weights
        figure, axis = plt.subplots(figsize=(8.6, 0.12 * len(shown) * len(probes) + 1.5))
        for position, probe in enumerate(probes):
            by_name = {(score["features"], score["pooling"]): score for score in probe["scores"]}
            for line, (features, pooling, colour, marker) in enumerate(shown):
                score = by_name[features, pooling]
                y = position + 0.72 * (line - (len(shown) - 1) / 2) / len(shown)
                label = f"{features}{'' if pooling == '–' else f' ({pooling})'}" if position == 0 else None
                axis.plot(score["interval"], [y, y], color=colour, linewidth=1.3, alpha=0.55)
                axis.plot(score["auc"], y, marker, color=colour, markersize=5.5, label=label, zorder=3)
            if position % 2:
                axis.axhspan(position - 0.5, position + 0.5, color="#F6F6F6", zorder=0)
        axis.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
        axis.set_yticks(
            range(len(probes)), [f"{p['question']}\n{p['num_positive']} of {p['num_nodules']} nodules" for p in probes]
        )
        axis.set(ylim=(len(probes) - 0.5, -0.5), xlabel="AUC out of fold, 95 % interval by patient (0.5 is chance)")
        axis.tick_params(axis="y", length=0)
        axis.grid(visible=False, axis="y")
        axis.legend(loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=3, handletextpad=0.2)
        figure.tight_layout()
        _save(figure, path)


def draw_patch_probes(path: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """One line a question: trained with and without Gram anchoring beside the controls, CLS left and pooled right.

    Args:
        path: the PNG.
        rows: by question or average, its scores: features, pooling, auc, interval and by_network.
    """
    networks = [("trained", BLUE, "o"), ("trained with Gram", RED, "s"), ("random weights", GREY, "o")]
    controls = [("raw pixels, PCA-64", GREEN, "^"), ("size only", ORANGE, "D")]
    panels = {"CLS token": "cls", "Mean of patch tokens": "mean", "Maximum of patch tokens": "max"}
    with plt.rc_context(_STYLE | {"axes.spines.left": False}):
        figure, axes = plt.subplots(1, len(panels), figsize=(12.5, 0.62 * len(rows) + 1.5), sharex=True, sharey=True)
        for axis, (title, pooling) in zip(axes, panels.items(), strict=True):
            shown = [(name, pooling, *how) for name, *how in networks] + [(name, "–", *how) for name, *how in controls]
            for position, scores in enumerate(rows.values()):
                by_name = {(score["features"], score["pooling"]): score for score in scores}
                if position % 2:
                    axis.axhspan(position - 0.5, position + 0.5, color="#F6F6F6", zorder=0)
                for line, (features, tokens, colour, marker) in enumerate(shown):
                    score = by_name[features, tokens]
                    y = position + 0.15 * (line - (len(shown) - 1) / 2)
                    axis.plot(score["interval"], [y, y], color=colour, linewidth=1.3, alpha=0.55)
                    axis.plot(score["by_network"], [y] * len(score["by_network"]), "|", color=colour, markersize=4.5)
                    axis.plot(score["auc"], y, marker, color=colour, markersize=5, label=features, zorder=3)
            axis.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
            axis.set(title=title, xlabel="AUC", ylim=(len(rows) - 0.5, -0.5))
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
        axes[0].set_yticks(range(len(rows)), list(rows))
        handles = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles.keys(), loc="upper center", ncols=len(handles), handletextpad=0.2)
        figure.tight_layout(rect=(0, 0, 1, 0.95))
        _save(figure, path)


def _curve(axis: Axes, records: list[dict[str, float]], name: str, colour: str, label: str) -> None:
    points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    if points:
        axis.plot(*zip(*points, strict=True), color=colour, label=label)


def _overlay(axis: Axes, heat: np.ndarray) -> None:
    """The less heat the more of the CT shines through; each map is scaled by its own range."""
    scaled = (heat - heat.min()) / max(heat.max() - heat.min(), 1e-12)
    axis.imshow(scaled, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * scaled)


def _bare(axis: Axes) -> None:
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the software stamp equal numbers give equal files.
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)
