"""Nodule patches made in code, in the layout of the real file."""

from pathlib import Path
from typing import Any

import numpy as np

from dinox_hf.data.schema import CHARACTERISTICS

SIDE = 71
RADIUS_MM = 5.0


def patch_arrays(num_patients: int = 40, per_patient: int = 2) -> dict[str, np.ndarray]:
    """Round nodules in noisy lung; of every second patient they are dense, called solid, suspicious and sharp."""
    rng = np.random.default_rng(0)
    num = num_patients * per_patient
    patient = np.repeat(np.arange(num_patients), per_patient)
    is_dense = patient % 4 >= 2
    pixel_mm = rng.uniform(0.5, 0.9, num).astype(np.float32)
    hu = rng.normal(-850, 20, (num, SIDE, SIDE))
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    for index in range(num):
        hu[index, np.hypot(rows, columns) * pixel_mm[index] <= RADIUS_MM] = 40 if is_dense[index] else -550
    hu[0, :, :5] = -2048
    arrays: dict[str, Any] = {
        "hu": hu.round().astype(np.int16),
        "patient_id": np.array([f"P-{number:03d}" for number in patient]),
        "series_uid": np.array([f"1.2.{number}" for number in patient]),
        "nodule_id": np.arange(num, dtype=np.int32),
        "pixel_mm": pixel_mm,
        "z_mm": np.linspace(-200, -50, num).astype(np.float32),
        "equiv_diameter_mm": rng.uniform(7, 13, num).astype(np.float32),
    }
    high_low = {"calcification": (6, 3), "malignancy": (5, 1), "texture": (5, 2), "margin": (5, 2)}
    for name in CHARACTERISTICS:
        high, low = high_low.get(name, (3, 3))
        ratings = np.where(is_dense, high, low)[:, None].repeat(4, axis=1).astype(np.int8)
        ratings[:, 0] = 0  # a reader who gave none
        arrays[f"ratings_{name.replace('_', '')}"] = ratings
    return arrays


def write_patches(path: Path, **changed: np.ndarray) -> Path:
    """An npz of these arrays, some of them replaced; None leaves one out."""
    arrays = {name: array for name, array in (patch_arrays() | changed).items() if array is not None}
    np.savez_compressed(path, **arrays)
    return path
