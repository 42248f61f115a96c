"""Scans from strangers: refused by size before they are unpacked, and read by a process of its own with limits.

The process is started ahead, reads one upload and ends. What it read comes back as numbers and JSON, never pickled.

    python -m dinox_hf.serving.uploads    # one job as a line of JSON on stdin, the answer on stdout
"""

import json
import resource
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..data.readers.files import ARCHIVE_SUFFIX, RawFile, list_files
from ..data.readers.itk import ITK_SUFFIXES
from ..data.readers.series import index_series, read_entry
from ..data.volume import Rejection, Volume

SUFFIXES = (ARCHIVE_SUFFIX, *(suffix for suffix in ITK_SUFFIXES if suffix not in (".nhdr", ".mhd")))
_MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one upload may cost."""

    upload_mb: int = 500  # of the file as sent
    unpacked_mb: int = 2000  # of all files in an archive together
    num_files: int = 4000  # in an archive
    num_slices: int = 1000  # of the scan that is shown
    scan_mb: int = 800  # of its voxels: 1000 slices of 512 x 512 take 524
    read_seconds: int = 90
    memory_mb: int = 4000  # of the process that reads, beyond what it takes empty

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be > 0; found {value}. Leave it out for the default.")


class UploadReader:
    """Reads uploads, each in a fresh process that was started while nobody waited for it.

    Args:
        limits: for every upload.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self._lock, self._waiting = limits, Lock(), None

    def start(self) -> None:
        """Have a process ready; importing the readers takes seconds."""
        with self._lock:
            if not self._is_ready():
                self._waiting = _start()

    def close(self) -> None:
        """End the process that waits."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.kill()
                self._waiting.communicate()
                self._waiting = None

    def read(self, path: Path) -> tuple[Volume, str]:
        """The largest CT scan of an upload, and one sentence on what else was in it ("" for nothing).

        Raises:
            ValueError: if the upload is no scan, or more than the limits allow.
        """
        check_upload(path, self.limits)
        with self._lock:
            process, self._waiting = self._waiting if self._is_ready() else _start(), None
        with tempfile.TemporaryDirectory() as folder:
            answer = self._ask(process, {"path": str(path), "folder": folder, "limits": asdict(self.limits)})
            self.start()
            if "error" in answer:
                raise ValueError(answer["error"])
            return _volume(answer["scan"], np.load(Path(folder, "voxels.npy"), allow_pickle=False)), answer["note"]

    def _is_ready(self) -> bool:
        return self._waiting is not None and self._waiting.poll() is None

    def _ask(self, process: subprocess.Popen, job: dict[str, Any]) -> dict[str, Any]:
        try:
            output, _ = process.communicate(json.dumps(job) + "\n", timeout=self.limits.read_seconds)
            return json.loads(output)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            found, mend = f"still reading after {self.limits.read_seconds} s", "Send fewer slices."
        except json.JSONDecodeError:
            # Killed by its limits, or by a fault in a decoder.
            found, mend = f"the reader stopped with code {process.returncode}", "The file is too large, or damaged."
        return {"error": f"Expected a CT scan that can be read in time; found {found}. {mend}"}


def check_upload(path: Path, limits: Limits) -> None:
    """Refuse what is too large or no scan by its name, size and table of contents, without unpacking anything.

    Raises:
        ValueError: what was expected, what was found, how to mend it.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(
            f"Expected a zip of DICOM files, or one of {', '.join(SUFFIXES[1:])}; found a file that ends in "
            f"{path.suffix or 'nothing'}. Pack DICOM folders as a zip."
        )
    size_mb = path.stat().st_size / _MB
    if size_mb > limits.upload_mb:
        raise ValueError(
            f"Expected an upload of at most {limits.upload_mb} MB; found {size_mb:,.0f} MB. Send one series only, or "
            f"run the demo yourself with --max-upload-mb."
        )
    if path.name.lower().endswith(ARCHIVE_SUFFIX):
        try:
            members = zipfile.ZipFile(path).infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"Expected a zip archive; found one that cannot be opened ({error}). Pack it again."
            ) from error
        _check_contents(len(members), sum(member.file_size for member in members), limits)


