"""What a set will consist of: every scan of the input, its annotation, and what is left out – from headers alone."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from ..readers.files import RawFile, list_files
from ..readers.scan import Scan
from ..readers.series import index_series, read_entry
from ..volume import Rejection
from .pieces import Piece, fingerprint_of, with_folders
from .pseudonyms import Pseudonyms

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Input:
    """What a set is built from, and how; the same for every job of an array."""

    raw: Path
    out: Path
    source: ModuleType  # of dinox_hf.data.sources; has read_annotations and collection_of
    annotations: tuple[Path, ...]  # folders of annotation files that lie elsewhere than the scans
    ignore_annotations: bool
    skip_refused: bool
    max_gap_mm: float | None
    pseudonyms: Pseudonyms


@dataclass(frozen=True, eq=False)
class Plan:
    """All pieces of a set in their final order, and what its report says of the rest, under published names."""

    pieces: list[Piece]
    rejections: list[Rejection]
    warnings: list[str]
    collection: dict

    @property
    def fingerprint(self) -> str:
        """Changes with the files, the annotations and the options that the set is built from, and with what is lost.

        A harmless file that joins the input changes nothing: for its line in the report nobody builds a set again.
        """
        lost = [f"{entry.path} {entry.reason}" for entry in self.rejections if entry.loses != "nothing"]
        return fingerprint_of([*(piece.key for piece in self.pieces), *lost])


@dataclass(frozen=True, eq=False)
class Headers:
    """One pass over the headers of the input."""

    scans: list[Scan]
    rejections: list[Rejection]
    others: list[RawFile]  # no part of a scan: annotations are among them
    names: dict[str, Callable]  # paths and ids that a rejection may mention; collected only where they are replaced


def make_plan(given: Input, run: Callable) -> Plan:
    """Read all headers and annotations, pair them, and decide what is built.

    Args:
        given: what to build from.
        run: `map` over worker processes.

    Raises:
        ValueError: if there is no usable scan, a scan is refused, or annotations belong to other scans.
    """
    headers = _read_headers(given, run)
    check_scans(given, headers.scans, headers.rejections)
    paired, warnings, rejections = [None] * len(headers.scans), [], headers.rejections
    if not given.ignore_annotations:
        paired, warnings, rejections = _read_annotations(given, headers)
    hide = given.pseudonyms
    names = headers.names
    if hide.are_salted:
        names = dict.fromkeys(with_folders(rejection.path for rejection in rejections), hide.path) | names
        _tell_pseudonyms(rejections, hide)
    folder = given.out / ".building" / "pieces"
    pieces = [_piece(scan, entry, folder, given) for scan, entry in zip(headers.scans, paired, strict=True)]
    return Plan(
        # By published names: the order of the real ones would tell something of them.
        pieces=sorted(
            pieces, key=lambda piece: (hide.patient(piece.scan.patient_id), hide.uid(piece.scan.series_id), piece.key)
        ),
        rejections=sorted((hide.rejection(entry, names) for entry in rejections), key=lambda r: (r.path, r.reason)),
        warnings=sorted(warnings),
        collection=given.source.collection_of([scan.patient_id for scan in headers.scans]),
    )


def _read_headers(given: Input, run: Callable) -> Headers:
    files = list(list_files(given.raw))
    if not files:
        raise ValueError(
            f"RAW should be a folder with CT series; found no file in {given.raw}. "
            f"Check the path, and that the download has finished."
        )
    others, names = [], {}

    def entries() -> Iterator:
        # One after another into the index, which keeps what headers of a series share only once.
        results = tqdm(run(read_entry, files, chunksize=64), "reading headers", len(files), unit="file")
        for file, entry in zip(files, results, strict=True):
            if isinstance(file, RawFile) and isinstance(entry, Rejection):
                others.append(file)
            if given.pseudonyms.are_salted:
                names.update(_names(file, entry, given.pseudonyms))
            yield entry

    scans, rejections = index_series(entries(), given.max_gap_mm)
    return Headers(scans, rejections, others, names)


def _names(file: RawFile | Rejection, entry: object, hide: Pseudonyms) -> dict[str, Callable]:
    """Paths and ids of one file, so that they are known in a sentence, and what makes their pseudonyms."""
    names = dict.fromkeys(with_folders([file.name]), hide.path) if isinstance(file, RawFile) else {}
    # A file with many frames gives a tuple of headers.
    for header in entry if isinstance(entry, tuple) else (entry,):
        form = getattr(header, "form", header)
        names[getattr(form, "patient_id", "")] = hide.patient
        names[getattr(form, "series_id", "")] = hide.uid
    return names


def check_scans(given: Input, scans: list[Scan], rejections: list[Rejection]) -> None:
    """Stop unless there is something to build and nothing of it is refused."""
    refused = [rejection for rejection in rejections if rejection.loses == "scan"]
    if refused and not (given.skip_refused and scans):
        stop_for(refused, f"the other {len(scans)} series" if scans else "")
    if not scans:
        reasons = Counter(rejection.reason for rejection in rejections)
        listed = "; ".join(f"{reason} ({count} files)" for reason, count in reasons.most_common(3))
        raise ValueError(
            f"RAW should hold at least one CT series of two slices or more; found none in {given.raw}: {listed}. "
            f"Point RAW at the folder with the CT slices (DICOM, also inside zip archives)."
        )


def stop_for(refused: list[Rejection], others: str) -> None:
    """Stop because scans are refused; `others` names what could be built without them."""
    first = refused[0]
    listed = ", ".join(entry.path for entry in refused[1:6]) + (", …" if len(refused) > 6 else "")
    more = f" ({len(refused) - 1} more refused: {listed})" if refused[1:] else ""
    skip = f" Or pass --skip-refused to build {others} and find the reasons in ingest_report.json." if others else ""
    raise ValueError(
        f"Every CT series in RAW should be whole; found in {first.path}: {first.reason}{more}. {first.advice}{skip}"
    )


def _read_annotations(given: Input, headers: Headers) -> tuple[list, list[str], list[Rejection]]:
    """One annotation (or None) per scan, warnings about the others, and rejections without what was an annotation."""
    elsewhere = [file for folder in given.annotations for file in _files_elsewhere(folder, given.raw)]
    found = [entry for entry in elsewhere if isinstance(entry, Rejection)]
    # One call for all files: the source decides which of two annotations of a scan comes first.
    found += given.source.read_annotations(
        [*headers.others, *(file for file in elsewhere if isinstance(file, RawFile))]
    )
    annotations = [entry for entry in found if not isinstance(entry, Rejection)]
    paired = pair(headers.scans, annotations)
    _check_paired(headers.scans, annotations, paired)
    paths_elsewhere = {file.name for file in elsewhere if isinstance(file, RawFile)}
    warnings = _warn_about_unused(headers.scans, annotations, paired, paths_elsewhere, given.pseudonyms)
    read = {entry.path for entry in found} | {path for entry in annotations for path in entry.other_paths}
    kept = [rejection for rejection in headers.rejections if rejection.path not in read]
    return paired, warnings, kept + [entry for entry in found if isinstance(entry, Rejection)]


def _files_elsewhere(folder: Path, raw: Path) -> Iterable[RawFile | Rejection]:
    """Files of a folder of annotations, named with the folder, without those that RAW holds too."""
    for file in list_files(folder):
        if isinstance(file, Rejection):
            yield replace(file, path=f"{folder.resolve().name}/{file.path}") if folder.is_dir() else file
        elif not (file.root / file.path).resolve().is_relative_to(raw.resolve()):
            root = folder.resolve()
            yield RawFile(root.parent, f"{root.name}/{file.path}", file.member) if folder.is_dir() else file


def pair(scans: Sequence[Scan], annotations: Sequence) -> list:
    """The annotation of each scan, or None: same series, or outlines on its very slices; file names say nothing."""
    by_id = defaultdict(list)
    for number, annotation in enumerate(annotations):
        for uid in {annotation.series_id, *annotation.slice_uids} - {""}:
            by_id[uid].append(number)
    paired, used = [], set()
    for scan in scans:
        matches = {number for uid in (scan.series_id, *scan.slice_uids) for number in by_id.get(uid, ())} - used
        first = min(matches, default=None)
        used |= {first}
        paired.append(None if first is None else annotations[first])
    return paired


def _check_paired(scans: Sequence[Scan], annotations: Sequence, paired: Sequence) -> None:
    if annotations and not any(paired):
        raise ValueError(
            f"The annotations in RAW should belong to its scans; found {annotations[0].path} for series "
            f"{annotations[0].series_id}, but scans of series {', '.join(scan.series_id for scan in scans[:3])}. "
            f"Put the XML of these scans beside them, or pass --ignore-annotations to build without nodules."
        )


def _warn_about_unused(
    scans: Sequence[Scan], annotations: Sequence, paired: Sequence, paths_elsewhere: set[str], hide: Pseudonyms
) -> list[str]:
    """A line per annotation in RAW that no scan uses; those of an archive of all patients are only counted."""
    taken = {scan.series_id: entry for scan, entry in zip(scans, paired, strict=True) if entry is not None}
    used, warnings, num_elsewhere = {id(entry) for entry in paired}, [], 0
    for entry in annotations:
        if id(entry) in used:
            continue
        if entry.series_id in taken:
            other = taken[entry.series_id].path
            warnings.append(f"{hide.path(entry.path)}: not used, since {hide.path(other)} annotates the same scan")
        elif entry.path in paths_elsewhere:
            num_elsewhere += 1
        else:
            warnings.append(f"{hide.path(entry.path)}: no scan of series {hide.uid(entry.series_id)} in the input")
    if num_elsewhere:
        print(f"{num_elsewhere:,} annotations belong to scans that are not in RAW.")
    return warnings


def _tell_pseudonyms(rejections: list[Rejection], hide: Pseudonyms) -> None:
    """Say on the console, and nowhere else, which file a pseudonym of the report means."""
    for entry in [entry for entry in rejections if entry.loses != "nothing"][:20]:
        print(f"{hide.path(entry.path)} in the report is {entry.path!r}")


def _piece(scan: Scan, annotation: object | None, folder: Path, given: Input) -> Piece:
    parts = [str(FORMAT_VERSION), given.source.__name__, given.pseudonyms.fingerprint]
    parts += [file.stamp() for file in scan.files]
    parts += [annotation.stamp if annotation else "no annotation"]
    return Piece(scan, annotation, folder, fingerprint_of(parts), given.pseudonyms)
