"""Which code made a file: the commit of this checkout."""

import subprocess
from pathlib import Path

_DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def source_commit() -> str | None:
    """The commit of the code that runs, with `-dirty` where files differ from it; None outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), *_DESCRIBE]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
