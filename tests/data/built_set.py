"""A tiny built set on disk, written without the builder, so that a test may also write a wrong one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dinox_hf.data.schema import SLICE_FEATURES

SCHEMA = SLICE_FEATURES.arrow_schema
README = """---
configs:
- config_name: slices
  default: true
  data_files:
{data_files}
---
"""


def series_rows(series: np.ndarray, patient: str, padding_hu: int | None = None) -> list[dict]:
    """Rows of one series (Z, Y, X) int16, 2.5 mm apart, pixels of 0.8 x 0.7 mm."""
    return [
        {
            "image": slice_hu.tolist(),
            "patient_id": patient,
            "series_id": f"{patient}-1",
            "slice_uid": f"1.2.{patient}.{z}",
            "slice_index": z,
            "num_slices": len(series),
            "z_mm": 2.5 * z,
            "spacing_mm": [2.5, 0.8, 0.7],
            "padding_hu": padding_hu,
            "modality": "ct",
        }
        for z, slice_hu in enumerate(series)
    ]


def write_built_set(folder: Path, shards: dict[str, list[dict]], schema: pa.Schema = SCHEMA) -> Path:
    """Write `{"train-00000-of-00001": rows, …}` as shards under `folder/slices`, and a README that names them."""
    (folder / "slices").mkdir(parents=True)
    for name, rows in shards.items():
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "slices" / f"{name}.parquet")
    splits = sorted({name.split("-")[0] for name in shards})
    entries = [f"  - split: {split}\n    path: slices/{split}-*.parquet" for split in splits]
    (folder / "README.md").write_text(README.format(data_files="\n".join(entries)))
    return folder


def noisy_series(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """(Z, Y, X) int16 of HU between air and bone."""
    return np.random.default_rng(seed).integers(-1000, 1200, shape).astype(np.int16)
