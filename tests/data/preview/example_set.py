"""A small built set with nodules and marks, written without the builder."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dinox_hf.data.schema import CHARACTERISTICS, mark_table, nodule_table
from tests.data.built_set import noisy_series, series_rows, write_built_set

SHAPE = (6, 24, 20)


def nodule(patient: str, start: tuple[int, int, int] = (2, 8, 5), diameter_mm: float = 6.0, readers: int = 3) -> dict:
    """A box of 2 x 4 x 3 voxels; its second slice is the larger one."""
    mask = np.ones((2, 4, 3), dtype=np.uint8)
    mask[0, 0] = 0
    centre = (np.argwhere(mask).mean(axis=0) + start).tolist()
    return {
        "nodule_id": f"{patient}-{start}",
        "patient_id": patient,
        "series_id": f"{patient}-1",
        "diameter_mm": diameter_mm,
        "num_readers": readers,
        "centre_index": centre,
        "first_slice": start[0],
        "last_slice": start[0] + 1,
        **{name: [3] * readers for name in CHARACTERISTICS},
        "mask_start": list(start),
        "mask": mask,
    }


def mark(patient: str, slice_index: int, row: float, column: float, kind: str = "non_nodule") -> dict:
    return {
        "patient_id": patient,
        "series_id": f"{patient}-1",
        "kind": kind,
        "reader": 0,
        "name": "1",
        "slice_index": slice_index,
        "z_mm": 2.5 * slice_index,
        "row": row,
        "column": column,
    }


def write_example(
    folder: Path, patients: list[str], nodules: list[dict] = (), marks: list[dict] | None = None
) -> Path:
    """One series a patient, each a shard of its own."""
    shards = {
        f"train-{number:05d}-of-{len(patients):05d}": series_rows(noisy_series(number, SHAPE), patient, -1000)
        for number, patient in enumerate(patients)
    }
    write_built_set(folder, shards)
    tables = {"nodules": nodule_table(nodules) if nodules else None}
    tables["marks"] = None if marks is None else mark_table(marks)
    for name, table in tables.items():
        if table is not None:
            (folder / name).mkdir()
            pq.write_table(table, folder / name / "train-00000-of-00001.parquet")
    return folder
