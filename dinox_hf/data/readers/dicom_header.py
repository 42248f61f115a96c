"""The header of one DICOM file: which slices it holds, where they lie, how their numbers become HU; no pixel."""

import hashlib
import math
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from pydicom.uid import UID_dictionary

from ..volume import Rejection
from .dicom_elements import Damage, Elements, read_elements
from .dicom_fragments import find_frames
from .dicom_frames import Frame, split_frames
from .dicom_kinds import CT_CLASSES, reject_other_images
from .files import RawFile, UnreadableFile
from .other_files import reject_other_file

# Without these a slice has no place or no HU, so a damaged file must not pass without one. The standard demands them
# of every CT image; it demands HighBit too, which a real chest CT lacks and which follows from the others.
NEEDED_TAGS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
)
# A tag can hold anything: a kernel is kept by name only if it looks like one of the makers' (B70f, Br40d, FC51, YA),
# else as a hash, which is enough to tell two apart.
KERNEL_NAMES = re.compile(
    r"[A-Z][a-z]?\d{1,2}[a-z]?|FC\d\d|Y?[A-F]|STANDARD|SOFT|DETAIL|LUNG|BONE|BONEPLUS|EDGE|CHEST"
)
UNTOLD = "#"


@dataclass(frozen=True, slots=True)
class SliceForm:
    """What all slices of one series share; one object for all of them, so that an index of many scans stays small."""

    patient_id: str
    series_id: str
    shape: tuple[int, int]  # rows, columns
    orientation: tuple[float, ...]  # direction of growing column index (3), then of growing row index (3)
    pixel_spacing_mm: tuple[float, float]  # between rows (y), between columns (x)
    thickness_mm: float | None
    kernel: str  # its name, or a hash of it
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    has_rescale: bool  # False: no slice says how its numbers become HU, so they must be HU
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What is needed to place one axial slice and to find and rescale its pixels."""

    file: RawFile
    form: SliceForm
    slice_uid: str
    position_mm: tuple[float, ...]  # (x, y, z) LPS of the centre of the first pixel
    slope: float
    intercept: float
    pixels_start: int  # byte where the pixels of this frame start: in the file, or in what a deflated one inflates to
    num_bytes: int  # of them, as stored


@dataclass(frozen=True, slots=True)
class BrokenSlice:
    """A file that was a slice of this series and is of no use: a series that holds one is refused as a whole."""

    file: RawFile
    patient_id: str
    series_id: str
    slice_uid: str
    reason: str
    advice: str


def read_header(file: RawFile) -> tuple[SliceHeader, ...] | BrokenSlice | Rejection:
    """Read the header of one file, or say why it holds no slice of a CT scan.

    Args:
        file: any file of the input folder.

    Returns:
        One header per frame (a classic file has one), a BrokenSlice if it belongs to a series but cannot be used, or a
        Rejection; never an exception from damaged bytes.
    """
    try:
        with file.open() as stream:
            start = stream.read(512)
            if not _looks_like_dicom(start):
                return reject_other_file(file, start)
            stream.seek(0)
            return _read(file, stream)
    except PermissionError:
        return UnreadableFile(file.name, "it may not be read", "Mend the permissions of the file.", loses="scan")
    except Damage as error:
        reason = f"its DICOM header is damaged ({error})"
    # A disk, an archive or damaged bytes can fail in any way at all; every one of them means the same to the user.
    # The error's text is not passed on, since it may quote a tag.
    except Exception as error:
        reason = f"it cannot be read ({type(error).__name__})"
    return UnreadableFile(file.name, reason, "Download the file again, or move it out of the input.", loses="scan")


def _looks_like_dicom(start: bytes) -> bool:
    # Old files lack the preamble and begin with an element of group 2 or 8, in either byte order.
    return start[128:132] == b"DICM" or start[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08")


def _read(file: RawFile, stream: BinaryIO) -> tuple[SliceHeader, ...] | BrokenSlice | Rejection:
    header = read_elements(stream)
    elements = header.elements
    if header.pixels is None and not elements.text("SOPClassUID") and not elements.text("Modality"):
        raise Damage("it ends before it says what it is")
    other = reject_other_images(file, elements)
    if other:
        return other
    identity = (*_patient_and_series(file, elements), _slice_uid(file, elements))
    try:
        frames = split_frames(elements)
        missing = _find_missing(frames)
        if missing:
            return _reject_incomplete(file, elements, identity, missing)
        form = _form(frames[0], *identity[:2], header.transfer_syntax)
        places = find_frames(stream, file.size(), header, form, len(frames))
        return tuple(
            _slice(file, frame, form, identity[2], *place) for frame, place in zip(frames, places, strict=True)
        )
    except Damage as error:
        return _broken(
            file, elements, identity, str(error), "Download the series again: a hole in a scan is not used."
        )


def _broken(
    file: RawFile, elements: Elements, identity: tuple, reason: str, advice: str
) -> BrokenSlice | UnreadableFile:
    if elements.text("SeriesInstanceUID"):
        return BrokenSlice(file, *identity, reason, advice)
    # Of whichever series lies beside it.
    return UnreadableFile(file.name, reason, advice, loses="scan")


def _find_missing(frames: list[Frame]) -> list[str]:
    """Attributes that a slice needs and that these lack.

    Slope and intercept are needed as a pair. Converters write HU and leave out both, in every slice of a series: then
    signed numbers count as HU. One of them alone, or neither in a multi-frame file, is damage.
    """
    missing = [name for name in NEEDED_TAGS if any(not frame.get(name) for frame in frames)]
    rescale = [name for name in ("RescaleSlope", "RescaleIntercept") if any(not frame.get(name) for frame in frames)]
    is_hu = len(rescale) == 2 and len(frames) == 1 and frames[0].whole("PixelRepresentation") == 1
    return missing if is_hu else missing + rescale


def _reject_incomplete(
    file: RawFile, elements: Elements, identity: tuple, missing: list[str]
) -> BrokenSlice | Rejection:
    what = "turned into HU" if missing[0].startswith("Rescale") else "placed in a scan"
    reason = f"CT image without {', '.join(missing)}, so it cannot be {what}"
    # Captures have classes of their own; what says it is CT, or nothing intelligible, was once a slice.
    if elements.text("SOPClassUID") in CT_CLASSES or elements.text("SOPClassUID") not in UID_dictionary:
        return _broken(file, elements, identity, reason, "A slice was cut off or stripped: get the series again.")
    return Rejection(file.name, reason, "Nothing to do for a screen capture.")


def _patient_and_series(file: RawFile, elements: Elements) -> tuple[str, str]:
    study_id = elements.text("StudyInstanceUID")
    series_id = elements.text("SeriesInstanceUID")
    if not series_id:
        # What lies together in one folder and study, under one number.
        together = os.path.dirname(file.name), study_id, elements.text("SeriesNumber")
        series_id = f"unnamed-{_hash(chr(0).join(together))}"
    # Without PatientID, a study stands for one unknown patient: never merged with anybody else's scans.
    return elements.text("PatientID") or f"unknown-{_hash(study_id or series_id)}", series_id


def _slice_uid(file: RawFile, elements: Elements) -> str:
    return elements.text("SOPInstanceUID") or f"unnamed-{_hash(file.name)}"


def _hash(text: str) -> str:
    # File names may hold bytes that are no text.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _form(elements: Elements, patient_id: str, series_id: str, transfer_syntax: str) -> SliceForm:
    bits_allocated, bits_stored = elements.whole("BitsAllocated"), elements.whole("BitsStored")
    high_bit = elements.whole("HighBit")
    if high_bit is None and bits_stored == bits_allocated:
        high_bit = bits_stored - 1
    if bits_allocated not in (8, 16, 32):
        raise Damage("its numbers should have 8, 16 or 32 bits; found another BitsAllocated")
    if not 1 <= bits_stored <= bits_allocated or high_bit not in range(bits_stored - 1, bits_allocated):
        raise Damage("BitsAllocated, BitsStored and HighBit contradict each other")
    if elements.whole("PixelRepresentation") not in (0, 1):
        raise Damage("PixelRepresentation is neither 0 nor 1")
    is_grey = elements.text("PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    if not is_grey or elements.whole("SamplesPerPixel", 1) != 1:
        raise Damage("its numbers are colours, or PhotometricInterpretation and SamplesPerPixel are damaged")
    if "ModalityLUTSequence" in elements:
        raise Damage("a lookup table, not slope and intercept, gives its HU")
    if "FloatPixelData" in elements or "DoubleFloatPixelData" in elements:
        raise Damage("its pixels are fractions (FloatPixelData), which no scanner stores")
    thickness = elements.decimals("SliceThickness")
    return _shared(
        SliceForm(
            patient_id=patient_id,
            series_id=series_id,
            shape=(elements.whole("Rows"), elements.whole("Columns")),
            orientation=_orientation(elements),
            pixel_spacing_mm=_pixel_spacing(elements),
            thickness_mm=round(thickness[0], 3) if len(thickness) == 1 else None,
            kernel=_kernel(elements),
            bits_allocated=bits_allocated,
            bits_stored=bits_stored,
            high_bit=high_bit,
            is_signed=elements.whole("PixelRepresentation") == 1,
            has_rescale=bool(elements.get("RescaleSlope")),
            transfer_syntax=transfer_syntax,
        )
    )


@lru_cache(maxsize=256)
def _shared(form: SliceForm) -> SliceForm:
    """The first form equal to this one: slices of a series then travel and lie in memory with one."""
    return form


def _slice(
    file: RawFile, elements: Elements, form: SliceForm, file_uid: str, pixels_start: int, num_bytes: int
) -> SliceHeader:
    slope, intercept = 1.0, 0.0
    if form.has_rescale:
        (slope,), (intercept,) = _numbers(elements, "RescaleSlope", 1), _numbers(elements, "RescaleIntercept", 1)
    if slope == 0:
        raise Damage("RescaleSlope is 0, so every number means the same")
    orientation, spacing = _orientation(elements), _pixel_spacing(elements)
    if (orientation, spacing) != (form.orientation, form.pixel_spacing_mm):
        form = _shared(replace(form, orientation=orientation, pixel_spacing_mm=spacing))
    return SliceHeader(
        file=file,
        form=form,
        slice_uid=elements.frame_uid or file_uid,
        position_mm=_numbers(elements, "ImagePositionPatient", 3),
        slope=slope,
        intercept=intercept,
        pixels_start=pixels_start,
        num_bytes=num_bytes,
    )


def _numbers(elements: Elements, keyword: str, count: int) -> tuple[float, ...]:
    numbers = elements.decimals(keyword)
    if len(numbers) != count:
        raise Damage(f"{keyword} should hold {count} numbers; found {len(numbers)}")
    return numbers


def _pixel_spacing(elements: Elements) -> tuple[float, float]:
    spacing = _numbers(elements, "PixelSpacing", 2)
    if not all(1e-3 < value < 100 for value in spacing):
        raise Damage("PixelSpacing is no distance between pixels of a scan")
    return spacing


def _kernel(elements: Elements) -> str:
    name = elements.text("ConvolutionKernel") or "none stated"
    return name if name == "none stated" or KERNEL_NAMES.fullmatch(name) else UNTOLD + _hash(name)


def _orientation(elements: Elements) -> tuple[float, ...]:
    orientation = _numbers(elements, "ImageOrientationPatient", 6)
    column_axis, row_axis = np.array(orientation).reshape(2, 3)
    lengths = math.sqrt(column_axis @ column_axis), math.sqrt(row_axis @ row_axis)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(column_axis @ row_axis)) > 0.01:
        raise Damage("ImageOrientationPatient should hold two perpendicular directions of length 1; found others")
    return orientation
