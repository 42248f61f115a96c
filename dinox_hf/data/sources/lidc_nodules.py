"""What the readers of one scan found: their nodules brought together, their marks placed on slices."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..schema import CHARACTERISTICS
from ..volume import Volume
from .lidc_masks import BoxMask, Drawing, SliceGrid, consensus, find_slice, reader_mask
from .lidc_readers import group_readers

LARGEST_RATING = {name: 5 for name in CHARACTERISTICS} | {"internal_structure": 4, "calcification": 6}


@dataclass(frozen=True, eq=False)
class ReaderNodule:
    """One reader's nodule of 3 mm or more."""

    reader: int  # two nodules with one number are one reader's
    name: str  # the reader's own; two readers' names for one nodule differ
    ratings: dict[str, int | None]  # None: not rated, or not on the scale
    drawings: tuple[Drawing, ...]
    image_shape: tuple[int, int] | None = None  # (rows, columns) it was drawn on, where the format says so


@dataclass(frozen=True)
class Mark:
    """One reader's point: a nodule below 3 mm, or what is no nodule."""

    kind: Literal["small_nodule", "non_nodule"]
    reader: int
    name: str
    row: float
    column: float
    z_mm: float
    slice_uid: str


@dataclass(frozen=True)
class Findings:
    """What the readers of one scan found, as rows of a built set."""

    nodules: list[dict]  # rows of NODULE_FEATURES, from feet to head
    marks: list[dict]  # rows of MARK_FEATURES, in the order of the file
    warnings: list[str]  # what could not be read or placed on the scan


@dataclass(frozen=True, eq=False)
class Annotation:
    """What was written about one scan, whatever the format."""

    path: str  # relative to the input folder
    stamp: str  # changes when the files do
    series_id: str
    nodules: tuple[ReaderNodule, ...]
    marks: tuple[Mark, ...] = ()
    warnings: tuple[str, ...] = ()  # what the file itself leaves open
    other_paths: tuple[str, ...] = ()  # of the files that belong to it, where it is more than one

    @property
    def slice_uids(self) -> set[str]:
        """SOPInstanceUIDs of all slices that were drawn or marked on."""
        places = [drawing for nodule in self.nodules for drawing in nodule.drawings] + list(self.marks)
        return {place.slice_uid for place in places if place.slice_uid}

    @property
    def num_small_nodules(self) -> int:
        """Marks of nodules below 3 mm."""
        return sum(mark.kind == "small_nodule" for mark in self.marks)

    @property
    def num_non_nodules(self) -> int:
        """Marks of what is no nodule."""
        return sum(mark.kind == "non_nodule" for mark in self.marks)

    def findings(self, scan: Volume | SliceGrid) -> Findings:
        """Nodules and marks on the slices of the scan.

        Args:
            scan: the annotated scan, not turned against its stored frames.

        Returns:
            The rows, nodules numbered from feet to head, and warnings about what found no slice.
        """
        grid = scan if isinstance(scan, SliceGrid) else SliceGrid.of(scan)
        placed = [_place(grid, nodule) for nodule in self.nodules]
        marks = [(find_slice(grid, mark.slice_uid, mark.z_mm), mark) for mark in self.marks]
        return Findings(
            nodules=_nodule_rows(grid, self.nodules, [mask for mask, _ in placed]),
            marks=[_mark_row(grid, index, mark) for index, mark in marks if index is not None],
            warnings=[
                f"{self.path}: {warning}"
                for warning in (
                    *self.warnings,
                    *_nodule_warnings(grid, self.nodules, placed),
                    *_mark_warnings([index for index, _ in marks]),
                )
            ],
        )


def rating_on_scale(name: str, rating: int | None) -> int | None:
    """A rating of this characteristic, None if it is missing or no step of its scale (LIDC-IDRI-0510 has a 5 of 4)."""
    return rating if rating is not None and 1 <= rating <= LARGEST_RATING[name] else None


