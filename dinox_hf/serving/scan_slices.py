"""The slices of one scan, read when they are asked for: a DICOM series is never in memory as a whole."""

import zlib
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from ..data.readers.dicom import Stack
from ..data.readers.dicom_pixels import read_slice_hu
from ..data.readers.files import list_files, require_input
from ..data.readers.scan import Scan
from ..data.readers.series import index_series, read_entry
from ..data.slices import neighbour_indices
from ..data.volume import DARKEST_TISSUE_HU, Rejection, Volume, find_padding_hu

_SLICES_KEPT = 16  # in memory, since a slice is also its neighbours' neighbour


class ScanSlices:
    """One CT scan whose slices are read one at a time.

    Args:
        read: gives slice z from the feet as (H, W) int16 HU.
        shape: (Z, H, W).
        affine_lps: (4, 4) index (x, y, z) to millimetres.
        z_mm: (Z,) positions along the normal, increasing.
        series_id: SeriesInstanceUID, or what stands for it.
        patient_id: the collection's pseudonym.
        padding_hu: the fill outside the field of view, where the caller knows it; else it is looked for.
    """

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        shape: tuple[int, int, int],
        affine_lps: np.ndarray,
        z_mm: np.ndarray,
        series_id: str,
        patient_id: str,
        padding_hu: int | None = None,
    ) -> None:
        self.read = lru_cache(_SLICES_KEPT)(read)
        self.shape, self.affine_lps, self.z_mm = tuple(map(int, shape)), np.asarray(affine_lps), np.asarray(z_mm)
        self.series_id, self.patient_id, self._known_padding_hu = series_id, patient_id, padding_hu

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.read(index) for index in range(len(self)))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels, (z, y, x)."""
        x_mm, y_mm, z_mm = np.linalg.norm(self.affine_lps[:3, :3], axis=0)
        return float(z_mm), float(y_mm), float(x_mm)

    @property
    def padding_hu(self) -> int | None:
        """The fill outside the scanner's field of view, as stored; None if there is none."""
        return self._survey[0] if self._known_padding_hu is None else self._known_padding_hu

    @property
    def checksum(self) -> str:
        """Eight hex digits of all voxels: another scan, or the same after a change, has others."""
        return self._survey[1]

    def around(self, index: int, channels: str, apart_mm: float | None = None) -> np.ndarray:
        """What a network takes for a slice: (1, H, W), or (3, H, W) with the slices below and above.

        Args:
            index: number of the slice, from the feet.
            channels: "windows" or "neighbours", as the processor says.
            apart_mm: distance of the neighbours; None for the adjacent slices. At the ends the outermost slice
                stands for those that are not there.
        """
        if channels == "windows":
            return self.read(index)[None]
        below, above = neighbour_indices(index, len(self), self.z_mm, apart_mm)
        return np.stack([self.read(below), self.read(index), self.read(above)])

    @cached_property
    def _survey(self) -> tuple[int | None, str]:
        """Fill and checksum, from one pass over all slices."""
        checksum, darkest = 0, np.inf

        def passed() -> Iterator[np.ndarray]:
            nonlocal checksum, darkest
            for slice_hu in self:
                checksum, darkest = zlib.crc32(slice_hu.tobytes(), checksum), min(darkest, slice_hu.min())
                yield slice_hu

        padding_hu = find_padding_hu(passed())
        if darkest >= DARKEST_TISSUE_HU:
            raise ValueError(
                f"A CT scan should show air, far below 0 HU; found nothing below {darkest} HU in series "
                f"{self.series_id}. If an offset was added, subtract it; MR and label maps are no CT."
            )
        return padding_hu, f"{checksum:08x}"


