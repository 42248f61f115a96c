"""What a built set holds, told from its small columns, and single slices of it: nothing is converted or cached."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

_COLUMNS = ["patient_id", "series_id", "slice_index", "num_slices", "spacing_mm", "padding_hu"]


@dataclass(frozen=True)
class SeriesEntry:
    """One series of a set."""

    patient_id: str
    series_id: str
    num_slices: int
    spacing_mm: tuple[float, float, float]  # (z, y, x)
    padding_hu: int | None
    first_row: int  # counted over all shards


class SetOverview:
    """Series, nodules and marks of all splits of a built set; pixels are read slice by slice, where asked for.

    `datasets.load_dataset` would first convert the whole set, 128 GB for LIDC-IDRI; this reads the shards themselves.

    Args:
        folder: a folder written by `dataset_scripts/build_*.py`.

    Raises:
        ValueError: if the folder is no built set, or its rows were shuffled.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._shards = _shards_of(self.folder)
        self._shard_starts = np.cumsum([0] + [pq.read_metadata(shard).num_rows for shard in self._shards]).tolist()
        self._open: tuple[int, _ShardReader] | None = None
        self.series = list(self._read_series())

    def _read_series(self) -> Iterator[SeriesEntry]:
        """Go from first slice to first slice: the rows between are not looked at, whatever their number."""
        row = 0
        while row < self.num_slices:
            reader, row_of_shard = self._find(row)
            fields = reader.describe(row_of_shard)
            if fields.pop("slice_index") != 0 or fields["num_slices"] < 1:
                raise ValueError(
                    f"{self.folder} should hold whole series, one after another in z order; found another slice than "
                    f"the first at row {row}. Build the set again with dataset_scripts/build_*.py."
                )
            yield SeriesEntry(first_row=row, **fields)
            row += fields["num_slices"]

    @property
    def num_slices(self) -> int:
        """Rows of all splits."""
        return self._shard_starts[-1]

    @cached_property
    def num_patients(self) -> int:
        """Patients of all splits."""
        return len({series.patient_id for series in self.series})

    @cached_property
    def nodules(self) -> list[dict]:
        """Rows of all nodules, without their masks."""
        return _read_rows(self.folder / "nodules", without={"mask"})

    @cached_property
    def marks(self) -> list[dict] | None:
        """Rows of all marks of small nodules and non-nodules; None if the set lists none."""
        return _read_rows(self.folder / "marks") if (self.folder / "marks").is_dir() else None

    def nodules_of(self, series_ids: Sequence[str]) -> list[dict]:
        """Rows of the nodules of these series, with their masks."""
        return _read_rows(self.folder / "nodules", filters=[("series_id", "in", list(series_ids))])

    def slice_hu(self, row: int) -> np.ndarray:
        """(H, W) int16 HU as stored; `row` counts over all shards."""
        reader, row_of_shard = self._find(row)
        return reader.slice_hu(row_of_shard)

    def _find(self, row: int) -> tuple["_ShardReader", int]:
        number = bisect_right(self._shard_starts, row) - 1
        # One open file at a time: a set may have more shards than a process may open files.
        if self._open is None or self._open[0] != number:
            self._open = number, _ShardReader(self._shards[number])
        return self._open[1], row - self._shard_starts[number]

    def slices_hu(self, series: SeriesEntry) -> Iterator[np.ndarray]:
        """All slices of a series from the feet to the head, each (H, W) int16 HU."""
        return (self.slice_hu(series.first_row + index) for index in range(series.num_slices))


class _ShardReader:
    """Slices of one Parquet file; the row group that was read last is kept."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._group, self._images = -1, None

    def describe(self, row: int) -> dict:
        """Fields of the series whose first slice this is, without `first_row`."""
        group = bisect_right(self._starts, row) - 1
        table = self._file.read_row_group(group, columns=_COLUMNS).slice(row - self._starts[group], 1)
        fields = table.to_pylist()[0]
        return fields | {"spacing_mm": tuple(fields["spacing_mm"])}

    def slice_hu(self, row: int) -> np.ndarray:
        group = bisect_right(self._starts, row) - 1
        if group != self._group:
            self._group, self._images = group, self._file.read_row_group(group, columns=["image"]).column("image")
        lines = self._images[row - self._starts[group]].values
        return np.asarray(lines.flatten()).reshape(len(lines), -1)


def _read_rows(folder: Path, without: set[str] = frozenset(), filters: list | None = None) -> list[dict]:
    rows = []
    for path in sorted(folder.glob("*.parquet")):
        columns = [name for name in pq.read_schema(path).names if name not in without]
        rows += pq.read_table(path, columns=columns, filters=filters).to_pylist()
    return rows


def _shards_of(folder: Path) -> list[Path]:
    shards = sorted((folder / "slices").glob("*.parquet"))
    if not shards:
        found = "no such folder"
        if folder.is_dir():
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "an empty folder"
        raise ValueError(
            f"Expected the folder of a built set, with slices/*.parquet, at {folder}; found {found}. Check the path, "
            f"or build a set: `python dataset_scripts/build_lidc_idri.py RAW OUT`."
        )
    names = pq.read_schema(shards[0]).names
    missing = [name for name in ["image", *_COLUMNS] if name not in names]
    if missing:
        raise ValueError(
            f"Expected the columns of a built set in {shards[0]}; found none named {', '.join(missing)}. Build the "
            f"set again with dataset_scripts/build_*.py."
        )
    return shards
