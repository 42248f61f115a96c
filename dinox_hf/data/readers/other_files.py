"""Files that are no scan: what they look like, and whether a scan may be lost with them."""

import re
from pathlib import PurePosixPath

from ..volume import Rejection
from .files import RawFile, UnreadableFile

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
# First bytes of what lies beside scans, and of what people take for scans.
KNOWN_STARTS = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"SQLite format": "a database",
}
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
EMPTY, UNKNOWN = "an empty file", "unknown bytes"
WEB_PAGE, LFS_POINTER = (
    "a web page, as servers send instead of a file",
    "a pointer of git-lfs, whose content has not been fetched",
)
WHAT_DOWNLOADS_LEAVE = (EMPTY, UNKNOWN, WEB_PAGE, LFS_POINTER)  # where one that failed should have left a slice
# Scans in formats that exist, but that we do not read.
FOREIGN_SUFFIXES = (".hdr", ".img", ".mgz", ".mgh", ".mnc", ".par", ".rec", ".vtk", ".mha.gz", ".nrrd.gz")


def reject_other_file(file: RawFile, start: bytes) -> Rejection:
    """Say what a file is that is neither DICOM nor a volume.

    What could hold slices – a file named like DICOM, an archive, unknown bytes under a name without a telling suffix –
    loses a scan: a hole that nobody hears of is worse than a build that stops. Text, pictures and tables lose nothing.

    Args:
        file: the file.
        start: its first bytes, some hundred.

    Returns:
        The Rejection.
    """
    name = PurePosixPath(file.name).name.lower()
    suffix = PurePosixPath(name).suffix
    what = _what_it_looks_like(start)
    if name.endswith(DICOM_SUFFIXES):
        return UnreadableFile(
            file.name, f"named like a DICOM file, but is none: {what}", "Download the file again.", loses="scan"
        )
    if name.endswith(ARCHIVE_SUFFIXES) or what.endswith("archive"):
        kind = what if what.endswith("archive") else "an archive"
        return Rejection(
            file.name,
            f"not a DICOM file: {kind}, which is not opened here",
            "Unpack it, or name it .zip if it is one; a lone .gz file is read if it is a .nii.gz.",
            loses="scan",
        )
    if name.endswith(FOREIGN_SUFFIXES):
        return Rejection(
            file.name,
            "a volume in a format that is not read here",
            "Convert it to .nii.gz, .nrrd or .mha, if it is a CT scan.",
            loses="scan",
        )
    if what in WHAT_DOWNLOADS_LEAVE and _could_name_a_slice(file.name, suffix):
        return UnreadableFile(
            file.name,
            f"not a DICOM file, though its name could be that of a slice: {what}",
            "Download the file again, or move it out of the input if it is no slice.",
            loses="scan",
        )
    # One reason for all of them, so that a report counts them together.
    return Rejection(file.name, "not a DICOM file", f"Nothing to do, if it is not meant to be a scan: it is {what}.")


def _could_name_a_slice(path: str, suffix: str) -> bool:
    """Whether a scanner may have named a slice so: "IM000001", "1.3.6.1.4.1", where the number is no suffix."""
    # Systems keep their own files under names that begin with a dot (.DS_Store), and jobs leave marks (_SUCCESS).
    is_systems = re.search(r"(^|/)[._]", path) is not None
    return not is_systems and (not suffix or re.fullmatch(r"\.\d+", suffix) is not None)


def _what_it_looks_like(start: bytes) -> str:
    for magic, what in KNOWN_STARTS.items():
        if start.startswith(magic):
            return what
    if not start:
        return EMPTY
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"version https://git-lfs"):
        return LFS_POINTER
    if text[:15].lower().startswith((b"<!doctype html", b"<html")):
        return WEB_PAGE
    if text.startswith(b"<"):
        return "XML, read as annotations where it holds any"
    # Control characters do not occur in text of any encoding that we meet.
    return UNKNOWN if re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", start) else "text"
