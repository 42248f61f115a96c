"""From what a reader drew on slices to a mask on the grid of the scan. Needs no voxels: a grid of slices is enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy import ndimage

from ..volume import Volume

CONSENSUS = 0.5  # a voxel belongs to a nodule if at least half of the readers who outlined it say so


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """Where the slices of a scan lie: all that an outline has to know of it."""

    patient_id: str
    series_id: str
    z_mm: np.ndarray  # (Z,) increasing
    slice_uids: tuple[str, ...]  # (Z,), or empty
    spacing_mm: tuple[float, float, float]  # (z, y, x)
    num_rows: int
    num_columns: int

    @classmethod
    def of(cls, volume: Volume) -> "SliceGrid":
        """The grid of a scan that has been read."""
        _, num_rows, num_columns = volume.voxels.shape
        identity = (volume.patient_id, volume.series_id)
        return cls(*identity, volume.z_mm, volume.slice_uids, volume.spacing_mm, num_rows, num_columns)


class BoxMask(NamedTuple):
    """A mask in its bounding box, so that a nodule costs kilobytes, not a scan."""

    start: np.ndarray  # (3,) index (z, y, x) of the first voxel of the box
    voxels: np.ndarray  # (Z, Y, X) bool

    @property
    def stop(self) -> np.ndarray:
        """(3,) index behind the last voxel of the box."""
        return self.start + self.voxels.shape


class Drawing(Protocol):
    """What a reader drew on one slice: an outline in the XML, a frame in a segmentation."""

    z_mm: float
    slice_uid: str
    is_inclusion: bool

    def paint(self, with_border: bool) -> tuple[np.ndarray, np.ndarray]:
        """(2,) index (row, column) of the first pixel of a box, and the pixels in it that are meant."""


@dataclass(frozen=True, eq=False)
class Outline:
    """One closed outline on one slice. It runs through the first pixels outside the nodule."""

    points: np.ndarray  # (N, 2) int, (column, row) of the stored frame
    z_mm: float  # NaN if the file does not say
    slice_uid: str
    is_inclusion: bool  # False: what it encloses is no part of the nodule

    def paint(self, with_border: bool) -> tuple[np.ndarray, np.ndarray]:
        """The inside; of an exclusion also the border, since that belongs to what is excluded."""
        start, inside, border = fill_outline(self.points)
        return start, inside | border if with_border or not self.is_inclusion else inside


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a segmentation, cropped to what is in it."""

    start: np.ndarray  # (2,) index (row, column) of the first pixel
    pixels: np.ndarray  # (rows, columns) bool
    z_mm: float
    slice_uid: str
    is_inclusion: bool = True

    def paint(self, with_border: bool) -> tuple[np.ndarray, np.ndarray]:
        """The pixels themselves: a segmentation has no border."""
        return self.start, self.pixels


