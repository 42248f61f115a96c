"""Feature collapse: do different images still get different features?"""

from collections.abc import Collection

import numpy as np
from scipy.spatial.distance import cdist

from ...data.crops import CropGeometry, draw_field
from ...data.crops_config import CropsConfig
from ...metrics.effective_rank import effective_rank
from ..cohorts.nodules import Field, ScanSet, cut_field

_DEAD_BELOW = 0.01  # a dimension varies less than this share of the average one


def collapse_scores(features: np.ndarray, patient_ids: np.ndarray) -> dict[str, float | int | None]:
    """Spread of the features over images and patients.

    Args:
        features: (n, D) one vector an image.
        patient_ids: (n,) one patient an image.

    Returns:
        `std_mean` and `std_min` over dimensions; `num_dead` dimensions; `effective_rank` (RankMe) and the same of
        centred features; `between_within`, the mean distance between images of different patients over that within a
        patient (None with one patient).
    """
    std = features.std(axis=0)
    patient_ids = np.asarray(patient_ids)
    distance = cdist(features, features)
    same = patient_ids[:, None] == patient_ids[None, :]
    within = distance[same & ~np.eye(len(features), dtype=bool)]
    between = distance[~same]
    is_measurable = len(between) > 0 and len(within) > 0 and within.mean() > 0
    return {
        "num_images": len(features),
        "num_patients": len(np.unique(patient_ids)),
        "width": features.shape[1],
        "std_mean": float(std.mean()),
        "std_min": float(std.min()),
        "num_dead": int((std < _DEAD_BELOW * std.mean()).sum()),
        "effective_rank": effective_rank(features),
        "effective_rank_centred": effective_rank(features, centre=True),
        "between_within": float(between.mean() / within.mean()) if is_measurable else None,
    }


def sample_fields(
    scans: ScanSet,
    max_slices: int,
    field_mm: float,
    size_px: int,
    channels: str,
    seed: int = 0,
    without: Collection[str] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One field from each of up to `max_slices` slices, evenly spaced over the set, placed as pretraining places them.

    Slices of the patients `without` are left out.

    Returns:
        (n, C, size_px, size_px) float32 HU, (n,) patient of each, and (n, 2) its mm per pixel, (y, x): a field that
        its slice cuts short is stretched to the same size.
    """
    rows = [(slices, row) for slices in scans.splits.values() for row in range(len(slices))]
    rows = [(slices, row) for slices, row in rows if slices.patient_id(row) not in without] if without else rows
    chosen = np.linspace(0, len(rows) - 1, min(max_slices, len(rows))).round().astype(int)
    fields_hu, patients, spacing_mm = [], [], []
    for position in chosen:
        slices, row = rows[position]
        pixels, padding_hu = slices.pixels(row), slices.padding_hu(row)
        rng = np.random.default_rng([seed, position])
        slice_mm = slices.spacing_mm(row)[1:]
        box = draw_field(rng, pixels, CropsConfig(field_mm=field_mm), slice_mm, padding_hu)
        field = Field((box.top + box.height / 2, box.left + box.width / 2), (box.height, box.width))
        slices_hu = slices.neighbours(row) if channels == "neighbours" else pixels[None]
        fields_hu.append(cut_field(slices_hu, field, size_px, padding_hu))
        patients.append(slices.patient_id(row))
        spacing_mm.append(CropGeometry(box, size_px).spacing_mm(slice_mm))
    return np.stack(fields_hu), np.array(patients), np.array(spacing_mm)
