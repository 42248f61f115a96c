"""Columns of a built set, the same for every collection, and how they are written to Parquet."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, List, Value

from .volume import Volume

CHARACTERISTICS = (
    *("subtlety", "internal_structure", "calcification", "sphericity", "margin"),
    *("lobulation", "spiculation", "texture", "malignancy"),
)
# One row is one slice. The rows of a series lie together in z order: the neighbours of row i are rows i - 1 and i + 1.
SLICE_FEATURES = Features(
    {
        "image": List(List(Value("int16"))),  # (rows, columns) HU: np.array(row["image"], dtype=np.int16)
        "patient_id": Value("string"),
        "series_id": Value("string"),
        "slice_uid": Value("string"),  # SOPInstanceUID; empty where the format has none
        "slice_index": Value("int32"),  # 0 at the feet .. num_slices - 1
        "num_slices": Value("int32"),
        "z_mm": Value("float64"),
        "spacing_mm": List(Value("float64"), length=3),  # (z, y, x)
        "padding_hu": Value("int32"),  # the fill outside the field of view, null if there is none
        "modality": Value("string"),
    }
)
# One row is one nodule of 3 mm or more. Ratings: one number per reader who outlined it, 1..5 (calcification 1..6,
# internal_structure 1..4; null where a reader gave none), in one reader order for all nine columns.
NODULE_FEATURES = Features(
    {
        "nodule_id": Value("string"),
        "patient_id": Value("string"),
        "series_id": Value("string"),
        "diameter_mm": Value("float64"),  # of the circle with the area of the largest slice of the mask
        "num_readers": Value("int32"),
        "centre_index": List(Value("float64"), length=3),  # (z, y, x), index in the series
        "first_slice": Value("int32"),
        "last_slice": Value("int32"),
        **{name: List(Value("int32")) for name in CHARACTERISTICS},
        "mask_start": List(Value("int32"), length=3),  # (z, y, x) of the mask's first voxel in the series
        "mask": List(List(List(Value("uint8")))),  # at least half of its readers include the voxel
    }
)
# One row is one reader's mark without outline: a nodule below 3 mm, or what looks like a nodule and is none.
MARK_FEATURES = Features(
    {
        "patient_id": Value("string"),
        "series_id": Value("string"),
        "kind": Value("string"),  # small_nodule or non_nodule
        "reader": Value("int32"),  # 0..3, the order of the reading sessions of this scan
        "name": Value("string"),  # the reader's own
        "slice_index": Value("int32"),
        "z_mm": Value("float64"),  # of that slice
        "row": Value("float64"),  # index of the pixel in the slice
        "column": Value("float64"),
    }
)
FEATURES = {"slices": SLICE_FEATURES, "nodules": NODULE_FEATURES, "marks": MARK_FEATURES}  # by configuration
# Small enough that a random row costs megabytes; large enough that a set of 244,000 rows, which `datasets` maps group
# by group, opens in 110 MB of memory. Groups of 8 take 209 MB, and the same space on disk.
ROWS_PER_GROUP = 16


def slice_table(volume: Volume, first: int, last: int) -> pa.Table:
    """Slices first..last-1 of a volume as rows."""
    voxels = np.ascontiguousarray(volume.voxels[first:last])
    count = len(voxels)
    uids = volume.slice_uids or ("",) * len(volume.z_mm)
    columns = {
        "image": nested_list(voxels),
        "patient_id": [volume.patient_id] * count,
        "series_id": [volume.series_id] * count,
        "slice_uid": uids[first:last],
        "slice_index": range(first, last),
        "num_slices": [len(volume.voxels)] * count,
        "z_mm": volume.z_mm[first:last],
        "spacing_mm": [volume.spacing_mm] * count,
        "padding_hu": [volume.padding_hu] * count,
        "modality": [volume.modality] * count,
    }
    return _table(columns, SLICE_FEATURES)


def nodule_table(rows: Iterable[dict]) -> pa.Table:
    """Nodule rows as a table, also of none."""
    rows = list(rows)
    columns = {name: [row[name] for row in rows] for name in NODULE_FEATURES if name != "mask"}
    masks = [nested_list(row["mask"]).to_pylist() for row in rows]
    return _table(columns | {"mask": masks}, NODULE_FEATURES)


def mark_table(rows: Iterable[dict]) -> pa.Table:
    """Mark rows as a table, also of none."""
    rows = list(rows)
    return _table({name: [row[name] for row in rows] for name in MARK_FEATURES}, MARK_FEATURES)


def nested_list(array: np.ndarray) -> pa.Array:
    """An array of any rank as a list of lists, copying nothing but the offsets."""
    nested = pa.array(array.reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        count, length = int(np.prod(array.shape[:axis])), array.shape[axis]
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
        nested = pa.ListArray.from_arrays(offsets, nested)
    return nested


def _table(columns: dict, features: Features) -> pa.Table:
    schema = features.arrow_schema
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(list(column), schema.field(name).type)
        for name, column in ((name, columns[name]) for name in schema.names)
    ]
    return pa.Table.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)], schema=schema
    )


def write_slices(volume: Volume, path: Path) -> None:
    """Write a series as one Parquet file, a few slices at a time.

    Pixels are stored as differences between neighbours, then zstd: 243 KB for a 512 x 512 chest slice of 524 KB
    (LIDC-IDRI-0001).
    """
    image = "image.list.element.list.element"
    with pq.ParquetWriter(
        path,
        SLICE_FEATURES.arrow_schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        column_encoding={image: "DELTA_BINARY_PACKED"},
        write_statistics=False,
    ) as writer:
        for first in range(0, len(volume.voxels), ROWS_PER_GROUP):
            writer.write_table(slice_table(volume, first, min(first + ROWS_PER_GROUP, len(volume.voxels))))


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table of nodules or marks as one Parquet file."""
    pq.write_table(table, path, compression="zstd", row_group_size=256)
