"""Pixels of DICOM slices in Hounsfield units: stored numbers, decoded where compressed, then rescaled."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from ..volume import AIR_HU, Rejection
from .dicom_codecs import decode_jpeg, decode_rle
from .dicom_elements import BIG_ENDIAN, DEFLATED, Damage, inflate_data_set
from .dicom_fragments import PLAIN_SYNTAXES, RLE
from .dicom_header import SliceHeader
from .files import RawFile

INT16 = np.iinfo(np.int16)


def read_slices_hu(headers: Sequence[SliceHeader], voxels: np.ndarray) -> Rejection | None:
    """Read the pixels of slices in HU, each file once.

    Args:
        headers: of the slices.
        voxels: (Z, rows, columns) int16 to be filled; may be a turned view.

    Returns:
        None, or a Rejection; never an exception from damaged bytes.
    """
    by_file: dict[RawFile, list[int]] = defaultdict(list)
    for index, header in enumerate(headers):
        by_file[header.file].append(index)
    for file, indices in by_file.items():
        try:
            indices.sort(key=lambda index: headers[index].pixels_start)
            for index, data in zip(indices, _read_frames(file, [headers[index] for index in indices]), strict=True):
                header = headers[index]
                to_hu(_decode(data, header), header.slope, header.intercept, voxels[index])
        # A codec fails on damaged bytes in any way at all; every one of them means the same to the user.
        except Exception as error:
            return _unreadable(file, error)
    return None


def read_slice_hu(header: SliceHeader) -> np.ndarray | Rejection:
    """Read one slice: (rows, columns) int16 HU as stored, or a Rejection.

    Memory is taken for what is decoded, not for what the header declares.
    """
    try:
        (data,) = _read_frames(header.file, [header])
        return to_hu(_decode(data, header), header.slope, header.intercept)
    # As above.
    except Exception as error:
        return _unreadable(header.file, error)


def to_hu(stored: np.ndarray, slope: float, intercept: float, out: np.ndarray | None = None) -> np.ndarray:
    """Turn stored numbers into Hounsfield units: HU = stored * slope + intercept.

    Values are rounded to whole HU where slope or intercept is no integer. Nothing in a body leaves the range of int16,
    so what does is a fill, and a fill must not look like bone: an unsigned number that is too high is read as the
    negative one with the same bits (63536 as -2000, which is what writers of unsigned files mean by it); what still is
    out of range becomes the lowest number, -32768. What is no number at all (NaN) becomes air.

    Args:
        stored: numbers as the scanner wrote them.
        slope: RescaleSlope.
        intercept: RescaleIntercept, HU.
        out: int16 array of the same shape to write to; None makes one.

    Returns:
        int16 of the same shape.
    """
    out = np.empty(stored.shape, np.int16) if out is None else out
    if slope == 1 and intercept == int(intercept) and stored.dtype.kind in "iu":
        low, high = int(stored.min()) + intercept, int(stored.max()) + intercept
        if low >= INT16.min and high <= INT16.max:
            # Sums of 16 bits wrap around and back again, so they are right whenever the result fits.
            return np.add(stored.astype(np.int16, copy=False), np.int64(intercept).astype(np.int16), out=out)
    hu = np.rint(stored * np.float64(slope) + intercept)
    too_high = hu > INT16.max
    if too_high.any() and stored.dtype.kind == "u":
        signed = stored.view(f"i{stored.dtype.itemsize}")
        hu[too_high] = np.rint(signed[too_high] * np.float64(slope) + intercept)
    hu[np.isnan(hu)] = AIR_HU
    hu[(hu > INT16.max) | (hu < INT16.min)] = INT16.min
    out[...] = hu
    return out


def _read_frames(file: RawFile, headers: list[SliceHeader]) -> Iterator[bytes]:
    """Bytes of frames of one file in stored order, from one pass over it."""
    with file.open() as stream:
        if headers[0].form.transfer_syntax == DEFLATED:
            data, _ = inflate_data_set(stream, headers[-1].pixels_start + headers[-1].num_bytes)
            yield from (data[header.pixels_start :][: header.num_bytes] for header in headers)
            return
        position = 0
        for header in headers:
            if file.member is None:
                stream.seek(header.pixels_start)
            else:
                # Read, not skipped: the archive's checksum needs every byte.
                _skip(stream, header.pixels_start - position)
            yield stream.read(header.num_bytes)
            position = header.pixels_start + header.num_bytes
        if file.member is not None:
            _skip(stream, file.size() - position)


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0:
        skipped = len(stream.read(min(count, 1 << 20)))
        if not skipped:
            raise Damage("it ends before its pixels do")
        count -= skipped


def _decode(data: bytes, header: SliceHeader) -> np.ndarray:
    """(rows, columns) stored numbers of one frame."""
    form = header.form
    if len(data) != header.num_bytes:
        raise Damage("it ends before its pixels do")
    kind = f"{'i' if form.is_signed else 'u'}{form.bits_allocated // 8}"
    if form.transfer_syntax in PLAIN_SYNTAXES:
        order = ">" if form.transfer_syntax == BIG_ENDIAN else "<"
        pixels = np.frombuffer(data, order + kind).reshape(form.shape)
    elif form.transfer_syntax == RLE:
        pixels = decode_rle(_join_fragments(data), form.shape, form.bits_allocated).view(kind)
    else:
        pixels = decode_jpeg(_join_fragments(data), form).astype(kind)
    return _without_unused_bits(pixels, header)


def _join_fragments(data: bytes) -> bytes:
    parts, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        parts.append(data[position + 8 : position + 8 + length])
        position += 8 + length
    return b"".join(parts)


def _without_unused_bits(pixels: np.ndarray, header: SliceHeader) -> np.ndarray:
    """Drop bits above the stored ones: old scanners keep overlays there. The right shift restores the sign."""
    unused_above = header.form.bits_allocated - 1 - header.form.high_bit
    unused = header.form.bits_allocated - header.form.bits_stored
    return (pixels << unused_above) >> unused if unused else pixels


def _unreadable(file: RawFile, error: Exception) -> Rejection:
    reason = str(error) if isinstance(error, Damage) else f"{type(error).__name__} while decoding"
    return Rejection(file.name, f"{file.name} ({reason})", "Download the series again.", loses="scan")