def fill_outline(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tell the inside of an outline from its border.

    Consecutive points are joined by straight lines, the last with the first; what the closed line separates from the
    outside is the inside.

    Args:
        points: (N, 2) int (column, row).

    Returns:
        (2,) index (row, column) of the box's first pixel, then inside and border, both (rows, columns) bool.
    """
    rows_columns = points[:, ::-1].astype(np.int64)
    start = rows_columns.min(axis=0)
    # A frame of one pixel around the box connects everything that is outside.
    border = np.zeros(np.ptp(rows_columns, axis=0) + 3, dtype=bool)
    border[tuple((_closed_line(rows_columns) - start + 1).T)] = True
    # The border is connected through corners, so the outside must not be: 4-neighbours, the default of label.
    parts, _ = ndimage.label(~border)
    inside = ~border & (parts != parts[0, 0])
    return start, inside[1:-1, 1:-1], border[1:-1, 1:-1]


def _closed_line(points: np.ndarray) -> np.ndarray:
    """(M, 2) pixels of the straight lines from each point to the next, and from the last to the first."""
    way = np.roll(points, -1, axis=0) - points
    num_steps = np.maximum(np.abs(way).max(axis=1), 1)
    line = np.repeat(np.arange(len(points)), num_steps)
    step = np.arange(len(line)) - np.repeat(np.cumsum(num_steps) - num_steps, num_steps)
    # Rounded in whole numbers, halves up: the same outline gives the same mask wherever it lies.
    twice = 2 * num_steps[line, None]
    return points[line] + (2 * way[line] * step[:, None] + num_steps[line, None]) // twice


def reader_mask(grid: SliceGrid, drawings: Sequence[Drawing]) -> tuple[BoxMask | None, int]:
    """One reader's nodule as a mask on the slice grid.

    A nodule too small to enclose a pixel is taken as its border.

    Args:
        grid: of the scan.
        drawings: what the reader drew.

    Returns:
        The mask, None if none of its slices is there or it leaves the image, and the number of drawings without slice.
    """
    placed = [(find_slice(grid, drawing.slice_uid, drawing.z_mm), drawing) for drawing in drawings]
    num_absent = sum(index is None for index, _ in placed)
    placed = [(index, drawing) for index, drawing in placed if index is not None]
    if not placed:
        return None, num_absent
    inside = _stack(grid, placed, with_border=False)
    return inside if inside is not None else _stack(grid, placed, with_border=True), num_absent


def find_slice(grid: SliceGrid | Volume, slice_uid: str, z_mm: float) -> int | None:
    """Index of the slice with this SOPInstanceUID or, if none has it, at this position; None if absent.

    An anonymiser may blank the UIDs or give all slices the same one: then they find nothing, and the position decides.
    """
    if slice_uid and grid.slice_uids.count(slice_uid) == 1:
        return grid.slice_uids.index(slice_uid)
    nearest = int(np.abs(grid.z_mm - z_mm).argmin())
    # Positions in the XML may be rounded; a slice that is absent lies a whole spacing off.
    is_there = abs(grid.z_mm[nearest] - z_mm) < 0.45 * grid.spacing_mm[0]
    return nearest if is_there else None


def _stack(grid: SliceGrid, placed: list[tuple[int, Drawing]], with_border: bool) -> BoxMask | None:
    # Exclusions last: a hole stays a hole, whichever outline the file names first.
    placed = sorted(placed, key=lambda item: not item[1].is_inclusion)
    painted = [(index, drawing.is_inclusion, *drawing.paint(with_border)) for index, drawing in placed]
    first, last = min(item[0] for item in painted), max(item[0] for item in painted)
    box_start = np.maximum(np.min([start for *_, start, _ in painted], axis=0), 0)
    box_stop = np.max([start + pixels.shape for *_, start, pixels in painted], axis=0)
    box_stop = np.minimum(box_stop, (grid.num_rows, grid.num_columns))
    if (box_stop <= box_start).any():
        return None
    voxels = np.zeros((last - first + 1, *(box_stop - box_start)), dtype=bool)
    for index, is_inclusion, start, pixels in painted:
        rows, columns = np.nonzero(pixels)
        rows, columns = rows + start[0] - box_start[0], columns + start[1] - box_start[1]
        is_in_image = (rows >= 0) & (columns >= 0) & (rows < voxels.shape[1]) & (columns < voxels.shape[2])
        voxels[index - first, rows[is_in_image], columns[is_in_image]] = is_inclusion
    return _trim(BoxMask(np.array([first, *box_start]), voxels))


def _trim(mask: BoxMask) -> BoxMask | None:
    if not mask.voxels.any():
        return None
    (box,) = ndimage.find_objects(mask.voxels.astype(np.uint8))
    return BoxMask(mask.start + [axis.start for axis in box], mask.voxels[box])


def overlap(first: BoxMask, second: BoxMask) -> float:
    """Voxels in both masks, as a share of the smaller one."""
    start, stop = np.maximum(first.start, second.start), np.minimum(first.stop, second.stop)
    if (stop <= start).any():
        return 0.0
    both = _crop(first, start, stop) & _crop(second, start, stop)
    return float(both.sum() / min(first.voxels.sum(), second.voxels.sum()))


def _crop(mask: BoxMask, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    box = tuple(slice(*edges) for edges in zip(start - mask.start, stop - mask.start, strict=True))
    return mask.voxels[box]


def consensus(masks: Sequence[BoxMask]) -> BoxMask:
    """Voxels that at least half of the readers in `masks` include."""
    start = np.min([mask.start for mask in masks], axis=0)
    votes = np.zeros(np.max([mask.stop for mask in masks], axis=0) - start, dtype=np.uint8)
    for mask in masks:
        votes[tuple(slice(*edges) for edges in zip(mask.start - start, mask.stop - start, strict=True))] += mask.voxels
    return _trim(BoxMask(start, votes >= CONSENSUS * len(masks)))
