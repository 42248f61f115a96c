"""Where the pixels of each frame lie in a file, found without decoding any; cut or shifted pixels show here."""

from itertools import pairwise
from typing import BinaryIO

from pydicom.uid import UID_dictionary

from .dicom_elements import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    Damage,
    Header,
    check_deflated_end,
    check_end,
)

PLAIN_SYNTAXES = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
RLE = "1.2.840.10008.1.2.5"
# JPEG baseline, extended and lossless, JPEG-LS, JPEG 2000: what SimpleITK decodes.
JPEG_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70, 80, 81, 90, 91))
ITEM, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
MOST_FRAGMENTS = 1_000_000

Place = tuple[int, int]  # first byte, number of bytes


def find_frames(stream: BinaryIO, size: int, header: Header, form, num_frames: int) -> list[Place]:
    """Find the bytes of each frame.

    Args:
        stream: the file.
        size: of the file in bytes.
        header: what precedes the pixels.
        form: SliceForm of the frames.
        num_frames: how many there should be.

    Returns:
        One place per frame; of a deflated file, in what it inflates to.

    Raises:
        Damage: if pixels are cut off, shifted, or of another number than the header says.
    """
    syntax = header.transfer_syntax
    if header.pixels is None:
        raise Damage("it ends before its pixels")
    if syntax not in (*PLAIN_SYNTAXES, RLE, *JPEG_SYNTAXES):
        # A tag can hold anything; only names of the standard are told on.
        name = UID_dictionary[syntax][0] if syntax in UID_dictionary else "a transfer syntax of its own"
        raise Damage(f"it is stored as {name}, which cannot be decoded here; decompress the series first")
    if (header.pixels.length == UNDEFINED) != (syntax not in PLAIN_SYNTAXES):
        raise Damage("its transfer syntax and its pixels contradict each other")
    if header.pixels.length == UNDEFINED:
        return _find_compressed(stream, size, header, num_frames)
    return _find_plain(stream, size, header, form, num_frames)


def _find_plain(stream: BinaryIO, size: int, header: Header, form, num_frames: int) -> list[Place]:
    start, length = header.pixels
    row_bytes = form.shape[1] * form.bits_allocated // 8
    frame_bytes = form.shape[0] * row_bytes
    expected = frame_bytes * num_frames
    found = length if header.transfer_syntax == DEFLATED else min(length, size - start)
    # Some writers fill up with a few bytes more than the one that makes the length even.
    if not 0 < expected <= found < expected + max(row_bytes, 2):
        what = "end after" if found < expected else "hold"
        raise Damage(f"its pixels {what} {found:,} of {expected:,} bytes")
    if header.transfer_syntax == DEFLATED:
        check_deflated_end(stream, start + length)
    else:
        check_end(stream, start + length, size, header.transfer_syntax)
    return [(start + frame_bytes * index, frame_bytes) for index in range(num_frames)]


def _find_compressed(stream: BinaryIO, size: int, header: Header, num_frames: int) -> list[Place]:
    """Walk the fragments: an offset table, then at least one fragment per frame, then a delimiter."""
    items, end = _find_items(stream, header.pixels.start, size)
    check_end(stream, end, size, EXPLICIT)
    if not items:
        raise Damage("its compressed pixels are missing")
    (table_start, table_bytes), *fragments = items
    if num_frames == 1 and fragments:
        return [_span(fragments)]
    if len(fragments) == num_frames:
        return [_span([fragment]) for fragment in fragments]
    stream.seek(table_start)
    table = stream.read(table_bytes)
    offsets = [int.from_bytes(table[index : index + 4], "little") for index in range(0, len(table), 4)]
    if len(offsets) != num_frames:
        raise Damage(f"it should hold {num_frames} compressed frames; found {len(fragments)} fragments")
    # Offsets count from the header of the first fragment.
    first = table_start + table_bytes
    edges = [first + offset for offset in offsets] + [end - 8]
    starts = {start - 8 for start, _ in fragments} | {end - 8}
    if edges != sorted(set(edges)) or not starts.issuperset(edges):
        raise Damage("its table of compressed frames does not fit its fragments")
    return [(edge, stop - edge) for edge, stop in pairwise(edges)]


def _find_items(stream: BinaryIO, position: int, size: int) -> tuple[list[Place], int]:
    """Place of each item's content, and the first byte behind their delimiter."""
    items = []
    while position + 8 <= size and len(items) < MOST_FRAGMENTS:
        stream.seek(position)
        head = stream.read(8)
        length = int.from_bytes(head[4:], "little")
        position += 8
        if head[:4] == SEQUENCE_END and length == 0:
            return items, position
        if head[:4] != ITEM:
            raise Damage("its compressed pixels are no series of fragments")
        items.append((position, length))
        position += length
    raise Damage("its compressed pixels are cut off")


def _span(fragments: list[Place]) -> Place:
    """Neighbouring fragments with their item headers."""
    start = fragments[0][0] - 8
    return start, sum(fragments[-1]) - start
