"""The images of an evaluation, cut once for all networks."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .collapse import sample_fields
from .nodules import Nodule, ScanSet, cut_nodules, read_nodules
from .subject import EvaluationSettings, Subject

_CACHE_FORMAT = 1  # raise it when the same key would give other features


@dataclass(frozen=True)
class Material:
    """Fields around nodules and fields of evenly sampled slices."""

    scans: ScanSet
    nodules: list[Nodule]
    images: dict[str, np.ndarray]  # "nodules" and "slices": (n, C, size, size) HU
    spacing_mm: dict[str, np.ndarray]  # of the images: (n, 2) mm per pixel, (y, x)
    nodule_patients: np.ndarray  # (N,) patient of each nodule
    slice_patients: np.ndarray  # (n,) patient of each sampled slice
    field_mm: float
    size_px: int
    key: dict[str, Any]  # names these images in the cache


def gather(subject: Subject, folder: Path, settings: EvaluationSettings) -> Material:
    """Cut everything that the features are computed from.

    Raises:
        ValueError: if the folder is no built set, or has no nodules.
    """
    scans, nodules = ScanSet(folder), read_nodules(folder)
    size_px, field_mm, channels = subject.size_px(settings), settings.field_mm, subject.channels
    nodule_fields, _ = cut_nodules(scans, nodules, field_mm, size_px, channels)
    slice_fields, slice_patients, slice_mm = sample_fields(scans, settings.max_slices, field_mm, size_px, channels)
    images = {"nodules": nodule_fields, "slices": slice_fields}
    digest = hashlib.sha256()
    for fields_hu in images.values():
        digest.update(np.ascontiguousarray(fields_hu).tobytes())
    return Material(
        scans=scans,
        nodules=nodules,
        images=images,
        spacing_mm={"nodules": np.full((len(nodules), 2), field_mm / size_px), "slices": slice_mm},
        nodule_patients=np.array([nodule.patient_id for nodule in nodules]),
        slice_patients=slice_patients,
        field_mm=field_mm,
        size_px=size_px,
        key={"format": _CACHE_FORMAT, "images": digest.hexdigest(), "size_px": size_px, "field_mm": field_mm},
    )
