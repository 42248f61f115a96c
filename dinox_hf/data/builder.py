"""From a raw collection to a Parquet set: resumable, with many workers, and never half a set in sight.

Headers of the whole folder come first, so that whatever shows in them stops the build before a byte is written. Then
each series becomes a finished piece under the hidden OUT/.building, and the last step moves the pieces into place. A
killed build leaves pieces, which the next run keeps; a build that stops with a message leaves nothing.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .dataset_card import render_card
from .pieces import Piece, build_piece, fingerprint_of
from .readers.dicom import Stack, index_dicom, read_entry
from .readers.files import list_files, require_input
from .schema import write_nodules
from .sources import lidc_idri
from .volume import Rejection
from .workers import worker_map

FORMAT_VERSION = 1
# Half of the raw size: measured 0.46 on LIDC-IDRI-0001, with something in hand for noisier scans.
PARQUET_SHARE = 0.5
MEGABYTE = 1_000_000


def build_dataset(
    raw: str | Path,
    out: str | Path,
    source: ModuleType = lidc_idri,
    *,
    workers: int = 1,
    overwrite: bool = False,
    ignore_annotations: bool = False,
    skip_refused: bool = False,
    max_gap_mm: float | None = None,
) -> dict:
    """Build a Parquet set of slices and nodules from a folder of scans.

    The result does not depend on the number of workers, nor on whether the build was killed and run again.

    Args:
        raw: folder of the raw collection; zip archives in it are read in place.
        out: folder of the set, new or empty, or holding an interrupted build or an older set.
        source: module of `dinox_hf.data.sources` with `read_annotations` and `collection_of`.
        workers: processes; each holds one series in memory.
        overwrite: replace a set that was built from other input.
        ignore_annotations: build without nodules.
        skip_refused: leave out CT series that are damaged, incomplete or tilted, instead of stopping.
        max_gap_mm: accept uneven gaps between slices up to this size.

    Returns:
        The ingest report, as written to OUT/ingest_report.json.

    Raises:
        ValueError: if there is no usable scan, a scan is refused, annotations belong to other scans, or `out` holds
            something else.
        RuntimeError: if the disk is too small or a worker died.
    """
    raw, out = Path(raw), Path(out)
    _check_folders(raw, out)
    with worker_map(workers) as run:
        stacks, rejections = _read_headers(raw, run, max_gap_mm)
        _check_scans(raw, stacks, rejections, skip_refused)
        annotations, unused = [], []
        if not ignore_annotations:
            annotations, unused, damaged = _read_annotations(raw, stacks, source)
            rejections = _without_xml(rejections, [*annotations, *unused, *damaged]) + damaged
        building = out / ".building"
        pieces = _plan(stacks, annotations, building / "pieces")
        fingerprint = fingerprint_of(piece.key for piece in pieces)
        if _is_built(out, fingerprint, overwrite):
            print(f"{out} is already built from this input; nothing to do.")
            return json.loads((out / "ingest_report.json").read_text())
        _state_disk_need(stacks, out)
        records, late = _build_pieces(pieces, run, skip_refused)
    if not records or (late and not skip_refused):
        # The user mends the input first, so nothing here is worth keeping; the workers have ended.
        _remove_building(out)
        _stop_for(late, "the other series")
    report = _report(records, rejections + late, unused, fingerprint)
    collection = source.collection_of([record["patient_id"] for record in records])
    _assemble(building, pieces, records, report, render_card(report, collection))
    _move_into_place(building, out)
    return report


def _check_folders(raw: Path, out: Path) -> None:
    require_input(raw)
    inner, outer = raw.resolve(), out.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise ValueError(
            f"The set should be written outside the raw folder; found OUT {out} and RAW {raw}, one inside the other. "
            f"Choose another OUT."
        )
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if names and not names & {".building", "ingest_report.json"}:
            raise ValueError(
                f"OUT should be a new or empty folder, or a set built before; found {sorted(names)[0]!r} in {out}. "
                f"Choose another OUT, or empty this one yourself."
            )


def _read_headers(raw: Path, run, max_gap_mm: float | None) -> tuple[list[Stack], list[Rejection]]:
    files = list(list_files(raw))
    if not files:
        raise ValueError(
            f"RAW should be a folder with CT series; found no file in {raw}. "
            f"Check the path, and that the download has finished."
        )
    headers = run(read_entry, files, chunksize=64)
    return index_dicom(tqdm(headers, "reading headers", len(files), unit="file"), max_gap_mm)


def _check_scans(raw: Path, stacks: list[Stack], rejections: list[Rejection], skip_refused: bool) -> None:
    refused = [rejection for rejection in rejections if rejection.loses_scan]
    if refused and not (skip_refused and stacks):
        _stop_for(refused, f"the other {len(stacks)} series" if stacks else "")
    if not stacks:
        reasons = Counter(rejection.reason for rejection in rejections)
        listed = "; ".join(f"{reason} ({count} files)" for reason, count in reasons.most_common(3))
        raise ValueError(
            f"RAW should hold at least one CT series of two slices or more; found none in {raw}: {listed}. "
            f"Point RAW at the folder with the CT slices (DICOM, also inside zip archives)."
        )


def _stop_for(refused: list[Rejection], others: str) -> None:
    first = refused[0]
    more = f" ({len(refused) - 1} more are refused)" if len(refused) > 1 else ""
    skip = f" Or pass --skip-refused to build {others} and find the reasons in ingest_report.json." if others else ""
    raise ValueError(
        f"Every CT series in RAW should be whole; found in {first.path}: {first.reason}{more}. {first.advice}{skip}"
    )


def _read_annotations(raw: Path, stacks: list[Stack], source: ModuleType) -> tuple[list, list, list[Rejection]]:
    """Pair annotations with stacks: one (or None) per stack, those left over, and unreadable files."""
    found = list(source.read_annotations(raw))
    damaged = [entry for entry in found if isinstance(entry, Rejection)]
    unused = [entry for entry in found if not isinstance(entry, Rejection)]
    paired = []
    for stack in stacks:
        match = next((entry for entry in unused if _annotates(entry, stack)), None)
        paired.append(match)
        if match is not None:
            unused.remove(match)
    if unused and not any(paired):
        raise ValueError(
            f"The annotations in RAW should belong to its scans; found {unused[0].path} for series "
            f"{unused[0].series_id}, but scans of series {', '.join(stack.series_id for stack in stacks[:3])}. "
            f"Put the XML of these scans beside them, or pass --ignore-annotations to build without nodules."
        )
    return paired, unused, damaged


def _annotates(annotation, stack: Stack) -> bool:
    """Same series, or outlines on its very slices; file names say nothing."""
    return annotation.series_id == stack.series_id or any(
        header.slice_uid in annotation.slice_uids for header in stack.headers
    )


def _without_xml(rejections: list[Rejection], annotations: list) -> list[Rejection]:
    """Drop "not a DICOM file" for files that turned out to be annotations, or would have been."""
    read = {annotation.path for annotation in annotations if annotation is not None}
    return [rejection for rejection in rejections if rejection.path not in read]


def _plan(stacks: list[Stack], annotations: list, folder: Path) -> list[Piece]:
    pieces = []
    for stack, annotation in zip(stacks, annotations or [None] * len(stacks), strict=True):
        stamps = [header.file.stamp() for header in stack.headers]
        key = fingerprint_of([str(FORMAT_VERSION), *stamps, annotation.stamp if annotation else "no annotation"])
        pieces.append(Piece(stack, annotation, folder, key))
    return pieces


def _is_built(out: Path, fingerprint: str, overwrite: bool) -> bool:
    if not (out / "slices").is_dir():
        return False
    report = out / "ingest_report.json"
    if report.exists() and json.loads(report.read_text())["input_fingerprint"] == fingerprint:
        shutil.rmtree(out / ".building", ignore_errors=True)
        return True
    if overwrite:
        return False
    raise ValueError(
        f"OUT should be new, or a set built from the same input; found a set built from other files or options in "
        f"{out}. Choose another OUT, or pass --overwrite to replace it."
    )


def _state_disk_need(stacks: list[Stack], out: Path) -> None:
    raw_bytes = sum(stack.num_bytes for stack in stacks)
    need = int(PARQUET_SHARE * raw_bytes)
    home = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(home).free
    print(
        f"{len(stacks):,} series, {sum(len(stack.headers) for stack in stacks):,} slices. Disk: about "
        f"{need / MEGABYTE:,.0f} MB for the Parquet set ({free / MEGABYTE:,.0f} MB are free), and later "
        f"{raw_bytes / MEGABYTE:,.0f} MB for the cache that load_dataset makes."
    )
    if free < need:
        raise RuntimeError(
            f"The disk of {out} should have {need / MEGABYTE:,.0f} MB free; found {free / MEGABYTE:,.0f} MB. "
            f"Free some space, or choose an OUT on another disk."
        )


def _build_pieces(pieces: list[Piece], run, skip_refused: bool) -> tuple[list[dict], list[Rejection]]:
    """Build what is not yet built; stop at the first refused series unless those are skipped."""
    records, refused = [], []
    try:
        pieces[0].folder.mkdir(parents=True, exist_ok=True)
        for result in tqdm(run(build_piece, pieces), "writing series", len(pieces), unit="series"):
            (refused if isinstance(result, Rejection) else records).append(result)
            if refused and not skip_refused:
                break
    except BrokenProcessPool as error:
        raise RuntimeError(
            "All workers should live until the end; found one killed, most likely for want of memory. "
            "Run the same command again with fewer workers: finished series are kept."
        ) from error
    except OSError as error:
        raise RuntimeError(
            f"OUT should take the whole set; found that it cannot be written ({error}). "
            f"Free some space or mend the permissions, and run the same command again: finished series are kept."
        ) from error
    return records, refused


def split_of(patient_id: str, num_patients: int) -> str:
    """The split of a patient: by a hash, so that it stays the same when other patients join the set."""
    draw = int(hashlib.sha256(f"dinox split {patient_id}".encode()).hexdigest()[:8], 16) / 16**8
    return "train" if num_patients < 5 or draw < 0.8 else "test"


def _report(records: list[dict], rejections: list[Rejection], unused: list, fingerprint: str) -> dict:
    num_patients = len({record["patient_id"] for record in records})
    for record in records:
        record["split"] = split_of(record["patient_id"], num_patients)
    warnings = [f"{entry.path}: no scan of series {entry.series_id} in the input" for entry in unused]
    warnings += [warning for record in records for warning in record["warnings"]]
    # These cost a scan, a slice of one, or its annotations; other rejections were never meant to be part of the set.
    lost = [entry for entry in rejections if entry.loses_scan or entry.reason.startswith(lidc_idri.DAMAGED)]
    warnings += [f"{entry.path}: {entry.reason}" for entry in lost]
    readers = Counter(count for record in records for count in record["readers_per_nodule"])
    splits = [split for split in ("train", "test") if any(record["split"] == split for record in records)]
    return {
        "input_fingerprint": fingerprint,
        **_counts(records),
        "num_small_nodules": sum(record["num_small_nodules"] for record in records),
        "num_non_nodules": sum(record["num_non_nodules"] for record in records),
        "nodules_by_num_readers": {str(count): readers[count] for count in sorted(readers)},
        "splits": {split: _counts([r for r in records if r["split"] == split]) for split in splits},
        "warnings": warnings,
        "rejections": [asdict(rejection) for rejection in rejections],
        "series": [{name: value for name, value in record.items() if name != "key"} for record in records],
    }


def _counts(records: list[dict]) -> dict[str, int]:
    return {
        "num_patients": len({record["patient_id"] for record in records}),
        "num_series": len(records),
        "num_slices": sum(record["size"][0] for record in records),
        "num_nodules": sum(len(record["readers_per_nodule"]) for record in records),
        "slices_bytes": sum(2 * record["size"][0] * record["size"][1] * record["size"][2] for record in records),
        "nodules_bytes": sum(record["nodules_bytes"] for record in records),
    }


def _assemble(building: Path, pieces: list[Piece], records: list[dict], report: dict, card: str) -> None:
    """Name the pieces as shards – one series each, so nothing is read again – under .building/set."""
    finished = building / "set"
    shutil.rmtree(finished, ignore_errors=True)
    (finished / "slices").mkdir(parents=True)
    (finished / "nodules").mkdir()
    by_key = {piece.key: piece for piece in pieces}
    for split in report["splits"]:
        shards = [by_key[record["key"]] for record in records if record["split"] == split]
        nodules = pa.concat_tables([pq.read_table(shard.nodules_path) for shard in shards])
        # `datasets` cannot open a split without rows.
        if len(nodules):
            write_nodules(nodules, finished / "nodules" / f"{split}-00000-of-00001.parquet")
        for number, shard in enumerate(shards):
            name = f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            os.replace(shard.slices_path, finished / "slices" / name)
    (finished / "ingest_report.json").write_text(json.dumps(report, indent=1) + "\n")
    (finished / "README.md").write_text(card, encoding="utf-8")


def _move_into_place(building: Path, out: Path) -> None:
    """Make the set visible. Slices come last: without them `load_dataset` finds nothing, with them it finds all."""
    for name in ("slices", "nodules"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("ingest_report.json", "README.md", "nodules", "slices"):
        os.replace(building / "set" / name, out / name)
    shutil.rmtree(building)


def _remove_building(out: Path) -> None:
    shutil.rmtree(out / ".building", ignore_errors=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
