"""Files that are whole or absent, also after a power cut: written under another name, flushed, then renamed."""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

UNFINISHED = ".unfinished"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, and give it its own name when its bytes are on the disk.

    Args:
        path: the name of the finished file.
        write: takes the path to write to. If it fails, nothing is left.
    """
    # Jobs of one array may run on several machines: a process number alone would not be unique.
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        write(unfinished)
        flush(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for a text."""
    write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def delete_unfinished(folder: Path) -> None:
    """Delete what killed processes were writing into a folder."""
    for path in folder.glob(f"*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk: a rename alone may survive its bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
