"""How well predicted outlines cover the readers': case by case, by patient, beside a disc drawn without looking."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from ...metrics.overlap import dice, iou
from ..cohorts.labelled_nodules import Cohort
from ..cohorts.splits import patient_resamples
from ..pages.figure_style import ORANGE, PRINT_WIDTH, SKY, outline, save, style
from ..probes.linear_probe import interval
from ..probes.probe_suite import fewer_than_needed

NUM_OVERLAYS = 10
_OVERLAYS_A_ROW = 5


@dataclass(frozen=True)
class Masks:
    """Pixels, outlines and predictions of some nodules, in one order."""

    indices: np.ndarray  # (n,) which nodules of the cohort
    pictures: np.ndarray  # (n, H, W) float, the first channel as the network sees it
    truth: np.ndarray  # (n, H, W) bool
    predicted: dict[str, np.ndarray]  # (n, H, W) bool, by whom


def disc(shape: tuple[int, int], area_px: float) -> np.ndarray:
    """A disc of this area in the middle of the field: what one would draw without looking."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    squared = (rows - (shape[0] - 1) / 2) ** 2 + (columns - (shape[1] - 1) / 2) ** 2
    return squared <= area_px / np.pi


def case_rows(cohort: Cohort, masks: Masks) -> list[dict[str, Any]]:
    """One row a nodule: who it is, how large, and Dice and IoU of every prediction."""
    rows = []
    for position, index in enumerate(masks.indices):
        nodule, truth = cohort.nodules[index], masks.truth[position]
        row = {"nodule_id": nodule.nodule_id, "patient_id": nodule.patient_id, "diameter_mm": nodule.diameter_mm}
        for name, predicted in masks.predicted.items():
            row |= {f"dice, {name}": dice(predicted[position], truth), f"iou, {name}": iou(predicted[position], truth)}
        rows.append(row)
    return rows


def mask_table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean Dice and IoU over the nodules for every prediction, with a 95 % interval by patient, None of too few."""
    has_interval = no_mask_interval(rows) is None
    resamples = patient_resamples(np.array([row["patient_id"] for row in rows]))
    records = []
    for name in [column for column in rows[0] if column.startswith(("dice", "iou"))]:
        values = np.array([row[name] for row in rows])
        resampled = resamples @ values / resamples.sum(axis=1)
        bounds = list(interval(resampled)) if has_interval else None
        records.append({"score": name, "mean": float(values.mean()), "interval": bounds})
    return records


def no_mask_interval(rows: list[dict[str, Any]]) -> str | None:
    """Why these cases carry no interval, or None."""
    reason = fewer_than_needed(len(rows), len({row["patient_id"] for row in rows}))
    return f"So few nodules or patients carry no interval – {reason}." if reason else None


def write_cases(rows: list[dict[str, Any]], path: Path) -> None:
    """The rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def draw_overlays(masks: Masks, rows: list[dict[str, Any]], name: str, path: Path) -> None:
    """The worst, the middle and the best cases of one prediction: readers orange, prediction blue and dashed.

    Args:
        masks: pixels, outlines and predictions.
        rows: of `case_rows`, in the same order.
        name: of the prediction.
        path: the PNG; an SVG is written beside it.
    """
    order = np.argsort([row[f"dice, {name}"] for row in rows])
    shown = order[np.unique(np.linspace(0, len(order) - 1, NUM_OVERLAYS).round().astype(int))]
    num_rows = -(-len(shown) // _OVERLAYS_A_ROW)
    with style():
        side = PRINT_WIDTH / _OVERLAYS_A_ROW
        figure, axes = plt.subplots(
            num_rows, _OVERLAYS_A_ROW, figsize=(PRINT_WIDTH, (side + 0.2) * num_rows), squeeze=False
        )
        for axis in axes.flat:
            axis.axis("off")
        for axis, position in zip(axes.flat, shown, strict=False):
            axis.imshow(masks.pictures[position], cmap="gray")
            outline(axis, masks.truth[position], ORANGE)
            outline(axis, masks.predicted[name][position], SKY, "dashed")
            axis.set_title(f"Dice {rows[position][f'dice, {name}']:.2f}", loc="center")
        figure.tight_layout(pad=0.3)
        save(figure, path)
