"""A strict walk over the elements of a DICOM file that keeps the few we want and steps over the rest unread.

Why not pydicom for the headers: its pass takes several times as long (benchmarks/ingest.py), and it is forgiving – it
reads on after a wrong length or a repeated tag, so damage turns into other numbers. Here a file whose elements do not
follow one another without gap or overlap is refused, and the bytes of names, dates and free text are never looked at.
"""

import re
import zlib
from io import BytesIO
from struct import Struct
from typing import BinaryIO, NamedTuple

from pydicom.datadict import keyword_dict

# The only attributes that are ever read: no name, birth date, institution or free text can leave the reader. Of the
# patient there is PatientID alone, which in a public collection is its pseudonym.
ALLOWED_TAGS = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality", "ImageType"),
    "SeriesNumber",  # tells two series without UID apart
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ConvolutionKernel"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept"),
    # Where multi-frame files keep the same attributes frame by frame.
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "PlanePositionSequence"),
    *("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"),
    *("CTImageFrameTypeSequence", "FrameType", "CTReconstructionSequence"),
    *("ConversionSourceAttributesSequence", "ReferencedSOPInstanceUID"),
    # Seen only so that a file with them can be refused: no straight line leads from its numbers to HU.
    *("ModalityLUTSequence", "FloatPixelData", "DoubleFloatPixelData"),
)
TAGS = {keyword_dict[keyword]: keyword for keyword in ALLOWED_TAGS}
SEQUENCES = {tag for tag, keyword in TAGS.items() if keyword.endswith("Sequence")}
PIXEL_DATA = 0x7FE00010
PIXEL_TAGS = (PIXEL_DATA, 0x7FE00008, 0x7FE00009)  # whole numbers, fractions, fractions of double precision
MEDIA_CLASS, TRANSFER_SYNTAX = 0x00020002, 0x00020010
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
SHORT_VRS = {*b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()}
LONG_VRS = {*b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}
MAX_DEPTH = 16
FIRST_BYTES = 16_384  # most headers end here; a longer one is read again four times as far
MOST_BYTES = 1 << 26  # in front of the pixels, and behind them; thousands of frames need a tenth of it
BLOCK_BYTES, MOST_BLOCKS = 512, 64  # what media fill up: sectors, or clusters of them


class Damage(ValueError):
    """What is wrong with a file, in words that quote no value of it."""


class Elements(dict):
    """Allowed attributes by keyword: raw bytes, or a list of Elements for a sequence."""

    is_big_endian = False

    def text(self, keyword: str) -> str:
        """A text or UID without its padding; empty if absent."""
        raw = self.get(keyword, b"").strip(b" \0\t\r\n")
        # A wrong length makes a text run on into the next element; escape sequences (27) switch alphabets.
        if re.search(rb"[\0-\x1a\x1c-\x1f]", raw):
            raise Damage(f"{keyword} holds bytes that are no text")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("latin-1")

    def whole(self, keyword: str, default: int | None = None) -> int | None:
        """An unsigned 16-bit number; `default` if absent or empty."""
        raw = self.get(keyword, b"")
        if not raw:
            return default
        if len(raw) != 2:
            raise Damage(f"{keyword} is no 16-bit number")
        return int.from_bytes(raw, "big" if self.is_big_endian else "little")

    def decimals(self, keyword: str) -> tuple[float, ...]:
        """Decimal strings as numbers, odd notation such as 006.445312e-01 included; empty if absent or empty."""
        raw = self.get(keyword, b"").strip(b" \0")
        if not raw:
            return ()
        # float() alone would take underscores, nan and inf as well.
        if raw.translate(None, b"0123456789+-.eE \\"):
            raise Damage(f"{keyword} is no decimal number")
        try:
            numbers = tuple(map(float, raw.split(b"\\")))
        except ValueError:
            raise Damage(f"{keyword} is no decimal number") from None
        if max(map(abs, numbers)) > 1e9:
            raise Damage(f"{keyword} is out of all proportion")
        return numbers


class Pixels(NamedTuple):
    """Where the pixel element's value lies in the data set: behind `start`, over `length` bytes or UNDEFINED."""

    start: int
    length: int


class Header(NamedTuple):
    """What precedes the pixels of a file."""

    elements: Elements
    transfer_syntax: str  # as stated; what is true of implicit or explicit where it misstates that
    pixels: Pixels | None  # None: the file has no pixel element


class _EndsTooSoon(Exception):
    """More bytes are needed to go on."""


