"""Pixels of one DICOM slice in Hounsfield units: stored numbers, decoded where compressed, then rescaled."""

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom import config, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless

from ..volume import Rejection
from .dicom_header import SliceHeader
from .files import RawFile

INT16 = np.iinfo(np.int16)
# What pydicom decodes without a plug-in; everything else goes to SimpleITK, which brings its own JPEG codecs.
PYDICOM_SYNTAXES = (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless)


def read_slice_hu(header: SliceHeader) -> np.ndarray | Rejection:
    """Read the pixels of one slice in HU.

    Args:
        header: of the slice.

    Returns:
        (rows, columns) int16 as stored in the file, or a Rejection; never an exception from damaged bytes.
    """
    try:
        if header.pixel_offset is not None:
            hu = to_hu(_plain_pixels(header), header.slope, header.intercept)
        elif header.transfer_syntax in PYDICOM_SYNTAXES:
            hu = to_hu(_decode_with_pydicom(header), header.slope, header.intercept)
        else:
            hu = _decode_with_itk(header.file)
        if hu.shape != header.shape:
            return _unreadable(header, f"decoded to {hu.shape}, declared as {header.shape}")
        return hu
    # A codec fails on damaged bytes in any way at all; every one of them means the same to the user.
    except Exception as error:
        return _unreadable(header, f"{type(error).__name__} in transfer syntax {header.transfer_syntax}")


def to_hu(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Turn stored numbers into Hounsfield units: HU = stored * slope + intercept.

    Values are rounded to whole HU where slope or intercept is no integer, and clipped to int16 where they leave its
    range (a fill of -32768 with intercept -1024): nothing in a body is there.

    Args:
        stored: integers as the scanner wrote them.
        slope: RescaleSlope.
        intercept: RescaleIntercept, HU.

    Returns:
        int16 of the same shape.
    """
    if slope == 1 and intercept == int(intercept):
        hu = stored.astype(np.int32)
        hu += int(intercept)
    else:
        hu = np.rint(stored * slope + intercept)
    return np.clip(hu, INT16.min, INT16.max).astype(np.int16)


def _plain_pixels(header: SliceHeader) -> np.ndarray:
    dtype = np.dtype(f"<{'i' if header.is_signed else 'u'}{header.bits_allocated // 8}")
    num_bytes = header.shape[0] * header.shape[1] * dtype.itemsize
    with header.file.open() as stream:
        stream.seek(header.pixel_offset)
        pixels = np.frombuffer(stream.read(num_bytes), dtype).reshape(header.shape)
    return _without_unused_bits(pixels, header)


def _without_unused_bits(pixels: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Drop bits above the stored ones: old scanners keep overlays there. The right shift restores the sign."""
    unused_above = header.bits_allocated - 1 - header.high_bit
    unused = header.bits_allocated - header.bits_stored
    return (pixels << unused_above) >> unused if unused else pixels


def _decode_with_pydicom(header: SliceHeader) -> np.ndarray:
    with header.file.open() as stream, config.disable_value_validation():
        return dcmread(stream, force=True).pixel_array


def _decode_with_itk(file: RawFile) -> np.ndarray:
    """Decode with SimpleITK, which applies slope and intercept itself. It reads paths only."""
    if file.member is None:
        return _itk_hu(file.root / file.path)
    with tempfile.NamedTemporaryFile(suffix=".dcm") as copy:
        copy.write(file.read_bytes())
        copy.flush()
        return _itk_hu(Path(copy.name))


def _itk_hu(path: Path) -> np.ndarray:
    hu = np.rint(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).squeeze(0))
    return np.clip(hu, INT16.min, INT16.max).astype(np.int16)


def _unreadable(header: SliceHeader, reason: str) -> Rejection:
    return Rejection(header.file.name, f"{header.file.name} ({reason})", "Download the series again.", loses_scan=True)
