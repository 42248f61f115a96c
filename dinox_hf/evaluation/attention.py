"""The attention test of one evaluation: where each network looks in fields that do not centre their nodule."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics.localisation import LocalisationScores, score_maps
from .features import Backbone, attention_maps
from .localisation import (
    DIAMETER_BINS_MM,
    average,
    centre_prior,
    score_best_head,
    score_mean_of_heads,
    shifts_off_centre,
    summarise,
)
from .nodules import Nodule, ScanSet, cut_nodules

MEAN, BEST = "mean of heads", "best head"


@dataclass(frozen=True)
class AttentionField:
    """Fields of one size around every nodule, and where each network looks in them."""

    field_mm: float
    fields_hu: np.ndarray  # (N, C, size, size)
    masks: np.ndarray  # (N, size, size)
    trained: np.ndarray  # (N, heads, rows, columns)
    random: list[np.ndarray]  # the same of every random twin

    @property
    def size_px(self) -> int:
        """Side of the field in pixels."""
        return self.masks.shape[-1]


def look(
    backbone: Backbone, twins: list[Backbone], scans: ScanSet, nodules: list[Nodule], field_mm: float, size_px: int
) -> AttentionField:
    """Cut a field off the centre of every nodule and let every network look at it."""
    channels = backbone.processor.channels
    shifts = shifts_off_centre(len(nodules))
    fields_hu, masks = cut_nodules(scans, nodules, field_mm, size_px, channels, shifts)
    spacing_mm = np.full((len(nodules), 2), field_mm / size_px)
    trained, *random = (attention_maps(network, fields_hu, spacing_mm) for network in (backbone, *twins))
    return AttentionField(field_mm, fields_hu, masks, trained, random)


def attention_record(field: AttentionField, nodules: list[Nodule]) -> dict[str, Any]:
    """Scores of every map as plain numbers, over all nodules and by diameter."""
    patient_ids = np.array([nodule.patient_id for nodule in nodules])
    diameter_mm = np.array([nodule.diameter_mm for nodule in nodules])
    scores = _scores(field, patient_ids)
    by_diameter = []
    for low, high in DIAMETER_BINS_MM:
        rows = (diameter_mm >= low) & (diameter_mm < high)
        if rows.any():
            maps = {name: summarise(values, patient_ids, rows) for name, values in scores.items()}
            by_diameter.append({"from_mm": low, "to_mm": None if np.isinf(high) else high, "maps": maps})
    return {
        "field_mm": field.field_mm,
        "size_px": field.size_px,
        "maps": {name: summarise(values, patient_ids) for name, values in scores.items()},
        "by_diameter": by_diameter,
    }


def _scores(field: AttentionField, patient_ids: np.ndarray) -> dict[str, LocalisationScores]:
    scores = {
        f"backbone, {MEAN}": score_mean_of_heads(field.trained, field.masks),
        f"random weights, {MEAN}": average([score_mean_of_heads(maps, field.masks) for maps in field.random]),
        "centre prior": score_maps(centre_prior(len(field.masks), field.size_px), field.masks),
    }
    # One patient cannot both choose a head and judge it.
    if len(np.unique(patient_ids)) > 1:
        best_of_twins = [score_best_head(maps, field.masks, patient_ids) for maps in field.random]
        scores[f"backbone, {BEST}"] = score_best_head(field.trained, field.masks, patient_ids)
        scores[f"random weights, {BEST}"] = average(best_of_twins)
    return scores
