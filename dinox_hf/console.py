"""What every command shares: how our own errors reach a person, and how a step announces itself."""

import errno
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUR_FOLDERS = {"dinox_hf", "training", "dataset_scripts"}
_ROOT = Path(__file__).resolve().parents[1]


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; a mistake of the user's ends in one paragraph and exit code 2, not in a traceback.

    Our code raises ValueError for what a user gave us and RuntimeError for what the world did, each with what was
    expected, what was found and how to mend it. Only errors raised on our own lines are shown that way: one that comes
    out of a library is a bug of ours and keeps its traceback.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        if not _is_raised_by_us(error):
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _DISK_IS_FULL:
            raise
        print(
            f"\nerror: Expected room on the disk; found: {error}. Free some space, then give the same command again; "
            f"a run that has begun goes on with --resume.",
            file=sys.stderr,
        )
        sys.exit(2)


def _is_raised_by_us(error: BaseException) -> bool:
    last_frame = traceback.extract_tb(error.__traceback__)[-1]
    try:
        room = Path(last_frame.filename).resolve().relative_to(_ROOT).parts[0]
    except ValueError:
        return False
    return room in _OUR_FOLDERS
