"""From a raw collection to a Parquet set: resumable, with many workers and jobs, and never half a set in sight.

Headers of the whole folder come first, so that whatever shows in them stops the build before a byte is written. Then
each series becomes a finished piece under the hidden OUT/.building, named by its content; whoever finds all pieces
finished puts the set in place. A build that is killed, or stopped by one series, keeps its pieces for the next run.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from .building.assembly import assemble, built_report, remove_pieces
from .building.dataset_card import render_card
from .building.disk_space import state_disk_need
from .building.ingest_report import make_report
from .building.job_array import Job, only_assembler, only_builder
from .building.pieces import CannotWriteError, Piece, build_piece
from .building.plan import Input, Plan, make_plan, stop_for
from .building.pseudonyms import Pseudonyms
from .readers.files import require_input
from .sources import lidc_idri
from .volume import Rejection
from .workers import worker_map


def build_dataset(
    raw: str | Path,
    out: str | Path,
    source: ModuleType = lidc_idri,
    *,
    annotations: Iterable[str | Path] = (),
    workers: int = 1,
    num_shards: int = 1,
    shard_index: int = 0,
    salt_file: str | Path | None = None,
    overwrite: bool = False,
    ignore_annotations: bool = False,
    skip_refused: bool = False,
    max_gap_mm: float | None = None,
) -> dict | None:
    """Build a Parquet set of slices, nodules and marks from a folder of scans.

    The result does not depend on the number of workers and jobs, nor on whether they were killed and run again.

    Args:
        raw: folder of the raw collection; zip archives in it are read in place.
        out: folder of the set, new or empty, or holding an interrupted build or an older set.
        source: module of `dinox_hf.data.sources` with `read_annotations` and `collection_of`.
        annotations: folders (or archives) of annotation files that lie elsewhere than in `raw`.
        workers: processes; each holds one series in memory.
        num_shards: jobs that build one set together; each reads all headers and builds its share of the series.
        shard_index: which of these jobs this is, from 0.
        salt_file: a secret; patient ids, UIDs and paths are replaced by hashes with it, in all that is written.
        overwrite: replace a set that was built from other input.
        ignore_annotations: build without nodules.
        skip_refused: leave out CT series that are damaged, incomplete or tilted, instead of stopping.
        max_gap_mm: accept uneven gaps between slices up to this size.

    Returns:
        The ingest report, as written to OUT/ingest_report.json; None while shares of other jobs are missing.

    Raises:
        ValueError: if there is no usable scan, a scan is refused, annotations belong to other scans, or `out` holds
            something else.
        RuntimeError: if another process builds the same, the disk is too small, or a worker died.
    """
    given = Input(
        raw=Path(raw),
        out=Path(out),
        source=source,
        annotations=tuple(map(Path, annotations)),
        ignore_annotations=ignore_annotations,
        skip_refused=skip_refused,
        max_gap_mm=max_gap_mm,
        pseudonyms=Pseudonyms.from_file(salt_file),
    )
    job = Job(shard_index, num_shards)
    _check_folders(given, salt_file)
    with only_builder(given.out, job):
        with worker_map(workers) as run, _living_workers():
            plan = make_plan(given, run)
            report = _report_of_same(plan, given.out, overwrite)
            if report:
                print(f"{given.out} is already built from this input; nothing to do.")
                return report
            _warn_about_names(plan, given)
            share = job.share(plan.pieces)
            state_disk_need(plan.pieces, share, given.out)
            refused = _build_share(share, run)
        if refused and not skip_refused:
            stop_for(refused, "the other series")
        with only_assembler(given.out), _writing(OSError):
            # Another job may have found all pieces finished first.
            return _report_of_same(plan, given.out, overwrite) or _finish(plan, given, job)


def _check_folders(given: Input, salt_file: str | Path | None) -> None:
    require_input(given.raw)
    for folder in given.annotations:
        if not folder.exists():
            raise ValueError(
                f"--annotations should name a folder or archive of annotation files; found nothing at {folder}. "
                f"Check the path for a typing error."
            )
    raw, out = given.raw, given.out
    if (raw / "ingest_report.json").is_file() and (raw / "slices").is_dir():
        raise ValueError(
            f"RAW should be a folder of scans; found a set that is built already in {raw}. Train on it with "
            f"training/pretrain.py --data.folder={raw}, or name the folder that it was built from."
        )
    inner, outer = raw.resolve(), out.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise ValueError(
            f"The set should be written outside the raw folder; found OUT {out} and RAW {raw}, one inside the other. "
            f"Choose another OUT."
        )
    if salt_file and any(folder in Path(salt_file).resolve().parents for folder in (inner, outer)):
        raise ValueError(
            f"The salt should lie where nobody publishes it; found {salt_file} inside RAW or OUT. Move it elsewhere."
        )
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT should be a folder; found a file at {out}. Choose another OUT.")
    if out.is_dir():
        names = {path.name for path in out.iterdir()}
        if names and not names & {".building", "ingest_report.json"}:
            raise ValueError(
                f"OUT should be a new or empty folder, or a set built before; found {sorted(names)[0]!r} in {out}. "
                f"Choose another OUT, or empty this one yourself."
            )


def _report_of_same(plan: Plan, out: Path, overwrite: bool) -> dict | None:
    """The report of the set in `out` if it is the planned one; a set of something else must not be lost by mistake."""
    report = built_report(out)
    if report is None:
        return None
    if report["input_fingerprint"] == plan.fingerprint:
        remove_pieces(out)
        return report
    if overwrite:
        return None
    raise ValueError(
        f"OUT should be new, or a set built from the same input; found a set built from other files or options in "
        f"{out}. Choose another OUT, or pass --overwrite to replace it."
    )


def _warn_about_names(plan: Plan, given: Input) -> None:
    if not given.pseudonyms.are_salted and not plan.collection.get("is_public"):
        print(
            "WARNING: these scans are of no public collection known here, and the set keeps their PatientID and UIDs "
            "as they are. Unless these are pseudonyms already, build with --salt-file before anybody else sees it."
        )


def _build_share(share: list[Piece], run: Callable) -> list[Rejection]:
    """Build what is not yet built; returns the scans that cannot be read, under their real names."""
    todo = [piece for piece in share if piece.record() is None]
    refused, peak_mb = [], 0.0
    total = sum(piece.scan.num_slices for piece in share)
    done = total - sum(piece.scan.num_slices for piece in todo)
    with _writing(CannotWriteError), tqdm(desc="writing slices", total=total, initial=done, unit="slice") as bar:
        for piece, built in zip(todo, run(build_piece, todo), strict=True):
            bar.update(piece.scan.num_slices)
            refused += _lost_scans([built.refusal])
            peak_mb = max(peak_mb, built.peak_mb)
            if built.refusal:
                bar.write(f"refused {built.refusal.path!r}: {built.refusal.reason}")
    if todo:
        print(f"peak_worker_mb: {peak_mb:,.0f}")
    return refused


def _lost_scans(refusals: Iterable[Rejection | None]) -> list[Rejection]:
    """Those that cost a scan: a file whose voxels turn out to be something else, such as labels, costs none."""
    return [refusal for refusal in refusals if refusal and refusal.loses == "scan"]


@contextmanager
def _writing(failure: type[Exception]) -> Iterator[None]:
    """Say what a full or closed disk means for the set."""
    try:
        yield
    except failure as error:
        raise RuntimeError(
            f"OUT should take the whole set; found that it cannot be written ({error}). "
            f"Free some space or mend the permissions, and run the same command again: finished series are kept."
        ) from error


@contextmanager
def _living_workers() -> Iterator[None]:
    """Say what the death of a worker means."""
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(
            "All workers should live until the end; found one killed, most likely for want of memory. "
            "Run the same command again with fewer workers: finished series are kept."
        ) from error


def _finish(plan: Plan, given: Input, job: Job) -> dict | None:
    """Put the set in place if all its pieces are finished, whichever job or machine has built them."""
    records = [piece.record() for piece in plan.pieces]
    refused = [piece.refusal() for piece, record in zip(plan.pieces, records, strict=True) if record is None]
    if None in refused:
        print(
            f"Share {job.index} of {job.num} is built; {refused.count(None):,} of {len(records):,} series of other "
            f"shares are missing. The job that finishes last puts the set in place."
        )
        return None
    lost = _lost_scans(refused)
    if (lost and not given.skip_refused) or not any(records):
        stop_for(lost or refused, "the other series" if any(records) else "")
    finished = [(piece, record) for piece, record in zip(plan.pieces, records, strict=True) if record]
    records = [record for _, record in finished]
    report = make_report(plan, records, refused)
    card = render_card(report, plan.collection, are_salted=given.pseudonyms.are_salted)
    assemble(given.out, [piece for piece, _ in finished], [record["split"] for record in records], report, card)
    return report