def _check_contents(num_files: int, num_bytes: int, limits: Limits) -> None:
    if num_files > limits.num_files or num_bytes > limits.unpacked_mb * _MB:
        raise ValueError(
            f"Expected at most {limits.num_files:,} files of {limits.unpacked_mb:,} MB in the archive; found "
            f"{num_files:,} files of {num_bytes / _MB:,.0f} MB. Send one series only."
        )


def read_upload(path: Path, limits: Limits) -> tuple[Volume, str]:
    """What `UploadReader.read` gives, in this process and without its limits on time and memory."""
    files = list(list_files(path))
    raw = [file for file in files if isinstance(file, RawFile)]
    # Again: an archive may hold archives.
    _check_contents(len(raw), sum(file.size() for file in raw), limits)
    scans, rejections = index_series(map(read_entry, files))
    if not scans:
        lost = [rejection for rejection in rejections if rejection.loses == "scan"] or rejections
        found = f"{lost[0].reason}. {lost[0].advice}" if lost else "an empty archive."
        raise ValueError(f"Expected a CT scan; found: {found}")
    scan = max(scans, key=lambda scan: scan.num_slices)
    if scan.num_slices > limits.num_slices or scan.num_bytes > limits.scan_mb * _MB:
        raise ValueError(
            f"Expected a scan of at most {limits.num_slices} slices and {limits.scan_mb} MB; found {scan.num_slices} "
            f"slices of {scan.num_bytes / _MB:,.0f} MB. Send fewer slices, or thicker ones."
        )
    volume = scan.load()
    if isinstance(volume, Rejection):
        raise ValueError(f"Expected a CT scan; found: {volume.reason}. {volume.advice}")
    if volume.modality != "ct":
        raise ValueError(f"Expected CT in HU; found a scan of modality {volume.modality!r}. Send a CT scan.")
    others = [f"{len(scans)} series found, the longest is shown"] if len(scans) > 1 else []
    num_refused = sum(rejection.num_files for rejection in rejections if rejection.loses == "scan")
    others += [f"{num_refused} files could not be used"] if num_refused else []
    return volume, "; ".join(others)


def _start() -> subprocess.Popen:
    command = [sys.executable, "-m", "dinox_hf.serving.uploads"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _volume(scan: dict[str, Any], voxels: np.ndarray) -> Volume:
    return Volume(
        voxels=voxels,
        z_mm=np.array(scan["z_mm"]),
        affine_lps=np.array(scan["affine_lps"]),
        slice_uids=(),
        series_id="upload",
        patient_id="upload",
        modality="ct",
        padding_hu=scan["padding_hu"],
    )


def _confine(limits: Limits) -> None:
    """Have the system stop this process beyond its limits."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, 2 * (in_use + limits.memory_mb * _MB,))
    resource.setrlimit(resource.RLIMIT_CPU, 2 * (limits.read_seconds * 4,))
    resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (max(limits.unpacked_mb, limits.scan_mb) * _MB,))


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    limits = Limits(**job["limits"])
    _confine(limits)
    try:
        volume, note = read_upload(Path(job["path"]), limits)
    except MemoryError:
        return {"error": f"Expected a scan that takes {limits.memory_mb} MB to read; found more. Send fewer slices."}
    except ValueError as error:
        return {"error": str(error)}
    np.save(Path(job["folder"], "voxels.npy"), volume.voxels, allow_pickle=False)
    scan = {
        "z_mm": volume.z_mm.tolist(),
        "affine_lps": volume.affine_lps.tolist(),
        "padding_hu": volume.padding_hu,
    }
    return {"scan": scan, "note": note}


if __name__ == "__main__":
    line = sys.stdin.readline()
    if line:
        print(json.dumps(_answer(json.loads(line))))
