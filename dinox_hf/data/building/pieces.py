"""One series of a set on its way into it: built once, by any job on any machine, and found again by the next run."""

import hashlib
import json
import resource
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ..durable_files import write_text_whole, write_whole
from ..readers.scan import Scan
from ..schema import mark_table, nodule_table, write_slices, write_table
from ..sources.lidc_nodules import Findings
from ..volume import Rejection, Volume
from .pseudonyms import Pseudonyms


class CannotWriteError(Exception):
    """OUT cannot take a piece: the disk is full, or may not be written."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One series on its way into the set; what a worker needs to build it."""

    scan: Scan
    annotation: object | None  # of the source; has path and findings(volume)
    folder: Path
    key: str  # of files, annotation and options: a new key is a new piece
    pseudonyms: Pseudonyms

    def path(self, configuration: str) -> Path:
        """Parquet of one configuration: slices, nodules or marks."""
        return self.folder / f"{self.key}.{configuration}.parquet"

    @property
    def record_path(self) -> Path:
        """What the report says of the series; written last, so it marks a finished piece."""
        return self.folder / f"{self.key}.json"

    @property
    def refusal_path(self) -> Path:
        """Why the series could not be read, where that showed only in its pixels."""
        return self.folder / f"{self.key}.refused.json"

    def record(self) -> dict | None:
        """What the report says of the series, or None if it is not finished."""
        if not self.record_path.exists():
            return None
        record = json.loads(self.record_path.read_text())
        # A folder that another machine's pieces were copied into may hold files that were cut off on the way.
        sizes = {name: self.path(name).stat().st_size for name in record["file_bytes"] if self.path(name).exists()}
        return record if sizes == record["file_bytes"] else None

    def refusal(self) -> Rejection | None:
        """Why the series is left out, as the report says it, or None if it is not known to be."""
        return Rejection(**json.loads(self.refusal_path.read_text())) if self.refusal_path.exists() else None


@dataclass(frozen=True)
class Built:
    """What became of a piece."""

    refusal: Rejection | None  # with real names: it goes to the console
    peak_mb: float  # largest memory of this process so far


def build_piece(piece: Piece) -> Built:
    """Read one series and write it as a finished piece, or write down why it cannot be read.

    Raises:
        CannotWriteError: if the folder of the pieces cannot be written.
    """
    volume = piece.scan.load()
    try:
        piece.folder.mkdir(parents=True, exist_ok=True)
        if isinstance(volume, Rejection):
            refusal = piece.pseudonyms.rejection(volume, _names_in(piece))
            write_text_whole(piece.refusal_path, json.dumps(asdict(refusal)))
        else:
            _write_piece(piece, volume, _find(piece, volume))
    except OSError as error:
        raise CannotWriteError(str(error)) from error
    return Built(volume if isinstance(volume, Rejection) else None, peak_memory_mb())


def _find(piece: Piece, volume: Volume) -> Findings:
    """Nodules and marks on the scan; by its real UIDs, which the annotations name."""
    if piece.annotation is None:
        return Findings([], [], [])
    if piece.scan.is_turned:
        # Outlines are pixels of the stored frame.
        warning = f"{piece.annotation.path}: left out, since the stored frames are mirrored or turned"
        return Findings([], [], [warning])
    return piece.annotation.findings(volume)


def _write_piece(piece: Piece, volume: Volume, findings: Findings) -> None:
    volume, findings = _published(volume, findings, piece)
    tables = {"nodules": nodule_table(findings.nodules), "marks": mark_table(findings.marks)}
    write_whole(piece.path("slices"), partial(write_slices, volume))
    for name, table in tables.items():
        write_whole(piece.path(name), partial(write_table, table))
    kinds = [mark["kind"] for mark in findings.marks]
    record = {
        "key": piece.key,
        "patient_id": volume.patient_id,
        "series_id": volume.series_id,
        "size": list(volume.voxels.shape),
        "spacing_mm": list(volume.spacing_mm),
        "z_mm": [float(volume.z_mm[0]), float(volume.z_mm[-1])],
        "padding_hu": volume.padding_hu,
        "annotation": piece.pseudonyms.path(piece.annotation.path) if piece.annotation else None,
        "num_small_nodules": kinds.count("small_nodule"),
        "num_non_nodules": kinds.count("non_nodule"),
        "readers_per_nodule": [row["num_readers"] for row in findings.nodules],
        "nodules_bytes": tables["nodules"].nbytes,
        "marks_bytes": tables["marks"].nbytes,
        "warnings": findings.warnings,
        "file_bytes": {name: piece.path(name).stat().st_size for name in ("slices", *tables)},
    }
    write_text_whole(piece.record_path, json.dumps(record))


def _published(volume: Volume, findings: Findings, piece: Piece) -> tuple[Volume, Findings]:
    """The same scan and findings under the names that may leave: pseudonyms, where there is a salt."""
    pseudonyms = piece.pseudonyms
    if not pseudonyms.are_salted:
        return volume, findings
    ids = {"patient_id": pseudonyms.patient(volume.patient_id), "series_id": pseudonyms.uid(volume.series_id)}
    nodules = [
        row | ids | {"nodule_id": row["nodule_id"].replace(volume.series_id, ids["series_id"])}
        for row in findings.nodules
    ]
    marks = [row | ids | {"name": pseudonyms.name(row["name"])} for row in findings.marks]
    warnings = [pseudonyms.text(warning, _names_in(piece)) for warning in findings.warnings]
    slice_uids = tuple(map(pseudonyms.uid, volume.slice_uids))
    return replace(volume, slice_uids=slice_uids, **ids), Findings(nodules, marks, warnings)


def _names_in(piece: Piece) -> dict[str, Callable[[str], str]]:
    """Paths and ids that a sentence about this series may hold, and what makes their pseudonyms."""
    paths = [file.name for file in piece.scan.files] + ([piece.annotation.path] if piece.annotation else [])
    ids = {piece.scan.patient_id: piece.pseudonyms.patient, piece.scan.series_id: piece.pseudonyms.uid}
    return dict.fromkeys(with_folders(paths), piece.pseudonyms.path) | ids


def with_folders(paths: Iterable[str]) -> set[str]:
    """Paths, and every folder that they lie in."""
    found = set(paths)
    for path in list(found):
        while "/" in path and (path := path.rpartition("/")[0]) not in found:
            found.add(path)
    return found


def peak_memory_mb() -> float:
    """Largest memory that this process has held so far, in MB."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def fingerprint_of(texts: Iterable[str]) -> str:
    """A short name that changes with any of the texts."""
    return hashlib.sha256("\n".join(texts).encode(errors="surrogateescape")).hexdigest()[:24]
