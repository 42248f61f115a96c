"""Compressed frames to stored numbers. Sizes are compared before decoding, so that a damaged one asks for no memory.

The codecs are those of SimpleITK (GDCM), which pydicom lacks without plug-ins. They get the compressed bytes of one
frame in a small file of our own, so that only our reading of the header – signs, bits, rescale – counts.
"""

import tempfile
from struct import pack

import numpy as np
import SimpleITK as sitk

from .dicom_elements import Damage

CT_CLASS = b"1.2.840.10008.5.1.4.1.1.2\0"
JPEG_LS_START, JPEG_STARTS = 0xF7, {0xC0, 0xC1, 0xC3}  # frame headers: JPEG-LS; baseline, extended, lossless
J2K_SIZE = b"\xff\x4f\xff\x51"


def decode_rle(data: bytes, shape: tuple[int, int], bits_allocated: int) -> np.ndarray:
    """Unpack run lengths: one segment per byte of a number, highest byte first.

    Args:
        data: one frame, without item headers.
        shape: rows, columns.
        bits_allocated: 8, 16 or 32.

    Returns:
        (rows, columns) unsigned.

    Raises:
        Damage: if the segments do not give exactly these numbers.
    """
    num_bytes, num_pixels = bits_allocated // 8, shape[0] * shape[1]
    edges = np.frombuffer(data[:64].ljust(64, b"\0"), "<u4")[: num_bytes + 1].tolist()
    # A run of 128 equal bytes takes two.
    if edges[0] != num_bytes or num_pixels > 64 * len(data):
        raise Damage("its run lengths do not fit its size")
    planes = np.empty((num_pixels, num_bytes), np.uint8)
    for index, (start, end) in enumerate(zip(edges[1:], [*edges[2:], len(data)], strict=True)):
        planes[:, num_bytes - 1 - index] = np.frombuffer(_unpack_bits(data[start:end], num_pixels), np.uint8)
    return planes.view(f"<u{num_bytes}").reshape(shape)


def _unpack_bits(data: bytes, size: int) -> bytes:
    unpacked, position = bytearray(), 0
    while len(unpacked) < size and position + 1 < len(data):
        count = data[position]
        if count < 128:
            unpacked += data[position + 1 : position + 2 + count]
            position += count + 2
        elif count > 128:
            unpacked += data[position + 1 : position + 2] * (257 - count)
            position += 2
        else:
            position += 1
    if len(unpacked) != size:
        raise Damage("its run lengths give another number of pixels")
    return unpacked


def decode_jpeg(data: bytes, form) -> np.ndarray:
    """Decode a JPEG, JPEG-LS or JPEG 2000 frame.

    Args:
        data: one frame, without item headers.
        form: SliceForm with shape, bits, sign and transfer syntax.

    Returns:
        (rows, columns) integers whose low bits are the stored ones; signs are the caller's business, since a stream
        and its header may disagree about them, and then the header is right.

    Raises:
        Damage: if the stream is not of this shape, or cannot be decoded.
    """
    rows, columns, bits, is_signed = _describe_stream(data, form)
    if (rows, columns) != form.shape or not 1 <= bits <= form.bits_allocated:
        raise Damage("its compressed stream has another size than its header says")
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(_dicom_around(data, form, max(bits, form.bits_stored), is_signed))
        file.flush()
        try:
            image = sitk.ReadImage(file.name, imageIO="GDCMImageIO")
        # Its text is many lines of SimpleITK's own source positions.
        except RuntimeError:
            raise Damage("its compressed stream cannot be decoded") from None
    pixels = sitk.GetArrayFromImage(image)
    if pixels.size != rows * columns or pixels.dtype.kind not in "iu":
        raise Damage("its compressed stream decodes to something else")
    return pixels.reshape(form.shape)


def _describe_stream(data: bytes, form) -> tuple[int, int, int, bool]:
    """Rows, columns, bits and sign that a stream states of itself."""
    if data[:2] == b"\xff\xd8":
        return *_describe_jpeg(data), form.is_signed
    position = data.find(J2K_SIZE, 0, 4096)
    head = data[position + 8 : position + 43]
    if position < 0 or len(head) < 35 or int.from_bytes(head[32:34], "big") != 1:
        raise Damage("its compressed stream does not begin as one of grey values")
    right, bottom, left, top = (int.from_bytes(head[index : index + 4], "big") for index in range(0, 16, 4))
    return bottom - top, right - left, (head[34] & 0x7F) + 1, bool(head[34] & 0x80)


def _describe_jpeg(data: bytes) -> tuple[int, int, int]:
    position = 2
    while data[position : position + 1] == b"\xff" and position + 10 <= len(data):
        marker = data[position + 1]
        if marker in JPEG_STARTS or marker == JPEG_LS_START:
            bits, num_components = data[position + 4], data[position + 9]
            if num_components != 1:
                break
            rows, columns = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            return rows, columns, bits
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise Damage("its compressed stream does not begin as one of grey values")


def _dicom_around(data: bytes, form, bits_stored: int, is_signed: bool) -> bytes:
    """The least DICOM file that holds this frame, without rescale and without anything of the original header."""
    syntax = form.transfer_syntax.encode()
    syntax += b"\0" * (len(syntax) % 2)
    meta = _short(2, 2, b"UI", CT_CLASS) + _short(2, 3, b"UI", b"1.2") + _short(2, 0x10, b"UI", syntax)
    numbers = {2: 1, 0x10: form.shape[0], 0x11: form.shape[1], 0x100: form.bits_allocated, 0x101: bits_stored}
    numbers |= {0x102: bits_stored - 1, 0x103: int(is_signed)}
    elements = {element: _short(0x28, element, b"US", pack("<H", value)) for element, value in numbers.items()}
    elements[4] = _short(0x28, 4, b"CS", b"MONOCHROME2 ")
    data += b"\0" * (len(data) % 2)
    return b"".join(
        (
            b"\0" * 128 + b"DICM",
            _short(2, 0, b"UL", pack("<I", len(meta))) + meta,
            _short(8, 0x16, b"UI", CT_CLASS) + _short(8, 0x18, b"UI", b"1.2"),
            *(elements[element] for element in sorted(elements)),
            pack("<HH4sI", 0x7FE0, 0x10, b"OB\0\0", 0xFFFFFFFF),
            pack("<HHI", 0xFFFE, 0xE000, 0) + pack("<HHI", 0xFFFE, 0xE000, len(data)) + data,
            pack("<HHI", 0xFFFE, 0xE0DD, 0),
        )
    )


def _short(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return pack("<HH2sH", group, element, vr, len(value)) + value
