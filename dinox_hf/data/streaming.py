"""Slices straight from the shards of a built set, on disk or on the Hub: no cache, and no row by its number.

A shard that `dataset_scripts/build_*.py` wrote holds one series, so its slices come with their neighbours.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import DatasetBuilder, IterableDataset, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError

from .schema import ROWS_PER_GROUP
from .slices import SliceExample, check_columns, fingerprint_of, image_of, neighbour_indices, shards_of

ROWS_PER_SHARD = 1_000_000  # row r of shard s is known as s * this + r
_COLUMNS = ("image", "slice_index", "z_mm", "spacing_mm", "padding_hu")


class StreamedSlices:
    """One split of a built set, shard by shard.

    Args:
        folder: a folder written by `dataset_scripts/build_*.py`, or the id of such a data set on the Hub.
        split: which patients: "train" or "test".

    Raises:
        ValueError: if there is no such set, or it has no such split.
        RuntimeError: if the Hub cannot be reached.
    """

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder, self.split = str(folder), split
        local = shards_of(Path(folder), split) if Path(folder).is_dir() else None
        builder = _builder(self.folder)
        _check_split(self.folder, split, builder)
        files = [str(file) for file in builder.config.data_files[split]]
        # The address of a file on the Hub names the commit; on disk the contents have to tell.
        self.fingerprint = fingerprint_of(local) if local else hashlib.sha256("".join(files).encode()).hexdigest()[:16]
        self._dataset = builder.as_streaming_dataset(split)
        check_columns(self.folder, self._dataset.features.arrow_schema)
        self.num_shards = self._dataset.num_shards
        self._num_slices = builder.info.splits[split].num_examples if builder.info.splits else None

    @property
    def num_slices(self) -> int:
        """Slices of the split as its card says, or else about as many: every shard counts as long as the first."""
        if self._num_slices is None:
            first = next(iter(self._dataset.select_columns("num_slices")))
            self._num_slices = int(first["num_slices"]) * self.num_shards
        return self._num_slices

    def shard(self, number: int, num_slices: int = 1, apart_mm: float | None = None) -> Iterator[SliceExample]:
        """The slices of one shard in z order, each by itself (`num_slices` 1) or between its neighbours (3)."""
        dataset = self._dataset.shard(self.num_shards, number)
        rows = _rows(dataset, number * ROWS_PER_SHARD, self.folder)
        if num_slices == 1:
            return (row.example(row.image) for row in rows)
        return _with_neighbours(rows, apart_mm)


class _Row(NamedTuple):
    image: np.ndarray  # (H, W) int16 HU
    slice_index: int
    z_mm: float
    spacing_mm: tuple[float, float, float]
    padding_hu: int | None
    row: int

    def example(self, *images: np.ndarray) -> SliceExample:
        return SliceExample(images, tuple(self.spacing_mm[1:]), self.padding_hu, self.row)


def _rows(dataset: IterableDataset, first_row: int, folder: str) -> Iterator[_Row]:
    """The rows of one shard; ValueError where slices do not follow one another."""
    columns = dataset.select_columns(list(_COLUMNS)).with_format("arrow")
    number, before = first_row, None
    for table in columns.iter(batch_size=ROWS_PER_GROUP):
        images = table.column("image").combine_chunks()
        others = zip(*(table.column(name).to_pylist() for name in _COLUMNS[1:]), strict=True)
        for place, (slice_index, z_mm, spacing_mm, padding_hu) in enumerate(others):
            if before is not None and slice_index not in (0, before + 1):
                raise ValueError(
                    f"{folder} should hold the slices of a series one after another, in z order; found slice_index "
                    f"{slice_index} after {before} in shard {first_row // ROWS_PER_SHARD}. "
                    f"Build the set again with dataset_scripts/build_*.py, and do not shuffle its rows."
                )
            # A copy: a view would keep the pixels of the whole table for as long as one slice waits.
            image = image_of(images, place).copy()
            yield _Row(image, slice_index, z_mm, spacing_mm, padding_hu, number)
            number, before = number + 1, slice_index


def _with_neighbours(rows: Iterable[_Row], apart_mm: float | None) -> Iterator[SliceExample]:
    """Slices of one series after another, each as soon as the one far enough above it has come."""
    window: list[_Row] = []
    place = 0  # in the window, of the next slice to be given
    for row in rows:
        if row.slice_index == 0:
            yield from (_between(window, rest, apart_mm) for rest in range(place, len(window)))
            window, place = [], 0
        window.append(row)
        while place < len(window) - 1 and row.z_mm >= window[place].z_mm + (apart_mm or 0.0):
            yield _between(window, place, apart_mm)
            place += 1
            while place > 1 and window[1].z_mm <= window[place].z_mm - (apart_mm or 0.0):
                del window[0]  # too far below to be a neighbour again
                place -= 1
    yield from (_between(window, rest, apart_mm) for rest in range(place, len(window)))


def _between(window: list[_Row], place: int, apart_mm: float | None) -> SliceExample:
    z_mm = None if apart_mm is None else np.array([row.z_mm for row in window])
    below, above = neighbour_indices(place, len(window), z_mm, apart_mm)
    return window[place].example(*(window[index].image for index in (below, place, above)))


def _builder(folder: str) -> DatasetBuilder:
    try:
        return load_dataset_builder(folder)
    except (DatasetNotFoundError, FileNotFoundError) as error:
        raise ValueError(
            f"Expected the folder of a built set, or the id of one on the Hub; found neither at {folder}. Check the "
            f"spelling, and for a private data set that `hf auth login` was done."
        ) from error
    except OSError as error:
        raise RuntimeError(
            f"The Hub should answer for data set {folder}; found {type(error).__name__}: {error}. Try again later, or "
            f"fetch it with `hf download` where there is a network and name the folder."
        ) from error


def _check_split(folder: str, split: str, builder: DatasetBuilder) -> None:
    splits = sorted(map(str, builder.config.data_files))
    if split not in splits:
        raise ValueError(
            f"Expected a split {split!r} in {folder}; found {', '.join(splits)}. Choose one of these with data.split."
        )