def open_scan(
    source: str | Path | Volume | ScanSlices, series_id: str | None = None, max_gap_mm: float | None = None
) -> ScanSlices:
    """Open the one scan at a place, or a volume that is in memory already.

    Slices of DICOM are decoded when they are asked for; NIfTI, NRRD and MetaImage are read as a whole.

    Args:
        source: a folder, a zip archive, a file, a `Volume`, or a scan that is open.
        series_id: which one, where there are several.
        max_gap_mm: accept uneven gaps between DICOM slices up to this size; None refuses them.

    Raises:
        ValueError: if there is no scan, or more than one and none is named, or it is no CT.
    """
    if isinstance(source, ScanSlices):
        return source
    if isinstance(source, Volume):
        return _of_volume(source)
    require_input(Path(source))
    scans, rejections = index_series(map(read_entry, list_files(Path(source))), max_gap_mm)
    scan = _choose(scans, rejections, Path(source), series_id)
    if isinstance(scan, Stack):
        return _of_stack(scan)
    volume = scan.load()
    if isinstance(volume, Rejection):
        raise ValueError(f"Expected a CT scan at {source}; found {volume.path}: {volume.reason}. {volume.advice}")
    return _of_volume(volume)


def voxel_at(point_mm: tuple[float, float, float], affine_lps: np.ndarray) -> tuple[float, float, float]:
    """Index (z, y, x) of a scan, between voxels too, of a point (x, y, z) in the patient's millimetres, LPS."""
    x, y, z, _ = np.linalg.solve(affine_lps, [*point_mm, 1.0])
    return float(z), float(y), float(x)


def refuse_outside(voxel: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    """Stop at a point (z, y, x) that is not in a scan of this shape.

    Raises:
        ValueError: saying where it lies.
    """
    if not all(-0.5 <= index <= size - 0.5 for index, size in zip(voxel, shape, strict=True)):
        found = ", ".join(f"{index:.1f}" for index in voxel)
        raise ValueError(
            f"A point should lie in the scan of {tuple(shape)} voxels (z, y, x); found voxel ({found}). Points in "
            f"millimetres are (x, y, z) in LPS, as DICOM has them; in RAS, turn the signs of x and y."
        )


def _choose(scans: list[Scan], rejections: list[Rejection], source: Path, series_id: str | None) -> Scan:
    if series_id is not None:
        named = [scan for scan in scans if scan.series_id == series_id]
        scans = named or scans
        if len(named) == 1:
            return named[0]
    if not scans:
        lost = [rejection for rejection in rejections if rejection.loses == "scan"] or rejections
        found = f"{lost[0].path}: {lost[0].reason}. {lost[0].advice}" if lost else "an empty folder. Check the path."
        raise ValueError(f"Expected a CT scan at {source}; found {found}")
    if len(scans) > 1 or series_id is not None:
        listed = "; ".join(f"{scan.series_id} ({scan.num_slices} slices)" for scan in scans[:8])
        wanted = "one scan" if series_id is None else f"series {series_id}"
        raise ValueError(
            f"Expected {wanted} at {source}; found {len(scans)}: {listed}. Name one of them as series_id "
            f"(--series=…), or give its own folder."
        )
    return scans[0]


def _of_volume(volume: Volume) -> ScanSlices:
    if volume.modality != "ct":
        raise ValueError(
            f"A backbone for CT takes HU; found a volume of modality {volume.modality!r} ({volume.series_id}). Its "
            f"windows mean nothing there."
        )
    voxels = volume.voxels
    if voxels.ndim != 3 or voxels.dtype != np.int16:
        raise ValueError(
            f"Voxels should be (Z, Y, X) int16 HU; found {voxels.shape} {voxels.dtype}. read_series gives them so."
        )
    place = (volume.affine_lps, volume.z_mm, volume.series_id, volume.patient_id)
    return ScanSlices(voxels.__getitem__, voxels.shape, *place, volume.padding_hu)


def _of_stack(stack: Stack) -> ScanSlices:
    """A DICOM series in the axes of `Volume`, slice by slice."""
    placement = stack.placement
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in placement.flips)

    def read(index: int) -> np.ndarray:
        stored = read_slice_hu(placement.headers[index])
        if isinstance(stored, Rejection):
            raise ValueError(
                f"Every slice of series {stack.series_id} should be readable; found {stored.path}: {stored.reason}. "
                f"{stored.advice}"
            )
        return np.ascontiguousarray((stored.T if placement.is_transposed else stored)[steps])

    rows, columns = placement.headers[0].form.shape
    plane = (columns, rows) if placement.is_transposed else (rows, columns)
    place = (placement.affine_lps, placement.z_mm, stack.series_id, stack.patient_id)
    return ScanSlices(read, (stack.num_slices, *plane), *place)