def read_elements(stream: BinaryIO) -> Header:
    """Read the allowed elements in front of the pixels of one file.

    Args:
        stream: the file, at its beginning.

    Returns:
        Elements, transfer syntax and place of the pixels; in a deflated file, the place after inflating.

    Raises:
        Damage: if the elements do not follow one another as they must, with a reason.
    """
    head = stream.read(FIRST_BYTES)
    start, syntax, media_class = _read_file_meta(head)
    is_deflated = syntax == DEFLATED
    count = FIRST_BYTES - start
    data = _first_bytes(stream, start, count, is_deflated) if is_deflated else head[start:]
    while True:
        try:
            elements, walk = _walk_data_set(data, syntax)
            break
        except _EndsTooSoon:
            if len(data) < count or count > MOST_BYTES:
                raise Damage("it ends in the middle of an element") from None
        count *= 4
        data = _first_bytes(stream, start, count, is_deflated)
    # What a file says of itself up front still holds where it is cut short.
    elements["SOPClassUID"] = elements.get("SOPClassUID") or media_class
    if walk.pixels is None:
        return Header(elements, walk.syntax, None)
    return Header(elements, walk.syntax, Pixels(walk.pixels.start + (0 if is_deflated else start), walk.pixels.length))


def check_end(stream: BinaryIO, position: int, size: int, syntax: str) -> None:
    """Check that behind the pixels come whole elements or nothing: bytes lost or doubled in the pixels show here.

    Tapes and some archives fill files up to whole blocks with zeros; that is nothing, too.

    Args:
        stream: of the file.
        position: first byte behind the pixels.
        size: of the file in bytes.
        syntax: transfer syntax of the file.

    Raises:
        Damage: if they do not.
    """
    if position == size:
        return
    stream.seek(position)
    rest = stream.read(MOST_BYTES)
    if size % BLOCK_BYTES == 0 and size - position < MOST_BLOCKS * BLOCK_BYTES and not rest.strip(b"\0"):
        return
    walk = _Walk(rest, syntax)
    try:
        is_next = walk.header(0)[0] > PIXEL_DATA
        walk.elements(0, len(walk.data), depth=1, is_open=False)
    except (_EndsTooSoon, Damage):
        is_next = False
    if not is_next:
        raise Damage("something that is no element follows its pixels")


def _read_file_meta(head: bytes) -> tuple[int, str, bytes]:
    """Where the data set starts, its transfer syntax (told by its form where group 2 is lacking), and its class."""
    start = 132 if head[128:132] == b"DICM" else 0
    if head[start : start + 2] != b"\x02\x00":
        return start, _guess_syntax(head[start:]), b""
    try:
        end, stated = _Walk(head, EXPLICIT).file_meta(start)
    except _EndsTooSoon:
        raise Damage("it ends in its first elements") from None
    syntax = stated.get(TRANSFER_SYNTAX, b"").strip(b" \0").decode("latin-1")
    return end, syntax or _guess_syntax(head[end:]), stated.get(MEDIA_CLASS, b"")


def _guess_syntax(data: bytes) -> str:
    if data[4:6] in SHORT_VRS | LONG_VRS:
        return BIG_ENDIAN if data[:1] == b"\0" else EXPLICIT
    return IMPLICIT


def _first_bytes(stream: BinaryIO, start: int, count: int, is_deflated: bool) -> bytes:
    stream.seek(start)
    return inflate(stream, count)[0] if is_deflated else stream.read(count)


def inflate_data_set(stream: BinaryIO, count: int) -> tuple[bytes, bool]:
    """First `count` bytes of a deflated data set, and whether it ends there or before, as it should."""
    stream.seek(0)
    start, *_ = _read_file_meta(stream.read(FIRST_BYTES))
    stream.seek(start)
    return inflate(stream, count)


def check_deflated_end(stream: BinaryIO, position: int) -> None:
    """As `check_end` for what a deflated file inflates to: nothing but its end vouches for what precedes.

    Raises:
        Damage: if it ends before `position`, has no end, or something that is no element follows.
    """
    data, has_end = inflate_data_set(stream, position + MOST_BYTES)
    if len(data) < position or not has_end:
        raise Damage(f"it inflates to {len(data):,} of {position:,} bytes, or its end is missing")
    check_end(BytesIO(data), position, len(data), EXPLICIT)


