"""The slices of a built set, read without a copy from the memory-mapped Arrow table."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from datasets import load_dataset
from pyarrow import parquet

_COLUMNS = (
    "image",
    "patient_id",
    "series_id",
    "slice_index",
    "z_mm",
    "spacing_mm",
    "padding_hu",
)  # those read here; data/schema.py has them all
_FOOTER_BYTES = 1 << 16


class SliceExample(NamedTuple):
    """What a loader takes of a set for one example."""

    slices_hu: Sequence[np.ndarray]  # one (H, W) int16 HU, or three with the neighbours below and above
    spacing_yx_mm: tuple[float, float]
    padding_hu: int | None  # the fill outside the field of view, as stored
    row: int  # where the slice stands in its set


class SliceSet:
    """One split of a built set: row i is one axial slice in HU, with the slices above and below it beside it.

    Pixels come straight from Arrow's memory map (`with_format("numpy")` would turn int16 into int64 and copy), so a
    row costs microseconds plus whatever the disk needs. Arrays are read-only.

    Args:
        folder: a folder written by `dataset_scripts/build_*.py`.
        split: which patients: "train" or "test".

    Raises:
        ValueError: if the folder is missing, is not a built set, or has no such split.
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder = Path(folder)
        self.split = split
        self._shards = shards_of(self.folder, split)
        # A built set comes in tens of thousands of record batches: other columns would cost memory for each of them.
        self._table = _load(self.folder, split, self._shards).select(_COLUMNS)
        self._chunk_starts = _chunk_starts(self._table)
        self._series_starts = self._find_series()

    def __len__(self) -> int:
        return len(self._table)

    def __reduce__(self) -> tuple:
        # A worker that is not forked opens the memory map anew instead of being sent the pixels.
        return SliceSet, (self.folder, self.split)

    @property
    def num_series(self) -> int:
        """Series in the split."""
        return len(self._series_starts) - 1

    @property
    def series_lengths(self) -> np.ndarray:
        """(S,) slices of each series, in the order of the rows."""
        return np.diff(self._series_starts)

    def series_rows(self, row: int) -> range:
        """The rows of the series to which a row belongs, from the feet to the head."""
        series = bisect_right(self._series_starts, row) - 1
        return range(int(self._series_starts[series]), int(self._series_starts[series + 1]))

    def pixels(self, row: int) -> np.ndarray:
        """(H, W) int16 HU as stored, padding included; a read-only view of the memory map."""
        chunk = bisect_right(self._chunk_starts, row) - 1
        return image_of(self._table.column("image").chunk(chunk), row - int(self._chunk_starts[chunk]))

    def neighbours(self, row: int, apart_mm: float | None = None) -> np.ndarray:
        """(3, H, W) int16 HU of a slice between one nearer the feet and one nearer the head.

        Args:
            row: the slice in the middle.
            apart_mm: how far away the other two lie: the nearest slices to that distance, but never the middle one
                itself. None takes the adjacent slices, whatever their distance.

        At the ends of a series, where no slice lies so far away, the outermost one takes the place.
        """
        return np.stack(self._neighbour_views(row, apart_mm))

    def example(self, row: int, num_slices: int = 1, apart_mm: float | None = None) -> SliceExample:
        """A slice by itself, or between two neighbours, with what a crop needs to know of it; no pixel is read yet."""
        slices_hu = [self.pixels(row)] if num_slices == 1 else self._neighbour_views(row, apart_mm)
        return SliceExample(slices_hu, self.spacing_mm(row)[1:], self.padding_hu(row), int(row))

    def spacing_mm(self, row: int) -> tuple[float, float, float]:
        """Distance between slices and size of a pixel, (z, y, x)."""
        return tuple(self._value("spacing_mm", row))

    def padding_hu(self, row: int) -> int | None:
        """The fill value outside the scanner's field of view, as stored; None if there is none."""
        return self._value("padding_hu", row)

    def patient_id(self, row: int) -> str:
        """The collection's pseudonym of the patient."""
        return self._value("patient_id", row)

    def series_id(self, row: int) -> str:
        """The series that the slice belongs to."""
        return self._value("series_id", row)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name the data: equal on every machine that holds the same shards."""
        return fingerprint_of(self._shards)

    @cached_property
    def _z_mm(self) -> np.ndarray:
        return self._table.column("z_mm").to_numpy()

    def _neighbour_views(self, row: int, apart_mm: float | None) -> list[np.ndarray]:
        series = self.series_rows(row)
        z_mm = None if apart_mm is None else self._z_mm[series.start : series.stop]
        below, above = neighbour_indices(row - series.start, len(series), z_mm, apart_mm)
        return [self.pixels(series[below]), self.pixels(row), self.pixels(series[above])]

    def _value(self, column: str, row: int) -> object:
        return self._table.column(column)[int(row)].as_py()

    def _find_series(self) -> np.ndarray:
        """(S + 1,) row at which each series begins, and where the last one ends; slice 0 begins a series."""
        slice_index = self._table.column("slice_index").to_numpy()
        begins = slice_index == 0
        follows = begins.copy()
        follows[1:] |= slice_index[1:] == slice_index[:-1] + 1
        if not follows.all():
            row = int(np.argmin(follows))
            before = f"after {slice_index[row - 1]} " if row else ""
            raise ValueError(
                f"{self.folder} should hold the slices of a series one after another, in z order; found slice_index "
                f"{slice_index[row]} {before}at row {row} of split {self.split!r}. "
                f"Build the set again with dataset_scripts/build_*.py, and do not shuffle its rows."
            )
        return np.append(np.flatnonzero(begins), len(slice_index))


def neighbour_indices(
    index: int, num_slices: int, z_mm: np.ndarray | None = None, apart_mm: float | None = None
) -> tuple[int, int]:
    """The slices below and above one of a series: the adjacent ones, or those nearest to a distance.

    Args:
        index: number of the slice in its series.
        num_slices: slices in the series.
        z_mm: (num_slices,) positions, increasing; needed with `apart_mm` only.
        apart_mm: the distance; None for the adjacent slices.
    """
    below, above = max(index - 1, 0), min(index + 1, num_slices - 1)
    if apart_mm is None:
        return below, above
    nearest_below = int(np.abs(z_mm - (z_mm[index] - apart_mm)).argmin())
    nearest_above = int(np.abs(z_mm - (z_mm[index] + apart_mm)).argmin())
    return min(nearest_below, below), max(nearest_above, above)


def image_of(images: pa.ListArray, index: int) -> np.ndarray:
    """(H, W) int16, a read-only view of one image of a list<list<int16>> array."""
    rows = images.values
    first, last = images.offsets[index].as_py(), images.offsets[index + 1].as_py()
    edges = rows.offsets[first : last + 1].to_numpy()
    begin, end = int(edges[0]), int(edges[-1])
    height, width = last - first, int(edges[1] - edges[0])
    if end - begin != height * width:
        raise ValueError(
            f"An image should have rows of one length; found {height} rows, the first of {width} pixels, and "
            f"{end - begin} pixels in all. Build the set again with dataset_scripts/build_*.py."
        )
    return rows.values.to_numpy(zero_copy_only=True)[begin:end].reshape(height, width)


def fingerprint_of(shards: list[Path]) -> str:
    """Sixteen hex digits that name what the shards of a split hold.

    SHA-256 over name, size and last 64 KiB of each. A Parquet file ends in its footer, which holds row counts and the
    extremes of every column: other pixels or other patients give another fingerprint, without reading them all.
    """
    digest = hashlib.sha256()
    for shard in shards:
        size = shard.stat().st_size
        digest.update(f"{shard.name}:{size}:".encode())
        with shard.open("rb") as file:
            file.seek(max(0, size - _FOOTER_BYTES))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def shards_of(folder: Path, split: str) -> list[Path]:
    """The files of a split; ValueError if the folder is no built set, or the split is not there or empty."""
    if not folder.is_dir():
        raise ValueError(
            f"Expected the folder of a built set; found no folder at {folder}. Check the path, build a set with "
            f"`python dataset_scripts/build_lidc_idri.py RAW OUT`, fetch one with `hf download`, or train on one of "
            f"the Hub with --data.streaming=true."
        )
    splits = _splits_of(folder)
    if not splits or not (folder / "README.md").is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "an empty folder"
        raise ValueError(
            f"Expected a built set with README.md and slices/*.parquet in {folder}; found {found}. "
            f"If these are raw scans, build a set: `python dataset_scripts/build_lidc_idri.py {folder} OUT`."
        )
    if split not in splits:
        raise ValueError(
            f"Expected a split {split!r} in {folder}; found {', '.join(splits)}. "
            f"Choose one of these (a set of fewer than 5 patients is all train), or build from more patients."
        )
    shards = sorted((folder / "slices").glob(f"{split}-*.parquet"))
    if not any(parquet.read_metadata(shard).num_rows for shard in shards):  # one with slices is enough
        raise ValueError(
            f"Expected slices in split {split!r} of {folder}; found none. "
            f"Choose another split ({', '.join(splits)}), or build the set from more patients."
        )
    return shards


def _splits_of(folder: Path) -> list[str]:
    return sorted({path.name.split("-")[0] for path in (folder / "slices").glob("*.parquet")})


def _load(folder: Path, split: str, shards: list[Path]) -> pa.Table:
    """The split as a memory-mapped table: the one of `load_dataset(folder)`, so that both share one cache."""
    table = load_dataset(str(folder), split=split).data.table
    check_columns(folder, table.schema)
    if _shows(table, shards):
        return table
    # `datasets` names a cache by the folder's name and the README, not by what the shards hold: another set may have
    # been there first. With files named one by one their times of change count too.
    files = {split: [str(shard) for shard in shards]}
    return load_dataset("parquet", data_files=files, split=split).data.table


def _shows(table: pa.Table, shards: list[Path]) -> bool:
    """Whether a table holds the pixels of these shards, judged by the first slice of the first and of the last one."""
    first = next(file for shard in shards if (file := parquet.ParquetFile(shard)).metadata.num_rows)
    last = next(file for shard in reversed(shards) if (file := parquet.ParquetFile(shard)).metadata.num_rows)
    for file, row in ((first, 0), (last, len(table) - last.metadata.num_rows)):
        if row < 0:
            return False
        shown, stored = table.column("image").slice(row, 1), file.read_row_group(0, columns=["image"]).column("image")
        if not np.array_equal(image_of(shown.chunk(0), 0), image_of(stored.chunk(0), 0)):
            return False
    return True


def check_columns(folder: str | Path, schema: pa.Schema) -> None:
    """ValueError if a set lacks columns that are read, or keeps its pixels otherwise."""
    missing = [name for name in _COLUMNS if name not in schema.names]
    pixel_type = pa.list_(pa.list_(pa.int16()))
    if missing or schema.field("image").type != pixel_type:
        found = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise ValueError(
            f"Expected the columns {', '.join(_COLUMNS)} in {folder}, with image as {pixel_type}; found {found}. "
            f"Build the set again with dataset_scripts/build_*.py."
        )


def _chunk_starts(table: pa.Table) -> np.ndarray:
    """(number of chunks + 1,) row at which each chunk of the table begins, and where the last one ends."""
    lengths = [len(chunk) for chunk in table.column("slice_index").iterchunks()]
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
