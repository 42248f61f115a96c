"""The files of an input folder, plain or inside zip archives, which are read without unpacking them to disk."""

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
    """
    root = path if path.is_dir() else path.parent
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    for file in files:
        relative = file.relative_to(root).as_posix()
        if file.suffix.lower() == ".zip":
            yield from _list_archive(root, relative)
        else:
            yield RawFile(root, relative)


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
        elif not info.is_dir():
            yield RawFile(root, path, info.filename)
