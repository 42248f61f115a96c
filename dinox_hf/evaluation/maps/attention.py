"""Attention fidelity of one evaluation: do the maps of each network lie on the nodule, in fields not centred on it?"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...metrics.localisation import LocalisationScores, score_maps
from ..backbones.features import Backbone
from ..cohorts.nodule_sources import NoduleSource, NoduleTable
from ..probes.probe_suite import BACKBONE, RANDOM
from .dense_maps import FieldMaps, field_maps
from .localisation import (
    DIAMETER_BINS_MM,
    average,
    centre_prior,
    paired_gain,
    score_best_head,
    score_mean_of_heads,
    score_signed,
    shifts_off_centre,
    summarise,
)

MEAN, BEST = "mean of heads", "best head"
OTHERS, COMPONENT = "similarity to other patients' nodules", "first component"
OWN = "similarity to the nodule's own patches"
CENTRE_PRIOR = "centre prior"
NATIVE, DOUBLED, WIDE = "native resolution", "doubled resolution", "doubled field"


@dataclass(frozen=True)
class AttentionField:
    """Fields of one size around every nodule, and the maps that each network makes of them."""

    name: str
    field_mm: float
    fields_hu: np.ndarray  # (N, C, size, size)
    masks: np.ndarray  # (N, size, size)
    trained: FieldMaps
    random: list[FieldMaps]  # the same of every random twin

    @property
    def size_px(self) -> int:
        """Side of the field in pixels."""
        return self.masks.shape[-1]


def scales(field_mm: float, size_px: int) -> list[tuple[str, float, int]]:
    """Name, side in mm and side in pixels of the fields that networks look at.

    The probe's field; the same millimetres resampled to twice the pixels, where the network sees four times the
    patches at finer positions; and twice the millimetres at the probe's pixel size.
    """
    return [
        (NATIVE, field_mm, size_px),
        (DOUBLED, field_mm, 2 * size_px),
        (WIDE, 2 * field_mm, 2 * size_px),
    ]


def look(
    backbone: Backbone,
    twins: list[Backbone],
    source: NoduleSource,
    field_mm: float,
    size_px: int,
    name: str = NATIVE,
) -> AttentionField:
    """Cut a field off the centre of every nodule and let every network look at it."""
    nodules = source.table
    shifts = shifts_off_centre(len(nodules))
    fields_hu, masks = source.fields(field_mm, size_px, backbone.processor.channels, shifts)
    spacing_mm = np.full((len(nodules), 2), field_mm / size_px)
    trained, *random = (
        field_maps(network, fields_hu, spacing_mm, masks, nodules.patient_ids) for network in (backbone, *twins)
    )
    return AttentionField(name, field_mm, fields_hu, masks, trained, random)


def attention_record(field: AttentionField, nodules: NoduleTable) -> dict[str, Any]:
    """Scores of every map as plain numbers, over all nodules and by diameter."""
    patient_ids, diameter_mm = nodules.patient_ids, nodules.diameter_mm
    scores = _scores(field, patient_ids)
    gains = []
    for name in (MEAN, BEST, OTHERS, COMPONENT, OWN):
        if f"{BACKBONE}, {name}" in scores:
            pair = scores[f"{BACKBONE}, {name}"], scores[f"{RANDOM}, {name}"]
            gains.append({"map": name, **paired_gain(*pair, patient_ids)})
    by_diameter = []
    for low, high in DIAMETER_BINS_MM:
        rows = (diameter_mm >= low) & (diameter_mm < high)
        if rows.any():
            maps = {name: summarise(values, patient_ids, rows) for name, values in scores.items()}
            by_diameter.append({"from_mm": low, "to_mm": None if np.isinf(high) else high, "maps": maps})
    return {
        "name": field.name,
        "field_mm": field.field_mm,
        "size_px": field.size_px,
        "maps": {name: summarise(values, patient_ids) for name, values in scores.items()},
        "gains": gains,
        "by_diameter": by_diameter,
    }


def _scores(field: AttentionField, patient_ids: np.ndarray) -> dict[str, LocalisationScores]:
    """By map, each of the backbone followed by the mean over the random twins."""
    of_backbone = _scores_of_network(field.trained, field.masks, patient_ids)
    of_twins = [_scores_of_network(maps, field.masks, patient_ids) for maps in field.random]
    scores = {}
    for name, own in of_backbone.items():
        scores[f"{BACKBONE}, {name}"] = own
        scores[f"{RANDOM}, {name}"] = average([twin[name] for twin in of_twins])
    scores[CENTRE_PRIOR] = score_maps(centre_prior(len(field.masks), field.size_px), field.masks)
    return scores


def _scores_of_network(maps: FieldMaps, masks: np.ndarray, patient_ids: np.ndarray) -> dict[str, LocalisationScores]:
    scores = {MEAN: score_mean_of_heads(maps.attention, masks)}
    # One patient cannot both choose a head and judge it.
    if maps.others is not None:
        scores[BEST] = score_best_head(maps.attention, masks, patient_ids)
        scores[OTHERS] = score_signed(maps.others, masks)
        scores[COMPONENT] = score_signed(maps.component, masks)
    scores[OWN] = score_signed(maps.own, masks)
    return scores
