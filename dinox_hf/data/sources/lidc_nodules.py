"""From outlines to nodules: what an outline encloses, which readers mean the same nodule, where they agree."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..volume import Volume

CONSENSUS = 0.5  # a voxel belongs to a nodule if at least half of the readers who outlined it say so


class BoxMask(NamedTuple):
    """A mask in its bounding box, so that a nodule costs kilobytes, not a scan."""

    start: np.ndarray  # (3,) index (z, y, x) of the first voxel of the box
    voxels: np.ndarray  # (Z, Y, X) bool

    @property
    def stop(self) -> np.ndarray:
        """(3,) index behind the last voxel of the box."""
        return self.start + self.voxels.shape


def fill_outline(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tell the inside of an outline from its border.

    Consecutive points are joined by straight lines, the last with the first; what the closed line separates from the
    outside is the inside.

    Args:
        points: (N, 2) int (column, row).

    Returns:
        (2,) index (row, column) of the box's first pixel, then inside and border, both (rows, columns) bool.
    """
    rows_columns = points[:, ::-1]
    start = rows_columns.min(axis=0)
    border = np.zeros(np.ptp(rows_columns, axis=0) + 1, dtype=bool)
    for first, last in pairwise([*rows_columns, rows_columns[0]]):
        num_steps = max(1, np.abs(last - first).max())
        line = np.rint(np.linspace(first, last, num_steps + 1)).astype(int) - start
        border[line[:, 0], line[:, 1]] = True
    # The border is connected through corners, so the outside must not be: 4-neighbours, the default of fill_holes.
    return start, ndimage.binary_fill_holes(border) & ~border, border


def reader_mask(volume: Volume, outlines: Sequence) -> tuple[BoxMask | None, int]:
    """One reader's nodule as a mask on the slice grid.

    LIDC outlines run through the first pixels outside the nodule, so the border is no part of it; of an exclusion,
    the border belongs to what is excluded. A nodule too small to enclose a pixel is taken as its border.

    Args:
        volume: the scan.
        outlines: the reader's outlines.

    Returns:
        The mask, None if none of its slices is there or it leaves the image, and the number of outlines without slice.
    """
    placed = [(find_slice(volume, outline.slice_uid, outline.z_mm), outline) for outline in outlines]
    num_absent = sum(index is None for index, _ in placed)
    placed = [(index, outline) for index, outline in placed if index is not None and len(outline.points)]
    if not placed:
        return None, num_absent
    inside = _stack_outlines(volume, placed, with_border=False)
    return inside if inside is not None else _stack_outlines(volume, placed, with_border=True), num_absent


def find_slice(volume: Volume, slice_uid: str, z_mm: float) -> int | None:
    """Index of the slice with this SOPInstanceUID or, if none has it, at this position; None if absent.

    An anonymiser may blank the UIDs or give all slices the same one: then they find nothing, and the position decides.
    """
    if slice_uid and volume.slice_uids.count(slice_uid) == 1:
        return volume.slice_uids.index(slice_uid)
    nearest = int(np.abs(volume.z_mm - z_mm).argmin())
    # Positions in the XML may be rounded; a slice that is absent lies a whole spacing off.
    is_there = abs(volume.z_mm[nearest] - z_mm) < 0.45 * volume.spacing_mm[0]
    return nearest if is_there else None


def _stack_outlines(volume: Volume, placed: list, with_border: bool) -> BoxMask | None:
    _, num_rows, num_columns = volume.voxels.shape
    first = min(index for index, _ in placed)
    last = max(index for index, _ in placed)
    points = np.concatenate([outline.points for _, outline in placed])
    box_start = np.maximum(points.min(axis=0)[::-1], 0)
    box_stop = np.minimum(points.max(axis=0)[::-1] + 1, (num_rows, num_columns))
    if (box_stop <= box_start).any():
        return None
    voxels = np.zeros((last - first + 1, *(box_stop - box_start)), dtype=bool)
    # Exclusions last: a hole stays a hole, whichever outline the file names first.
    for index, outline in sorted(placed, key=lambda item: not item[1].is_inclusion):
        start, inside, border = fill_outline(outline.points)
        whole = inside | border if with_border or not outline.is_inclusion else inside
        rows, columns = np.nonzero(whole)
        rows, columns = rows + start[0] - box_start[0], columns + start[1] - box_start[1]
        is_in_image = (rows >= 0) & (columns >= 0) & (rows < voxels.shape[1]) & (columns < voxels.shape[2])
        voxels[index - first, rows[is_in_image], columns[is_in_image]] = outline.is_inclusion
    return _trim(BoxMask(np.array([first, *box_start]), voxels))


def _trim(mask: BoxMask) -> BoxMask | None:
    if not mask.voxels.any():
        return None
    (box,) = ndimage.find_objects(mask.voxels.astype(np.uint8))
    return BoxMask(mask.start + [axis.start for axis in box], mask.voxels[box])


def group_readers(readers: Sequence[int], masks: Sequence[BoxMask | None]) -> list[list[int]]:
    """Decide which readers' masks show the same nodule: those that overlap.

    The file does not say. Pairs are joined in the order of falling overlap (intersection over the smaller mask),
    unless a reader would then stand twice in one nodule: who outlined two nodules meant two.

    Args:
        readers: reader of each mask.
        masks: the masks; None takes no part.

    Returns:
        Groups of indices, each in reader order, one index per reader.
    """
    group_of = {index: [index] for index, mask in enumerate(masks) if mask is not None}
    overlaps = {pair: _overlap(masks[pair[0]], masks[pair[1]]) for pair in combinations(group_of, 2)}
    for first, second in sorted((pair for pair in overlaps if overlaps[pair] > 0), key=lambda pair: -overlaps[pair]):
        joined = group_of[first] + group_of[second]
        if group_of[first] is not group_of[second] and len({readers[index] for index in joined}) == len(joined):
            group_of |= dict.fromkeys(joined, sorted(joined))
    return [group for index, group in group_of.items() if index == group[0]]


def _overlap(first: BoxMask, second: BoxMask) -> float:
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


def nodule_row(volume: Volume, masks: Sequence[BoxMask]) -> dict:
    """Geometry columns of one nodule.

    The diameter is that of the circle with the area of the largest slice of the consensus mask.

    Args:
        volume: the scan.
        masks: those of its readers; at least two of them overlap, or there is one.

    Returns:
        The row without nodule_id and ratings.
    """
    mask = consensus(masks)
    _, y_mm, x_mm = volume.spacing_mm
    largest_mm2 = mask.voxels.sum(axis=(1, 2)).max() * y_mm * x_mm
    return {
        "patient_id": volume.patient_id,
        "series_id": volume.series_id,
        "diameter_mm": float(2 * np.sqrt(largest_mm2 / np.pi)),
        "num_readers": len(masks),
        "centre_index": [float(value) for value in np.argwhere(mask.voxels).mean(axis=0) + mask.start],
        "first_slice": int(mask.start[0]),
        "last_slice": int(mask.stop[0] - 1),
        "mask_start": mask.start.tolist(),
        "mask": mask.voxels.astype(np.uint8),
    }
