"""The files of an input folder, plain or inside zip archives, which are read without unpacking them to disk."""

import os
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from ..volume import Rejection

ARCHIVE_SUFFIX = ".zip"
MOST_NESTED = 2  # archives inside archives: TCIA packs zips of zips, nobody more
# Scans shrink to a third; an archive inside an archive that shrinks a hundredfold is a trap or garbage.
MOST_SHRUNK = 100
READABLE_PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


class UnreadableFile(Rejection):
    """A Rejection of a file that may have been a slice of any series in its folder."""


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of the input: on disk, or a member of a zip archive as TCIA delivers them."""

    root: Path
    path: str  # of the file or its archive, relative to root
    member: str | None = None
    outer: str | None = None  # the archive inside the archive that holds the member, if any; one line per level

    @property
    def name(self) -> str:
        """Path relative to the input folder, through the archive where there is one."""
        # Windows packs names with backslashes.
        inner = [name.replace("\\", "/").replace("\n", "/") for name in (self.outer, self.member) if name]
        return "/".join([self.path, *inner])

    def open(self) -> BinaryIO:
        """Open for reading; a member of an archive is decompressed as it is read."""
        if self.member is None:
            return open(os.path.join(self.root, self.path), "rb")
        return self.open_archive().open(self.member)

    def open_archive(self) -> zipfile.ZipFile:
        """The archive that holds this member, kept open while its neighbours are read."""
        return _open_now(self.root / self.path, self.outer)

    def size(self) -> int:
        """Number of bytes, after decompression."""
        if self.member is None:
            return os.stat(os.path.join(self.root, self.path)).st_size
        return self.open_archive().getinfo(self.member).file_size

    def read_bytes(self) -> bytes:
        """All bytes of the file."""
        with self.open() as file:
            return file.read()

    def stamp(self) -> str:
        """Name, size and time of change (size and checksum in an archive): a new stamp means new content."""
        if self.member is None:
            status = (self.root / self.path).stat()
            return f"{self.name} {status.st_size} {status.st_mtime_ns}"
        info = self.open_archive().getinfo(self.member)
        return f"{self.name} {info.file_size} {info.CRC}"


def _open_now(path: Path, outer: str | None) -> zipfile.ZipFile:
    """The archive as it is now, opened once and again when it has changed."""
    status = path.stat()
    return _open_archive(path, outer, (status.st_size, status.st_mtime_ns, status.st_ino))


@lru_cache(maxsize=4)
def _open_archive(path: Path, outer: str | None, stamp: tuple) -> zipfile.ZipFile:
    """An archive, or the archive `outer` inside it, copied to a nameless file since it must be read back and forth."""
    archive = zipfile.ZipFile(path)
    for name in outer.split("\n") if outer else ():
        # Gone by name as soon as it is open, and for good when it is closed.
        with tempfile.NamedTemporaryFile() as copy, archive.open(name) as packed:
            shutil.copyfileobj(packed, copy)
            copy.flush()
            archive = zipfile.ZipFile(copy.name)
    return archive


def require_input(path: Path) -> None:
    """Stop with a message a user can act on unless `path` is a folder or file that exists.

    Raises:
        ValueError: if there is nothing at `path`.
    """
    if not path.exists():
        raise ValueError(
            f"The input should be a folder of scans, or one file; found nothing at {path}. "
            f"Check the path for a typing error, and that the disk is mounted."
        )


def list_files(path: Path) -> Iterator[RawFile | Rejection]:
    """Every file under `path` in sorted order, so that two runs see the same sequence.

    Args:
        path: a folder, a single file or a zip archive.

    Yields:
        One `RawFile` per file and per archive member; a `Rejection` for a link that leads nowhere and for an archive,
        or a member of one, that cannot be opened.

    Raises:
        ValueError: if a folder below `path` cannot be read.
    """
    root = path if path.is_dir() else path.parent
    for file in sorted(_walk(path)) if path.is_dir() else [path]:
        relative = file.relative_to(root).as_posix()
        if _is_mac_litter(file.name):
            yield _reject_mac_litter(relative)
        elif not file.exists():
            yield Rejection(
                relative, "a link to a file that is not there", "Fetch the file, or remove the link.", loses="scan"
            )
        elif relative.lower().endswith(ARCHIVE_SUFFIX):
            yield from _list_archive(RawFile(root, relative))
        elif file.is_file():
            yield RawFile(root, relative)


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, linked folders too, each folder once. What cannot be entered stops, it is not skipped."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_closed_folder):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield from (Path(parent, name) for name in names)


def _refuse_closed_folder(error: OSError) -> None:
    raise ValueError(
        f"Every folder of the input should be readable; found {error.filename} ({error.strerror}). "
        f"Mend its permissions, or move it out of the input."
    )


def _is_mac_litter(name: str) -> bool:
    """Whether macOS left this beside a file on a foreign disk or in an archive; it is named like the file."""
    return name.startswith("._") or name.startswith("__MACOSX/") or "/._" in name


def _reject_mac_litter(name: str) -> Rejection:
    return Rejection(name, "not a scan: what macOS leaves beside a file of that name", "Nothing to do.")


def _list_archive(archive: RawFile) -> Iterator[RawFile | Rejection]:
    """Members of an archive, itself on disk or a member."""
    inner = archive.member and "\n".join(name for name in (archive.outer, archive.member) if name)
    try:
        opened = _open_now(archive.root / archive.path, inner)
        members = sorted(opened.infolist(), key=lambda info: info.filename)
        if len(members) % 65_536 != _num_members_stated(opened):
            raise zipfile.BadZipFile
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as error:
        reason = f"not a readable zip archive ({type(error).__name__})"
        yield Rejection(archive.name, reason, "Download the archive again.", loses="scan")
        return
    files = [info for info in members if not (info.is_dir() and not info.file_size)]
    if files and all(info.flag_bits & 1 for info in files):
        reason = f"its {len(files)} files are encrypted"
        yield Rejection(archive.name, reason, "Unpack it with its password.", len(files), loses="scan")
        return
    names = Counter(info.filename for info in files)
    for info in files:
        member = RawFile(archive.root, archive.path, info.filename, inner)
        problem = _find_problem(info, names)
        if _is_mac_litter(info.filename):
            yield _reject_mac_litter(member.name)
        elif problem:
            yield UnreadableFile(member.name, *problem, loses="scan")
        elif not info.filename.lower().endswith(ARCHIVE_SUFFIX):
            yield member
        elif inner and inner.count("\n") + 1 >= MOST_NESTED:
            yield Rejection(member.name, "archives nested too deeply", "Unpack them.", loses="scan")
        elif info.file_size > MOST_SHRUNK * info.compress_size:
            yield Rejection(member.name, "packed beyond reason", "Unpack it, if you trust it.", loses="scan")
        else:
            yield from _list_archive(member)


def _find_problem(info: zipfile.ZipInfo, names: Counter) -> tuple[str, str] | None:
    """Why a member cannot be taken out of its archive, and what to do."""
    if info.flag_bits & 1:
        return "encrypted in its archive", "Unpack it with its password."
    if info.compress_type not in READABLE_PACKING:
        return "packed by a method that is not read here", "Unpack the archive, and leave the folder in its place."
    if names[info.filename] > 1:
        return "in its archive more than once", "Pack the archive again."
    return None


def _num_members_stated(archive: zipfile.ZipFile) -> int | None:
    """How many members the last record of an archive counts, by 65,536; `zipfile` does not compare it."""
    archive.fp.seek(0, os.SEEK_END)
    archive.fp.seek(max(0, archive.fp.tell() - (1 << 16) - 22))
    tail = archive.fp.read()
    start = tail.rfind(b"PK\5\6")
    stated = int.from_bytes(tail[start + 10 : start + 12], "little")
    # The largest number also says that a longer record (zip64) has it.
    return len(archive.infolist()) % 65_536 if stated == 65_535 else stated
