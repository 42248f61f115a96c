"""The part of LIDC-IDRI that is not yet on disk, fetched by Imaging Data Commons' own client and checked to the byte.

The client selects, resumes file by file and shows the progress. It does not tell whether all files came, and without
a network it needs minutes to give up, or takes an unreachable bucket for a finished download. Hence the checks here.
"""

import logging
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from .lidc_catalogue import COLLECTION, GIGABYTE, RemoteSeries, sum_bytes

MIRRORS = ("aws", "gcs")
# The client's progress bar looks at every file twice a second, and all of LIDC-IDRI are 244,000.
PATIENTS_PER_CALL = 20
_TIMEOUT_S = 20


def find_missing(series: Sequence[RemoteSeries], out: Path) -> list[RemoteSeries]:
    """Those of which a file is absent or has another size than the index says."""
    return [entry for entry in series if not _is_complete(entry, out)]


def _is_complete(series: RemoteSeries, out: Path) -> bool:
    try:
        sizes = [file.stat().st_size for file in os.scandir(series.folder(out)) if file.name.endswith(".dcm")]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return len(sizes) == series.num_files and sum(sizes) == series.num_bytes


def download(series: Sequence[RemoteSeries], out: Path, mirror: str = "aws") -> None:
    """Fetch what is missing of these series into `out`, in the client's default layout.

    Args:
        series: in the order of their patients.
        out: folder, new or of an earlier download, which is continued.
        mirror: whose copy of the public bucket: "aws" or "gcs".

    Raises:
        ValueError: if `out` is a file.
        RuntimeError: if the disk is too small, the bucket does not answer, or files did not come.
    """
    missing = find_missing(series, out)
    if missing:
        _check_disk(missing, out)
        _check_reachable(missing[0], mirror)
        _fetch_all(missing, out, mirror)
    remove_fragments(series, out)


def free_bytes(out: Path) -> int:
    """Free space of the disk that holds `out`, or will.

    Raises:
        ValueError: if `out` is a file.
    """
    home = next(path for path in (out, *out.resolve().parents) if path.exists())
    if not home.is_dir():
        raise ValueError(f"OUT should be a folder; found a file at {home}. Choose another OUT.")
    return shutil.disk_usage(home).free


def _check_disk(missing: Sequence[RemoteSeries], out: Path) -> None:
    need, free = sum_bytes(missing), free_bytes(out)
    if free < need:
        raise RuntimeError(
            f"The disk of {out} should have {need / GIGABYTE:,.1f} GB free for what is still missing; found "
            f"{free / GIGABYTE:,.1f} GB. Free some space, choose an OUT on another disk, or download less with "
            f"--max-gb, --num-patients or --patients."
        )


def _check_reachable(series: RemoteSeries, mirror: str) -> None:
    from idc_index import index

    endpoint = {"aws": index.aws_endpoint_url, "gcs": index.gcp_endpoint_url}[mirror]
    url = f"{endpoint}/{series.bucket}?list-type=2&max-keys=1"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):
            pass
    except (urllib.error.URLError, OSError) as error:
        other = next(name for name in MIRRORS if name != mirror)
        raise RuntimeError(
            f"The public bucket at {endpoint} should answer without credentials; found: {error}. Check the network; "
            f"behind a proxy set HTTPS_PROXY; on a cluster run this where the outside can be reached, often the login "
            f"node; or try the other copy with --mirror {other}. What is already there is kept."
        ) from error


def _fetch_all(missing: Sequence[RemoteSeries], out: Path, mirror: str) -> None:
    client, problems = _open_client()
    out.mkdir(parents=True, exist_ok=True)
    still_missing: list[RemoteSeries] = []
    num_done = 0
    for batch in _batches(missing):
        num_done += len(batch)
        print(f"{batch[0].patient_id} to {batch[-1].patient_id}: {len(batch)} series, {_gigabytes(batch)}", flush=True)
        client.download_from_selection(
            str(out),
            seriesInstanceUID=[entry.series_id for entry in batch],
            use_s5cmd_sync=True,
            show_progress_bar=sys.stderr.isatty(),
            source_bucket_location=mirror,
        )
        failed = find_missing(batch, out)
        still_missing += failed
        if len(failed) == len(batch):
            # Not one series came: nothing is gained by trying the rest.
            break
    still_missing += missing[num_done:]
    if still_missing:
        said = f" The client says: {problems[0]}" if problems else ""
        raise RuntimeError(
            f"All {len(missing):,} missing series should have come; found {len(still_missing):,} incomplete or absent "
            f"({_gigabytes(still_missing)}), the first {still_missing[0].folder(out)}.{said} Run the same command "
            f"again: it fetches only what is missing."
        )


def _open_client() -> tuple:
    """The client, narrowed to the collection, and the list into which it will write what went wrong."""
    from idc_index import IDCClient

    problems: list[str] = []
    logger = logging.getLogger("idc_index")
    logger.propagate = False
    logger.handlers = [_Collector(problems)]
    client = IDCClient()
    # Every call joins with the whole index: a million series of other collections would cost seconds each time.
    client.index = client.index[client.index["collection_id"] == COLLECTION]
    return client, problems


class _Collector(logging.Handler):
    """Keeps the lines of errors, and drops the rest of what the client tells."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += [line for line in record.getMessage().splitlines() if line.startswith("ERROR")]


def _batches(series: Sequence[RemoteSeries]) -> Iterator[list[RemoteSeries]]:
    patients = [list(group) for _, group in groupby(series, key=lambda entry: entry.patient_id)]
    for first in range(0, len(patients), PATIENTS_PER_CALL):
        yield [entry for patient in patients[first : first + PATIENTS_PER_CALL] for entry in patient]


def remove_fragments(series: Sequence[RemoteSeries], out: Path) -> None:
    """Delete what a killed download left behind in finished series: `NAME.dcm` followed by digits.

    A builder would find two copies of a slice, one of them truncated.
    """
    for entry in series:
        for path in entry.folder(out).glob("*.dcm?*"):
            if path.suffix.removeprefix(".dcm").isdigit():
                path.unlink()


def _gigabytes(series: Sequence[RemoteSeries]) -> str:
    return f"{sum_bytes(series) / GIGABYTE:,.2f} GB"
