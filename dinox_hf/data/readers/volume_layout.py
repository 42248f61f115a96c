"""What a NIfTI, NRRD or MetaImage header says that SimpleITK keeps to itself, or takes lightly.

SimpleITK reads a cut .nii as zeros, prefers one of two contradicting orientations, ignores shear where it can, and
takes a missing spacing for 1 mm. This page finds all that in the header, before a voxel is read.
"""

import re
from dataclasses import dataclass
from struct import unpack_from

import numpy as np

MAX_SHEAR = 0.01  # cosine of the angle between two axes; 1 minus that, where they should be one
HEAD_BYTES = 65_536
NIFTI_1, NIFTI_2 = 348, 540  # sizes of their headers, by which a file tells its version and byte order
COMPRESSED_SUFFIX = re.compile(r"\.(gz|bz2|zraw|raw\.gz)$")


class BadLayout(ValueError):
    """Why a file is no volume that can be placed, in words that quote no value of it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the numbers of a volume lie."""

    data_name: str | None  # the file that holds them, beside the header; None: behind the header
    num_bytes: int | None  # that file must have; None: compressed, so it is not known beforehand


def read_layout(head: bytes, name: str) -> Layout:
    """Find where the numbers lie, and check that the header says which way they lie.

    Args:
        head: first bytes of the file, decompressed if it is a .nii.gz.
        name: of the file.

    Returns:
        The layout; of a .nii.gz, that of the .nii inside.

    Raises:
        BadLayout: if orientation or spacing is missing or contradictory, or the header is cut off.
    """
    name = name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return _read_nifti(head)
    return _read_nrrd(head) if name.endswith((".nrrd", ".nhdr")) else _read_metaimage(head)


