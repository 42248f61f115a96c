"""read_series: whatever lies in a folder, as volumes and as reasons."""

from collections.abc import Iterator
from pathlib import Path

from ..volume import Rejection, Volume
from .dicom import index_dicom, load_volume, read_entry
from .files import list_files, require_input
from .itk import DETACHED_SUFFIXES, ITK_SUFFIXES, read_itk_volume


def read_series(path: str | Path, max_gap_mm: float | None = None) -> Iterator[Volume | Rejection]:
    """Read every scan below a folder – DICOM, NIfTI, NRRD, MetaImage – and say for every other file why it is none.

    Args:
        path: a folder (zip archives in it are read in place), an archive, or a file.
        max_gap_mm: accept uneven gaps between DICOM slices up to this size; None refuses them.

    Yields:
        A `Volume` per scan, one in memory at a time, and a `Rejection` per file or series that gave none.

    Raises:
        ValueError: if there is nothing at `path`.
    """
    require_input(Path(path))
    others = []
    for entry in list_files(Path(path)):
        name = entry.path.lower() if isinstance(entry, Rejection) else entry.name.lower()
        if not isinstance(entry, Rejection) and name.endswith(ITK_SUFFIXES):
            yield read_itk_volume(entry)
        elif not name.endswith(DETACHED_SUFFIXES):
            others.append(entry)
    stacks, rejections = index_dicom(map(read_entry, others), max_gap_mm)
    yield from map(load_volume, stacks)
    yield from rejections
