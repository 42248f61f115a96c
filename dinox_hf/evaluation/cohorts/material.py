"""The images of an evaluation, cut once for all networks."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backbones.subject import EvaluationSettings, Subject
from .nodule_sources import NoduleSource, NoduleTable, digest_of

_CACHE_FORMAT = 1  # raise it when the same key would give other features


@dataclass(frozen=True)
class Material:
    """Fields around nodules and, where there are whole slices, fields of evenly sampled ones."""

    source: NoduleSource
    nodules: NoduleTable
    images: dict[str, np.ndarray]  # "nodules" and perhaps "slices": (n, C, size, size) HU
    spacing_mm: dict[str, np.ndarray]  # of the images: (n, 2) mm per pixel, (y, x)
    patients: dict[str, np.ndarray]  # of the images: (n,)
    field_mm: float
    size_px: int
    key: dict[str, Any]  # names these images in the cache

    @property
    def pixels(self) -> np.ndarray:
        """(n, P) the nodules' fields as raw HU, of the middle slice."""
        fields_hu = self.images["nodules"]
        return fields_hu[:, fields_hu.shape[1] // 2].reshape(len(fields_hu), -1)


def gather(subject: Subject, source: NoduleSource, settings: EvaluationSettings) -> Material:
    """Cut everything that the features are computed from."""
    nodules = source.table
    size_px, field_mm, channels = subject.size_px(settings), settings.field_mm, subject.channels
    images = {"nodules": source.fields(field_mm, size_px, channels)[0]}
    spacing_mm = {"nodules": np.full((len(nodules), 2), field_mm / size_px)}
    patients = {"nodules": nodules.patient_ids}
    slices = source.sampled_slices(settings.max_slices, field_mm, size_px, channels)
    if slices is not None:
        images["slices"], patients["slices"], spacing_mm["slices"] = slices
    return Material(
        source=source,
        nodules=nodules,
        images=images,
        spacing_mm=spacing_mm,
        patients=patients,
        field_mm=field_mm,
        size_px=size_px,
        key={"format": _CACHE_FORMAT, "images": digest_of(images.values()), "size_px": size_px, "field_mm": field_mm},
    )
