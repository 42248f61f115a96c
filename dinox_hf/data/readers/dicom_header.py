"""One pydicom pass per file: what a slice is, where it lies, and where its pixels start. No pixel is read here."""

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from pydicom import Dataset, config, dcmread
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian

from ..volume import Rejection
from .files import RawFile

# The only attributes that are ever read: no name, birth date, institution or free text can leave the reader.
# Of the patient there is PatientID alone, which in a public collection is its pseudonym.
ALLOWED_TAGS = [
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "ImageType"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames"),
    *("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "PhotometricInterpretation"),
]
PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"
UNDEFINED_LENGTH = b"\xff\xff\xff\xff"
SEQUENCE_END_TAG = b"\xfe\xff\xdd\xe0"


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What is needed to place one axial slice and to find and rescale its pixels."""

    file: RawFile
    patient_id: str
    series_id: str
    slice_uid: str
    position_mm: tuple[float, ...]  # (x, y, z) LPS of the centre of the first pixel
    orientation: tuple[float, ...]  # direction of growing column index (3), then of growing row index (3)
    pixel_spacing_mm: tuple[float, float]  # between rows (y), between columns (x)
    shape: tuple[int, int]  # rows, columns
    slope: float
    intercept: float
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    transfer_syntax: str
    pixel_offset: int | None  # byte where plain little-endian pixels start; None: they need a decoder
    damage: str | None = None  # why the pixels cannot be whole, seen without decoding them


def read_header(file: RawFile) -> SliceHeader | Rejection:
    """Read the header of one file, or say why it is no slice of a CT scan.

    Args:
        file: any file of the input folder.

    Returns:
        The header (with `damage` set if pixels are cut off), or a Rejection; never an exception from damaged bytes.
    """
    try:
        with file.open() as stream:
            if not _looks_like_dicom(stream):
                return _not_dicom(file)
            # Odd decimal strings such as "006.445312e-01" are read as numbers, without a warning for each.
            with config.disable_value_validation():
                dataset = dcmread(stream, force=True, stop_before_pixels=True, specific_tags=ALLOWED_TAGS)
                return _reject_other_images(file, dataset) or _slice_header(file, dataset, stream)
    except PermissionError:
        return Rejection(file.name, "it may not be read", "Mend the permissions of the file.", loses_scan=True)
    # Damaged bytes make a parser fail in any way at all; every one of them means the same to the user.
    # The error's text is not passed on, since it may quote a tag.
    except Exception as error:
        return Rejection(
            file.name,
            f"its DICOM header is damaged ({type(error).__name__})",
            "Download the file again.",
            loses_scan=True,
        )


def _looks_like_dicom(stream: BinaryIO) -> bool:
    start = stream.read(132)
    stream.seek(0)
    # Old files lack the preamble and begin with an element of group 2 or 8, in either byte order.
    return start[128:] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def _not_dicom(file: RawFile) -> Rejection:
    if PurePosixPath(file.name).suffix.lower() in (".dcm", ".dicom", ".ima"):
        return Rejection(
            file.name, "named like a DICOM file, but is none", "Download the file again.", loses_scan=True
        )
    return Rejection(file.name, "not a DICOM file", "Nothing to do, if it is not meant to be a scan.")


def _reject_other_images(file: RawFile, dataset: Dataset) -> Rejection | None:
    """Say what the file is if it holds something else than one slice of a CT scan."""
    if not dataset:
        raise ValueError("a DICOM file should hold elements; found none")
    modality = dataset.get("Modality") or ("CT" if _is_ct_without_modality(dataset) else "none stated")
    image_type = [str(word).upper() for word in dataset.get("ImageType") or ()]
    if "Rows" not in dataset and modality != "CT":
        return Rejection(file.name, f"DICOM without an image (modality {modality})", "Nothing to do.")
    if modality != "CT":
        return Rejection(file.name, f"modality {modality}, not CT", "Nothing to do, if only CT is wanted.")
    if "LOCALIZER" in image_type or "SCOUT" in image_type:
        return Rejection(file.name, "a localizer, not a slice", "Nothing to do.")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        return Rejection(file.name, "a colour picture, not a slice with CT numbers", "Nothing to do.")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        return Rejection(
            file.name,
            f"multi-frame CT with {dataset.NumberOfFrames} frames in one file, which this reader does not take",
            "Export the series as one file per slice (classic CT Image Storage).",
            loses_scan=True,
        )
    return None


def _is_ct_without_modality(dataset: Dataset) -> bool:
    # Anonymisers drop Modality; CT numbers still show in the SOP class, or in a rescale to HU.
    return _sop_class(dataset) == CTImageStorage or (not _sop_class(dataset) and "RescaleIntercept" in dataset)


def _sop_class(dataset: Dataset) -> str:
    return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")


def _slice_header(file: RawFile, dataset: Dataset, stream: BinaryIO) -> SliceHeader | Rejection:
    missing = [
        name
        for name in (
            "Rows",
            "Columns",
            "BitsAllocated",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
        )
        if dataset.get(name) in (None, "")
    ]
    if missing:
        return Rejection(
            file.name,
            f"CT image without {', '.join(missing)}, so it cannot be placed in a scan",
            "Nothing to do for a screen capture; a slice was cut off or stripped: get the series again.",
            # Captures and reports have other SOP classes: a CT image without geometry was once a slice.
            loses_scan=_sop_class(dataset) in (CTImageStorage, ""),
        )
    syntax, offset, damage = _find_pixels(dataset, stream)
    bits_stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    # A series without UID is what lies together in one folder.
    series_id = str(dataset.get("SeriesInstanceUID") or "") or f"unnamed-{_hash(os.path.dirname(file.name))}"
    return SliceHeader(
        file=file,
        # Without PatientID, a study stands for one unknown patient: never merged with anybody else's scans.
        patient_id=str(dataset.get("PatientID") or "").strip()
        or f"unknown-{_hash(str(dataset.get('StudyInstanceUID') or series_id))}",
        series_id=series_id,
        slice_uid=str(dataset.get("SOPInstanceUID") or ""),
        position_mm=_numbers(dataset.ImagePositionPatient, 3),
        orientation=_numbers(dataset.ImageOrientationPatient, 6),
        pixel_spacing_mm=_numbers(dataset.PixelSpacing, 2),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        slope=float(dataset.get("RescaleSlope", 1) or 1),
        intercept=float(dataset.get("RescaleIntercept", 0) or 0),
        bits_allocated=int(dataset.BitsAllocated),
        bits_stored=bits_stored,
        high_bit=int(dataset.get("HighBit") or bits_stored - 1),
        is_signed=bool(dataset.get("PixelRepresentation")),
        transfer_syntax=syntax,
        pixel_offset=offset,
        damage=damage,
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _numbers(values, count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"a geometry tag should hold {count} finite numbers; found {len(numbers)}")
    return numbers


def _find_pixels(dataset: Dataset, stream: BinaryIO) -> tuple[str, int | None, str | None]:
    """Transfer syntax, byte offset of plain little-endian pixels, and what is wrong with them, if it shows here."""
    is_implicit, is_little_endian = dataset.original_encoding
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if syntax == DeflatedExplicitVRLittleEndian or not is_little_endian:
        return syntax, None, None
    # pydicom stops in front of the pixel element, whose header holds tag, length and (explicit VR) four bytes more.
    header = stream.read(8 if is_implicit else 12)
    start, size = stream.tell(), stream.seek(0, os.SEEK_END)
    if header[:4] != PIXEL_DATA_TAG:
        return syntax, None, "it ends before its pixels"
    if header[-4:] == UNDEFINED_LENGTH:
        return syntax, None, None if _is_closed(stream, start, size) else "its compressed pixels are cut off"
    expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
    found = min(int.from_bytes(header[-4:], "little"), size - start)
    damage = f"its pixels end after {found:,} of {expected:,} bytes" if found < expected else None
    return syntax, start, damage


def _is_closed(stream: BinaryIO, start: int, size: int) -> bool:
    """Walk the fragments of compressed pixels: a whole file ends them with a sequence delimiter."""
    while start + 8 <= size:
        stream.seek(start)
        item = stream.read(8)
        if item[:4] == SEQUENCE_END_TAG:
            return True
        start += 8 + int.from_bytes(item[4:], "little")
    return False
