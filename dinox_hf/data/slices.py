"""The slices of a built set, read without a copy from the memory-mapped Arrow table."""

import hashlib
from bisect import bisect_right
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import load_dataset
from pyarrow import parquet

_COLUMNS = (
    "image",
    "patient_id",
    "series_id",
    "slice_index",
    "num_slices",
    "spacing_mm",
    "padding_hu",
)  # those read here; data/schema.py has them all
_FOOTER_BYTES = 1 << 16


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
        self._shards = _shards_of(self.folder, split)
        dataset = load_dataset(str(self.folder), split=split)
        self._table = dataset.data.table
        _check_columns(self.folder, self._table)
        self._images = [_PixelChunk(chunk) for chunk in self._table.column("image").chunks if len(chunk)]
        self._chunk_starts = np.cumsum([0] + [len(chunk) for chunk in self._images]).tolist()
        self._slice_index = self._table.column("slice_index").to_numpy()
        self._num_slices = self._table.column("num_slices").to_numpy()
        self._check_order()

    def __len__(self) -> int:
        return self._chunk_starts[-1]

    def __reduce__(self) -> tuple:
        # A worker that is not forked opens the memory map anew instead of being sent the pixels.
        return SliceSet, (self.folder, self.split)

    def pixels(self, row: int) -> np.ndarray:
        """(H, W) int16 HU as stored, padding included; a read-only view of the memory map."""
        chunk = bisect_right(self._chunk_starts, row) - 1
        return self._images[chunk].pixels(row - self._chunk_starts[chunk])

    def neighbours(self, row: int) -> np.ndarray:
        """(3, H, W) int16 HU of slices z-1, z, z+1; at the ends of a series the outermost slice stands twice."""
        below = row - (self._slice_index[row] > 0)
        above = row + (self._slice_index[row] < self._num_slices[row] - 1)
        return np.stack([self.pixels(below), self.pixels(row), self.pixels(above)])

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
        """Sixteen hex digits that name the data: equal on every machine that holds the same shards.

        SHA-256 over name, size and last 64 KiB of each shard of the split. A Parquet file ends in its footer, which
        holds row counts and the extremes of every column: other pixels or other patients give another fingerprint,
        without reading them all.
        """
        digest = hashlib.sha256()
        for shard in self._shards:
            size = shard.stat().st_size
            digest.update(f"{shard.name}:{size}:".encode())
            with shard.open("rb") as file:
                file.seek(max(0, size - _FOOTER_BYTES))
                digest.update(file.read())
        return digest.hexdigest()[:16]

    def _value(self, column: str, row: int) -> object:
        return self._table.column(column)[int(row)].as_py()

    def _check_order(self) -> None:
        follows = (self._slice_index[1:] == self._slice_index[:-1] + 1) | (self._slice_index[1:] == 0)
        if not follows.all():
            row = int(np.argmin(follows)) + 1
            raise ValueError(
                f"{self.folder} should hold the slices of a series one after another, in z order; found slice_index "
                f"{self._slice_index[row]} after {self._slice_index[row - 1]} at row {row} of split {self.split!r}. "
                f"Build the set again with dataset_scripts/build_*.py, and do not shuffle its rows."
            )


class _PixelChunk:
    """NumPy views of one chunk of a list<list<int16>> column: where images begin, where rows begin, all pixels."""

    def __init__(self, chunk: pa.ListArray) -> None:
        self._images = chunk.offsets.to_numpy()
        self._rows = chunk.values.offsets.to_numpy()
        self._pixels = chunk.values.values.to_numpy(zero_copy_only=True)

    def __len__(self) -> int:
        return len(self._images) - 1

    def pixels(self, index: int) -> np.ndarray:
        first, last = self._images[index], self._images[index + 1]
        begin, end = self._rows[first], self._rows[last]
        height, width = last - first, self._rows[first + 1] - begin
        if end - begin != height * width:
            raise ValueError(
                f"An image should have rows of one length; found {height} rows, the first of {width} pixels, and "
                f"{end - begin} pixels in all. Build the set again with dataset_scripts/build_*.py."
            )
        return self._pixels[begin:end].reshape(height, width)


def _shards_of(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(
            f"Expected the folder of a built set; found no folder at {folder}. Check the path, build a set with "
            f"`python dataset_scripts/build_lidc_idri.py RAW OUT`, or fetch one with `hf download`."
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
    if sum(parquet.read_metadata(shard).num_rows for shard in shards) == 0:
        raise ValueError(
            f"Expected slices in split {split!r} of {folder}; found none. "
            f"Choose another split ({', '.join(splits)}), or build the set from more patients."
        )
    return shards


def _splits_of(folder: Path) -> list[str]:
    return sorted({path.name.split("-")[0] for path in (folder / "slices").glob("*.parquet")})


def _check_columns(folder: Path, table: pa.Table) -> None:
    missing = [name for name in _COLUMNS if name not in table.column_names]
    pixel_type = pa.list_(pa.list_(pa.int16()))
    if missing or table.schema.field("image").type != pixel_type:
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise ValueError(
            f"Expected the columns {', '.join(_COLUMNS)} in {folder}, with image as {pixel_type}; found {found}. "
            f"Build the set again with dataset_scripts/build_*.py."
        )
