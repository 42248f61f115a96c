"""NIfTI-1 files written slice by slice, so that a scan of any length takes the memory of one slice."""

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ..data.durable_files import write_whole

_HEADER = struct.Struct("<i10s18sihcB8h3f4h8f3fhBB4f2i80s24s2h6f12f16s4s")
_DATATYPES = {"float32": (16, 32), "int16": (4, 16), "rgb": (128, 24)}
_MILLIMETRES, _SCANNER, _ONE_FILE = 2, 1, b"n+1\0"

Kind = Literal["float32", "int16", "rgb"]


class NiftiSlices:
    """The slices of one file, to be written from the first to the last."""

    def __init__(self, stream: BinaryIO, shape: tuple[int, int, int], kind: Kind) -> None:
        self._stream, self._shape, self._kind, self.num_written = stream, shape, kind, 0

    def write(self, values: np.ndarray) -> None:
        """Append a slice: (H, W), or (H, W, 3) uint8 of a picture in colours."""
        expected = self._shape[1:] + ((3,) if self._kind == "rgb" else ())
        if values.shape != expected:
            raise ValueError(f"A slice of this file should be {expected}; found {values.shape}. Write it transposed?")
        dtype = {"rgb": "u1", "int16": "<i2", "float32": "<f4"}[self._kind]
        self._stream.write(np.ascontiguousarray(values, dtype=dtype).tobytes())
        self.num_written += 1


@contextmanager
def nifti_slices(
    path: str | Path, shape: tuple[int, int, int], affine_lps: np.ndarray, kind: Kind, scale: float = 1.0
) -> Iterator[NiftiSlices]:
    """A file to fill, whole or not there at all.

    Args:
        path: ends in .nii or .nii.gz.
        shape: (Z, H, W).
        affine_lps: (4, 4) index (x, y, z) to millimetres; the file holds it in RAS, as NIfTI wants.
        kind: of the numbers.
        scale: readers multiply stored numbers by it.

    Raises:
        ValueError: if the name or the size does not fit the format.
        RuntimeError: if fewer slices were written than the file promises.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"The name of a NIfTI file should end in .nii or .nii.gz; found {path.name}. Rename it.")
    if max(shape) > 32767:
        raise ValueError(f"A NIfTI file holds at most 32767 voxels along an axis; found {shape}. Write a part of it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.building")
    try:
        with _opened(unfinished, is_packed=path.suffix == ".gz") as stream:
            stream.write(nifti_header(shape, affine_lps, kind, scale))
            slices = NiftiSlices(stream, tuple(shape), kind)
            yield slices
        if slices.num_written != shape[0]:
            raise RuntimeError(f"{path} should get {shape[0]} slices; found {slices.num_written} written.")
        write_whole(path, unfinished.rename)
    finally:
        unfinished.unlink(missing_ok=True)


def nifti_header(shape: tuple[int, int, int], affine_lps: np.ndarray, kind: Kind, scale: float = 1.0) -> bytes:
    """The 352 bytes before the numbers; arguments as of `nifti_slices`.

    Orientation stands in it twice, as quaternion and as matrix: readers differ in which of them they believe.
    """
    depth, height, width = shape
    affine_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine_lps, dtype=np.float64)
    spacing = np.linalg.norm(affine_ras[:3, :3], axis=0)
    datatype, bits = _DATATYPES[kind]
    quaternion, handedness = _quaternion(affine_ras[:3, :3] / spacing)
    header = _HEADER.pack(
        348, b"", b"", 0, 0, b"r", 0,
        3, width, height, depth, 1, 1, 1, 1,
        0, 0, 0, 0, datatype, bits, 0,
        handedness, *spacing, 0, 0, 0, 0,
        352, scale, 0, 0, 0, _MILLIMETRES,
        0, 0, 0, 0, 0, 0,
        b"dinox_hf", b"", _SCANNER, _SCANNER,
        *quaternion, *affine_ras[:3, 3], *affine_ras[:3].ravel(),
        b"", _ONE_FILE,
    )  # fmt: skip
    return header + bytes(4)  # no extensions


def _opened(path: Path, is_packed: bool) -> BinaryIO:
    return gzip.open(path, "wb", compresslevel=1) if is_packed else path.open("wb")


def _quaternion(axes: np.ndarray) -> tuple[tuple[float, float, float], float]:
    """(b, c, d) of a rotation with a >= 0, and -1 where the third axis is turned round to make it one, else 1."""
    handedness = 1.0 if np.linalg.det(axes) > 0 else -1.0
    r = axes * [1, 1, handedness]
    # Of the four squares one is at least a quarter: dividing by the largest never divides by nearly nothing.
    squares = np.array([1 + np.trace(r), *(1 + 2 * r[i, i] - np.trace(r) for i in range(3))]) / 4
    products = np.array(
        [
            [squares[0], (r[2, 1] - r[1, 2]) / 4, (r[0, 2] - r[2, 0]) / 4, (r[1, 0] - r[0, 1]) / 4],
            [0, squares[1], (r[0, 1] + r[1, 0]) / 4, (r[0, 2] + r[2, 0]) / 4],
            [0, 0, squares[2], (r[1, 2] + r[2, 1]) / 4],
            [0, 0, 0, squares[3]],
        ]
    )
    products = np.triu(products) + np.triu(products, 1).T
    largest = int(squares.argmax())
    quaternion = products[largest] / np.sqrt(squares[largest])
    quaternion *= np.copysign(1.0, quaternion[0])
    return tuple(float(value) for value in quaternion[1:]), handedness