def inflate(stream: BinaryIO, count: int) -> tuple[bytes, bool]:
    """Inflate the first `count` bytes of what follows in a stream; fewer if it ends before, and whether it ends whole.

    Raises:
        Damage: if it is no deflated stream.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = bytearray()
    try:
        while len(data) < count and not inflater.eof:
            packed = inflater.unconsumed_tail or stream.read(65_536)
            if not packed:
                break
            data += inflater.decompress(packed, count - len(data))
    except zlib.error:
        raise Damage("its deflated part is broken") from None
    has_end = inflater.eof and not (inflater.unused_data + stream.read(2)).strip(b"\0")
    return bytes(data), has_end


def _walk_data_set(data: bytes, syntax: str) -> tuple[Elements, "_Walk"]:
    # Some writers state explicit and write implicit, or the other way round; the first element shows which it is.
    if syntax != BIG_ENDIAN:
        is_explicit = data[4:6] in SHORT_VRS | LONG_VRS
        if is_explicit and syntax == IMPLICIT:
            syntax = EXPLICIT
        elif not is_explicit and syntax == EXPLICIT:
            syntax = IMPLICIT
    walk = _Walk(data, syntax)
    return walk.elements(0, len(data), depth=0, is_open=False)[0], walk


class _Walk:
    """One pass over bytes that hold elements."""

    def __init__(self, data: bytes, syntax: str):
        self.data = data
        self.syntax = syntax
        self.vr = b""
        self.is_explicit = syntax != IMPLICIT
        order = ">" if syntax == BIG_ENDIAN else "<"
        self.explicit, self.implicit = Struct(order + "HH2sH"), Struct(order + "HHI")
        self.long = Struct(order + "I")
        self.pixels: Pixels | None = None

    def file_meta(self, position: int) -> tuple[int, dict[int, bytes]]:
        """Where group 2 ends, and what it states."""
        stated = {}
        while self.data[position : position + 2] == b"\x02\x00":
            tag, position, length = self.header(position)
            stated[tag] = self.data[position : position + length]
            position += length
            if position > len(self.data):
                raise _EndsTooSoon
        return position, stated

    def header(self, position: int) -> tuple[int, int, int]:
        """Tag, start of the value and its length; its type (VR) is left in `self.vr`."""
        data = self.data
        if position + 8 > len(data):
            raise _EndsTooSoon
        if not self.is_explicit:
            group, element, length = self.implicit.unpack_from(data, position)
            return group << 16 | element, position + 8, length
        group, element, self.vr, length = self.explicit.unpack_from(data, position)
        if self.vr in SHORT_VRS:
            return group << 16 | element, position + 8, length
        if group == 0xFFFE:
            return group << 16 | element, position + 8, self.long.unpack_from(data, position + 4)[0]
        if self.vr not in LONG_VRS:
            raise Damage("an element has no valid type (VR)")
        if position + 12 > len(data):
            raise _EndsTooSoon
        return group << 16 | element, position + 12, self.long.unpack_from(data, position + 8)[0]

    def elements(self, position: int, end: int, depth: int, is_open: bool) -> tuple[Elements, int]:
        """Elements from `position` to `end`, or (`is_open`) to the delimiter of their item."""
        if depth > MAX_DEPTH:
            raise Damage("its sequences are nested too deeply")
        found = Elements()
        found.is_big_endian = self.syntax == BIG_ENDIAN
        last = -1
        while position < end:
            tag, position, length = self.header(position)
            if tag == ITEM_END and is_open:
                return found, position
            keyword = TAGS.get(tag)
            # A repeated attribute has two values. A wrong length shows by itself where elements have types (VR);
            # where they have none, it shows when tags stop ascending.
            if keyword in found or (tag <= last and not self.is_explicit):
                raise Damage(f"{keyword or 'an element'} is repeated or out of order")
            last = tag
            if depth == 0 and tag in PIXEL_TAGS:
                self.pixels = Pixels(position, length)
                if keyword:
                    found[keyword] = b""
                return found, position
            if length == UNDEFINED or tag in SEQUENCES:
                value, position = self.items(position, end, length, depth)
            else:
                self.check_inside(position + length, end)
                value = self.data[position : position + length] if keyword else None
                position += length
            if keyword:
                found[keyword] = value
        if is_open:
            raise _EndsTooSoon
        return found, position

    def items(self, position: int, end: int, length: int, depth: int) -> tuple[list[Elements], int]:
        """Items of a sequence, of known length or up to its delimiter."""
        is_open = length == UNDEFINED
        stop = end if is_open else position + length
        self.check_inside(stop, end)
        # Compressed pixels of an icon are items as well, but hold no elements; a sequence of unknown type is implicit.
        holds_elements = not self.is_explicit or self.vr not in (b"OB", b"OW")
        was_explicit, self.is_explicit = self.is_explicit, self.is_explicit and self.vr != b"UN"
        items = []
        while is_open or position < stop:
            tag, position, length = self.header(position)
            if tag == SEQUENCE_END and is_open:
                break
            if tag != ITEM:
                raise Damage("a sequence holds something that is no item")
            item_end = stop if length == UNDEFINED else position + length
            self.check_inside(item_end, stop)
            if holds_elements:
                item, position = self.elements(position, item_end, depth + 1, is_open=length == UNDEFINED)
                items.append(item)
            else:
                position = item_end
        self.is_explicit = was_explicit
        return items, position

    def check_inside(self, position: int, end: int) -> None:
        """Check that a value ends where, or before, what holds it ends."""
        if position > end:
            raise _EndsTooSoon if end == len(self.data) else Damage("an element is longer than what holds it")
