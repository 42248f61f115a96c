"""Features of a scan on disk, a file a slice: the layout of zarr (version 2, uncompressed), which zarr itself reads.

`zarr.open("features.zarr")["tokens"]` is (Z, rows, columns, D) float16.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..data.durable_files import delete_unfinished, write_text_whole, write_whole


class SliceArray:
    """An array whose first axis is z; every slice is one file, whole or absent.

    Args:
        folder: of the array; made when the first slice is written.
        shape: (Z, …).
        dtype: of the numbers on disk.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.folder, self.shape, self.dtype = Path(folder), tuple(shape), np.dtype(dtype).newbyteorder("<")

    def begin(self) -> None:
        """Write the description, and delete what a killed process left half written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        delete_unfinished(self.folder)
        description = {
            "zarr_format": 2,
            "shape": list(self.shape),
            "chunks": [1, *self.shape[1:]],
            "dtype": self.dtype.str,
            "compressor": None,
            "filters": None,
            "fill_value": 0,
            "order": "C",
        }
        write_text_whole(self.folder / ".zarray", json.dumps(description, indent=2) + "\n")

    def has(self, z: int) -> bool:
        """Whether a slice is written."""
        return self._file(z).is_file()

    def write(self, z: int, values: np.ndarray) -> None:
        """Write a slice."""
        data = np.ascontiguousarray(values, dtype=self.dtype)
        write_whole(self._file(z), lambda path: data.tofile(path))

    def read(self, z: int) -> np.ndarray:
        """A slice as it lies on disk.

        Raises:
            ValueError: if it is not there, or another size than it should be.
        """
        file = self._file(z)
        expected = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        found = file.stat().st_size if file.is_file() else None
        if found != expected:
            raise ValueError(
                f"{file} should hold slice {z} in {expected:,} bytes; found "
                f"{'no such file' if found is None else f'{found:,} bytes'}. Give the command that wrote the folder "
                f"again (delete a damaged file first): it writes what is missing."
            )
        return np.fromfile(file, dtype=self.dtype).reshape(self.shape[1:])

    def _file(self, z: int) -> Path:
        return self.folder / ".".join([str(z), *["0"] * (len(self.shape) - 1)])


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Say what a group of arrays holds, as zarr's attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / ".zgroup", '{"zarr_format": 2}\n')
    write_text_whole(folder / ".zattrs", json.dumps(record, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a group of arrays holds; None where there is none."""
    file = folder / ".zattrs"
    return json.loads(file.read_text()) if file.is_file() else None