def _nodule_rows(grid: SliceGrid, nodules: Sequence[ReaderNodule], masks: list[BoxMask | None]) -> list[dict]:
    rows = []
    for members in group_readers([nodule.reader for nodule in nodules], masks):
        ratings = [nodules[index].ratings for index in members]
        row = nodule_row(grid, [masks[index] for index in members])
        rows.append(row | {name: [rating[name] for rating in ratings] for name in CHARACTERISTICS})
    rows.sort(key=lambda row: row["centre_index"])
    return [{"nodule_id": f"{grid.series_id}/{number}"} | row for number, row in enumerate(rows, 1)]


def _place(grid: SliceGrid, nodule: ReaderNodule) -> tuple[BoxMask | None, int]:
    """As `reader_mask`, but nothing is placed on slices of another size."""
    return reader_mask(grid, nodule.drawings) if _fits(grid, nodule) else (None, 0)


def _fits(grid: SliceGrid, nodule: ReaderNodule) -> bool:
    return nodule.image_shape in (None, (grid.num_rows, grid.num_columns))


def _nodule_warnings(
    grid: SliceGrid, nodules: Sequence[ReaderNodule], placed: list[tuple[BoxMask | None, int]]
) -> Iterator[str]:
    num_seen = Counter()
    for nodule, (mask, num_absent) in zip(nodules, placed, strict=True):
        num_seen[nodule.reader] += 1
        # Counted, not named: a name is free text, and whoever wrote it may have put a person's into it.
        whose = f"reader {nodule.reader + 1}'s outlined nodule {num_seen[nodule.reader]}"
        missing = [name for name, rating in nodule.ratings.items() if rating is None]
        if 0 < len(missing) < len(nodule.ratings):
            yield f"{whose} has no rating of {', '.join(missing)}"
        if num_absent:
            yield (
                f"{num_absent} of {len(nodule.drawings)} outlines of {whose} lie on slices that are absent from the "
                f"scan"
            )
        elif not _fits(grid, nodule):
            yield (
                f"{whose} is left out: drawn on {' x '.join(map(str, nodule.image_shape))} pixels, while the scan has "
                f"{grid.num_rows} x {grid.num_columns}"
            )
        elif mask is None:
            yield f"{whose} is left out: no pixel of it lies inside the image"


def _mark_warnings(indices: list[int | None]) -> Iterator[str]:
    num_absent = sum(index is None for index in indices)
    if num_absent:
        yield (
            f"{num_absent} of {len(indices)} marks of small nodules and non-nodules lie on slices that are absent "
            f"from the scan"
        )


def _mark_row(grid: SliceGrid, index: int, mark: Mark) -> dict:
    return {
        "patient_id": grid.patient_id,
        "series_id": grid.series_id,
        "kind": mark.kind,
        "reader": mark.reader,
        "name": mark.name,
        "slice_index": index,
        "z_mm": float(grid.z_mm[index]),
        "row": mark.row,
        "column": mark.column,
    }


def nodule_row(grid: SliceGrid, masks: Sequence[BoxMask]) -> dict:
    """Geometry columns of one nodule.

    The diameter is that of the circle with the area of the largest slice of the consensus mask.

    Args:
        grid: of the scan.
        masks: those of its readers; at least two of them overlap, or there is one.

    Returns:
        The row without nodule_id and ratings.
    """
    mask = consensus(masks)
    _, y_mm, x_mm = grid.spacing_mm
    largest_mm2 = mask.voxels.sum(axis=(1, 2)).max() * y_mm * x_mm
    return {
        "patient_id": grid.patient_id,
        "series_id": grid.series_id,
        "diameter_mm": float(2 * np.sqrt(largest_mm2 / np.pi)),
        "num_readers": len(masks),
        "centre_index": [float(value) for value in np.argwhere(mask.voxels).mean(axis=0) + mask.start],
        "first_slice": int(mask.start[0]),
        "last_slice": int(mask.stop[0] - 1),
        "mask_start": mask.start.tolist(),
        "mask": mask.voxels.astype(np.uint8),
    }
