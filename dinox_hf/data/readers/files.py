"""The files of an input folder, plain or inside zip archives, which are read without unpacking them to disk."""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from ..volume import Rejection


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of the input: on disk, or a member of a zip archive as TCIA delivers them."""

    root: Path
    path: str  # of the file or its archive, relative to root
    member: str | None = None

    @property
    def name(self) -> str:
        """Path relative to the input folder, through the archive where there is one."""
        return self.path if self.member is None else f"{self.path}/{self.member}"

    def open(self) -> BinaryIO:
        """Open for reading; a member of an archive is decompressed into memory."""
        return self.open_archive().open(self.member) if self.member else open(self.root / self.path, "rb")

    def open_archive(self) -> zipfile.ZipFile:
        """The archive that holds this member, kept open while its neighbours are read."""
        return _open_archive(self.root / self.path)

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


@lru_cache(maxsize=4)
def _open_archive(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


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
        One `RawFile` per file and per archive member; a `Rejection` for an archive that cannot be opened.

    Raises:
        ValueError: if a folder below `path` cannot be read.
    """
    root = path if path.is_dir() else path.parent
    for file in sorted(_walk(path)) if path.is_dir() else [path]:
        relative = file.relative_to(root).as_posix()
        if file.suffix.lower() == ".zip":
            yield from _list_archive(root, relative)
        else:
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
        yield from (Path(parent, name) for name in names if not _is_mac_litter(name) and Path(parent, name).is_file())


def _refuse_closed_folder(error: OSError) -> None:
    raise ValueError(
        f"Every folder of the input should be readable; found {error.filename} ({error.strerror}). "
        f"Mend its permissions, or move it out of the input."
    )


def _is_mac_litter(name: str) -> bool:
    """Whether macOS left this beside a file on a foreign disk or in an archive; it is named like the file."""
    return name.startswith("._") or name.startswith("__MACOSX/") or "/._" in name


def _list_archive(root: Path, path: str) -> Iterator[RawFile | Rejection]:
    try:
        with zipfile.ZipFile(root / path) as archive:
            members = sorted(archive.infolist(), key=lambda info: info.filename)
    except (zipfile.BadZipFile, OSError) as error:
        yield Rejection(path, f"not a readable zip archive ({error})", "Download the archive again.", loses_scan=True)
        return
    for info in members:
        is_encrypted = info.flag_bits & 1
        if is_encrypted:
            yield Rejection(f"{path}/{info.filename}", "encrypted in its archive", "Unpack it with its password.")
        elif not info.is_dir() and not _is_mac_litter(info.filename):
            yield RawFile(root, path, info.filename)
