"""What a pretraining run reads: which built sets, in which shares, and how many slices make a step."""

from dataclasses import dataclass, replace

from ..data.expectation import expect


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """One of several built sets that are mixed."""

    folder: str = ""  # written by dataset_scripts/build_*.py
    weight: float = 1.0  # share of the examples, next to the other weights: 3 and 1 are three quarters and one
    split: str | None = None  # null: data.split

    def __post_init__(self) -> None:
        expect(self.folder != "", "data.folders[…].folder", "a folder", self.folder, "write {folder: …, weight: 1}")
        expect(0 < self.weight < float("inf"), "data.folders[…].weight", "> 0", self.weight, "leave out a set instead")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which built sets are read, and how."""

    folder: str | None = (
        None  # written by dataset_scripts/build_*.py; with `streaming` also a data set's id on the Hub
    )
    # Several sets, mixed by weight; `folder` is then left out and recorded as the first of them.
    folders: tuple[SetConfig, ...] = ()
    split: str = "train"
    z_stride: int = 1  # an epoch takes every n-th slice of a series, and the next one those a slice further on
    # Distance of the slices below and above where intensity.channels is `neighbours`, since slices lie 0.6 to 5 mm
    # apart: the nearest to it are taken. null: the adjacent slices.
    neighbour_mm: float | None = None
    # Read the shards one after another, from disk or straight from the Hub, instead of through a cache of all pixels.
    # The order is then less random, and a resumed run is near and not the same bit for bit: see StreamLoader.
    streaming: bool = False
    shuffle_buffer: int = 1024  # slices that wait in each worker while streaming, half a megabyte each
    num_workers: int = 2  # processes that cut crops; changes speed, never a number unless streaming
    pin_memory: bool = True  # page-locked batches, from which an accelerator copies meanwhile; no number changes

    def __post_init__(self) -> None:
        if self.folders:
            hint = "one of data.folder and data.folders; --data.folder=null clears that of the file"
            expect(self.folder in (None, self.folders[0].folder), "data.folder", "left out", self.folder, hint)
            object.__setattr__(self, "folder", self.folders[0].folder)
        expect(self.z_stride >= 1, "data.z_stride", ">= 1", self.z_stride, "1 takes every slice")
        if self.neighbour_mm is not None:
            expect(self.neighbour_mm > 0, "data.neighbour_mm", "> 0 mm", self.neighbour_mm, "null: adjacent slices")
        expect(self.shuffle_buffer >= 1, "data.shuffle_buffer", ">= 1", self.shuffle_buffer, "1 shuffles nothing")
        expect(self.num_workers >= 0, "data.num_workers", ">= 0", self.num_workers, "0 cuts crops in the main one")

    @property
    def sets(self) -> tuple[SetConfig, ...]:
        """The sets with their weights, also where there is one.

        Raises:
            ValueError: if none is named.
        """
        if not self.folder:
            raise ValueError(
                "data.folder should name a built set; found none. Build one with dataset_scripts/build_*.py, and "
                "pass --data.folder=…."
            )
        sets = self.folders or (SetConfig(folder=self.folder),)
        return tuple(replace(part, split=part.split or self.split) for part in sets)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """One step is one update from exactly `accumulate` micro-batches of `size` slices on every process."""

    size: int = 32  # slices in one micro-batch on one process
    accumulate: int = 1  # micro-batches of one update

    def __post_init__(self) -> None:
        expect(self.size >= 2, "batch.size", ">= 2", self.size, "KoLeo and Sinkhorn compare images with each other")
        expect(self.accumulate >= 1, "batch.accumulate", ">= 1", self.accumulate, "1 means no accumulation")
