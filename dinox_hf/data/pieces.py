"""One series of a set on its way into it: built once, by any worker, and found again by the next run."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .readers.dicom import Stack, load_volume
from .schema import nodule_table, write_nodules, write_slices
from .volume import Rejection


@dataclass(frozen=True, eq=False)
class Piece:
    """One series on its way into the set; what a worker needs to build it."""

    stack: Stack
    annotation: object | None  # of the source; has nodule_rows(volume)
    folder: Path
    key: str  # of files, annotation and options: a new key is a new piece

    @property
    def slices_path(self) -> Path:
        """Parquet of the slices."""
        return self.folder / f"{self.key}.slices.parquet"

    @property
    def nodules_path(self) -> Path:
        """Parquet of the nodules."""
        return self.folder / f"{self.key}.nodules.parquet"

    @property
    def record_path(self) -> Path:
        """What the report says of the series; written last, so it marks a finished piece."""
        return self.folder / f"{self.key}.json"

    @property
    def is_finished(self) -> bool:
        """Whether an earlier run has left all three files."""
        return all(path.exists() for path in (self.slices_path, self.nodules_path, self.record_path))


def build_piece(piece: Piece) -> dict | Rejection:
    """Read one series and write it as a finished piece; return what the report says of it."""
    if piece.is_finished:
        return json.loads(piece.record_path.read_text())
    volume = load_volume(piece.stack)
    if isinstance(volume, Rejection):
        return volume
    rows, warnings = [], []
    if piece.annotation is not None and piece.stack.is_turned:
        warnings = [f"{piece.annotation.path}: left out, since the stored frames are mirrored or turned"]
    elif piece.annotation is not None:
        rows, warnings = piece.annotation.nodule_rows(volume)
    nodules = nodule_table(rows)
    _write_whole(piece.slices_path, lambda path: write_slices(volume, path))
    _write_whole(piece.nodules_path, lambda path: write_nodules(nodules, path))
    record = {
        "key": piece.key,
        "patient_id": volume.patient_id,
        "series_id": volume.series_id,
        "size": list(volume.voxels.shape),
        "spacing_mm": list(volume.spacing_mm),
        "z_mm": [float(volume.z_mm[0]), float(volume.z_mm[-1])],
        "padding_hu": volume.padding_hu,
        "annotation": piece.annotation.path if piece.annotation else None,
        "num_small_nodules": piece.annotation.num_small_nodules if piece.annotation else 0,
        "num_non_nodules": piece.annotation.num_non_nodules if piece.annotation else 0,
        "readers_per_nodule": [row["num_readers"] for row in rows],
        "nodules_bytes": nodules.nbytes,
        "warnings": warnings,
    }
    _write_whole(piece.record_path, lambda path: path.write_text(json.dumps(record)))
    return record


def _write_whole(path: Path, write) -> None:
    """Write under another name first, so that a file with the right name is a whole one."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    write(unfinished)
    os.replace(unfinished, path)


def fingerprint_of(texts: Iterable[str]) -> str:
    """A short name that changes with any of the texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]
