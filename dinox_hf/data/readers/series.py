"""read_series: whatever lies in a folder, as volumes and as reasons."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..volume import Rejection, Volume
from .dicom import DicomEntry, index_dicom
from .dicom_header import read_header
from .files import RawFile, list_files, require_input
from .itk import DETACHED_SUFFIXES, ITK_SUFFIXES, VolumeFile, read_volume_header
from .scan import Scan

Entry = DicomEntry | VolumeFile  # what one file of the input is


def read_series(path: str | Path, max_gap_mm: float | None = None) -> Iterator[Volume | Rejection]:
    """Read every scan below a folder – DICOM, NIfTI, NRRD, MetaImage – and say for every other file why it is none.

    Args:
        path: a folder (zip archives in it are read in place), an archive, or a file.
        max_gap_mm: accept uneven gaps between DICOM slices up to this size; None refuses them.

    Yields:
        A `Volume` per scan, one in memory at a time: (Z, Y, X) int16, HU for CT, with its millimetres. And a
        `Rejection` per file or series that gave none.

    Raises:
        ValueError: if there is nothing at `path`.
    """
    require_input(Path(path))
    scans, rejections = index_series(map(read_entry, list_files(Path(path))), max_gap_mm)
    yield from (scan.load() for scan in scans)
    yield from rejections


def read_entry(file: RawFile | Rejection) -> Entry:
    """Header of a listed file; a file that could not even be listed stays the Rejection it is."""
    if isinstance(file, Rejection):
        return file
    if file.name.lower().endswith(ITK_SUFFIXES):
        return read_volume_header(file)
    if file.name.lower().endswith(DETACHED_SUFFIXES):
        return Rejection(
            file.name,
            "numbers without a header (.mhd, .nhdr) that names them",
            "Put the header beside them, or get it again.",
            loses="scan",
        )
    return read_header(file)


def index_series(entries: Iterable[Entry], max_gap_mm: float | None = None) -> tuple[list[Scan], list[Rejection]]:
    """Sort entries into scans, ordered by patient and series, and collect what was refused.

    Args:
        entries: what `read_entry` gave for each file.
        max_gap_mm: accept uneven gaps between DICOM slices up to this size; None refuses them.

    Returns:
        Scans whose voxels are not read yet, and what gave none. The numbers of a volume that lie beside its header are
        no file of their own.
    """
    volumes: list[Scan] = []

    def others() -> Iterator[DicomEntry]:
        for entry in entries:
            if isinstance(entry, VolumeFile):
                volumes.append(entry)
            else:
                yield entry

    stacks, rejections = index_dicom(others(), max_gap_mm)
    detached = {file.name for volume in volumes for file in volume.files}
    rejections = [rejection for rejection in rejections if rejection.path not in detached]
    return sorted([*stacks, *volumes], key=lambda scan: (scan.patient_id, scan.series_id)), rejections