def _read_nifti(head: bytes) -> Layout:
    order = next((order for order in "<>" if unpack_from(order + "i", head.ljust(4))[0] in (NIFTI_1, NIFTI_2)), None)
    if order is None or len(head) < NIFTI_2:
        raise BadLayout("its NIfTI header is damaged or cut off")
    if unpack_from(order + "i", head)[0] == NIFTI_1:
        dims, bits = unpack_from(order + "8h", head, 40), unpack_from(order + "h", head, 72)[0]
        pixdim, start = unpack_from(order + "8f", head, 76), unpack_from(order + "f", head, 108)[0]
        codes, rows = unpack_from(order + "2h", head, 252), unpack_from(order + "12f", head, 280)
        quaternion = unpack_from(order + "3f", head, 256)
    else:
        dims, bits = unpack_from(order + "8q", head, 16), unpack_from(order + "h", head, 14)[0]
        pixdim, start = unpack_from(order + "8d", head, 104), unpack_from(order + "q", head, 168)[0]
        codes, rows = unpack_from(order + "2i", head, 344), unpack_from(order + "12d", head, 400)
        quaternion = unpack_from(order + "3d", head, 352)
    count = int(np.prod([int(size) for size in dims[1 : 1 + max(0, min(dims[0], 7))]], dtype=object))
    if not 1 <= count < 2**40 or not 0 < bits <= 128 or not 0 <= start < 2**31:
        raise BadLayout("its NIfTI header is damaged")
    sform = np.array(rows).reshape(3, 4)[:, :3]
    _check_nifti_geometry(*codes, np.array(pixdim[1:4]), sform)
    if min(codes) > 0:
        _check_same_axes(_qform_axes(quaternion, pixdim[0]), sform / np.linalg.norm(sform, axis=0))
    return Layout(None, int(start) + count * bits // 8)


def check_nifti_numbers(path: str) -> None:
    """Check that fractions in an unpacked NIfTI-1 file are numbers: SimpleITK reads what is none (NaN) as 0, water.

    Raises:
        BadLayout: if some are none.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    order = "<" if unpack_from("<i", head)[0] in (NIFTI_1, NIFTI_2) else ">"
    is_first = unpack_from(order + "i", head)[0] == NIFTI_1
    kind = {16: "f4", 64: "f8"}.get(unpack_from(order + "h", head, 70 if is_first else 12)[0])
    if kind is None:
        return
    start = int(unpack_from(order + "f", head, 108)[0] if is_first else unpack_from(order + "q", head, 168)[0])
    numbers = np.memmap(path, order + kind, "r", start)
    if not all(np.isfinite(numbers[at : at + (1 << 20)]).all() for at in range(0, len(numbers), 1 << 20)):
        raise BadLayout("some of its numbers are none (NaN or infinite); replace them, with -1024 for air")


def _check_nifti_geometry(qform_code: int, sform_code: int, pixdim: np.ndarray, sform: np.ndarray) -> None:
    if qform_code <= 0 and sform_code <= 0:
        raise BadLayout("it does not say which side is left: neither qform nor sform is set")
    if not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise BadLayout("its spacing (pixdim) is not positive")
    if sform_code > 0:
        lengths = np.linalg.norm(sform, axis=0)
        if not np.isfinite(lengths).all() or (lengths <= 0).any():
            raise BadLayout("its spacing (sform) is not positive")
        check_axes(sform / lengths)
        if (np.abs(lengths - pixdim) > 0.01 * pixdim).any():
            raise BadLayout("its two spacings contradict each other (pixdim and sform)")


def _qform_axes(quaternion: tuple[float, float, float], qfac: float) -> np.ndarray:
    """(3, 3) one axis per column; the file leaves out the first number of the quaternion, whose length is 1."""
    b, c, d = quaternion
    a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
    axes = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    return axes * [1, 1, -1 if qfac < 0 else 1]


def _check_same_axes(qform: np.ndarray, sform: np.ndarray) -> None:
    # One of the two is then that of an atlas, or one was edited: nobody knows which side is left.
    if not (np.sum(qform * sform, axis=0) > 1 - MAX_SHEAR).all():
        raise BadLayout("its two orientations contradict each other (qform and sform)")


def check_axes(directions: np.ndarray) -> None:
    """Check that three axes are perpendicular.

    Args:
        directions: (3, 3) one axis of length 1 per column.

    Raises:
        BadLayout: if the volume is sheared, as scans under a tilted gantry are.
    """
    cosines = np.abs(directions.T @ directions - np.eye(3))
    if not np.isfinite(cosines).all() or cosines.max() > MAX_SHEAR:
        raise BadLayout(f"its axes are not perpendicular (cosine {cosines.max():.3f}): a tilted gantry, or damage")


def _read_metaimage(head: bytes) -> Layout:
    found = re.search(rb"^ElementDataFile\s*=\s*([^\r\n]*)\r?\n?", head, re.MULTILINE)
    if found is None:
        raise BadLayout("its MetaImage header is damaged or cut off")
    fields = _fields(head[: found.end()], b"=")
    if "elementspacing" not in fields and "elementsize" not in fields:
        raise BadLayout("it does not say how far its voxels lie apart")
    data_name = found[1].strip().decode("utf-8", "replace")
    if data_name.upper() == "LIST" or "%" in data_name:
        raise BadLayout("its voxels lie in a list of files")
    start = 0
    if data_name.upper() in ("LOCAL", "LOCALFILE"):
        data_name, start = None, found.end()
    if fields.get("compresseddata", "").lower() == "true":
        size = fields.get("compresseddatasize", "")
        return Layout(data_name, start + int(size) if size.isdigit() else None)
    kinds = {"char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "long": 4, "ulong": 4}
    kinds |= {"float": 4, "double": 8, "long_long": 8, "ulong_long": 8}
    itemsize = kinds.get(fields.get("elementtype", "").lower().removeprefix("met_"))
    sizes = fields.get("dimsize", "").split()
    # A header in front of the numbers inside the data file: then its size says nothing.
    if itemsize is None or not all(size.isdigit() for size in sizes) or fields.get("headersize", "0") != "0":
        return Layout(data_name, None)
    return Layout(data_name, start + itemsize * int(np.prod([int(size) for size in sizes], dtype=object)))


def _read_nrrd(head: bytes) -> Layout:
    end = re.search(rb"\r?\n\r?\n", head)
    fields = _fields(head[: end.start() if end else len(head)], b":")
    if not head.startswith(b"NRRD000") or (end is None and not {"data file", "datafile"} & fields.keys()):
        raise BadLayout("its NRRD header is damaged or cut off")
    if not fields.get("space"):
        raise BadLayout("it does not say which side is left: its header has no space")
    if "space directions" not in fields and "spacings" not in fields:
        raise BadLayout("it does not say how far its voxels lie apart")
    data_name = fields.get("data file") or fields.get("datafile")
    if data_name and (data_name.startswith("LIST") or "%" in data_name):
        raise BadLayout("its voxels lie in a list of files")
    kinds = {"signed char": 1, "uchar": 1, "unsigned char": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2}
    kinds |= {"int16": 2, "uint16": 2, "unsigned short": 2, "signed short": 2, "int": 4, "uint": 4, "int32": 4}
    kinds |= {"uint32": 4, "unsigned int": 4, "signed int": 4, "float": 4, "double": 8, "int64": 8, "uint64": 8}
    itemsize, sizes = kinds.get(fields.get("type", "")), fields.get("sizes", "").split()
    skips = {fields.get(key, "0") for key in ("byte skip", "line skip", "byteskip", "lineskip")}
    is_plain = fields.get("encoding") == "raw" and itemsize and skips == {"0"} and all(map(str.isdigit, sizes))
    if not is_plain:
        return Layout(data_name, None)
    start = 0 if data_name else end.end()
    return Layout(data_name, start + itemsize * int(np.prod([int(size) for size in sizes], dtype=object)))


def _fields(head: bytes, separator: bytes) -> dict[str, str]:
    pairs = (line.split(separator, 1) for line in head.splitlines() if separator in line and line[:1] != b"#")
    return {
        key.strip().lower().decode("latin-1"): value.strip(b" =\t").decode("utf-8", "replace") for key, value in pairs
    }
