"""The checkpoints of a run as folders: which are as they were written, which is the newest, which may go.

A folder `step_…` appears by one rename and disappears by one, so a kill leaves it complete or absent. `state.json`
holds the size and CRC-32 of every file beside it: what a power cut or a broken disk does to them later is found out
before a run goes on from it. CRC-32 runs at some GB/s; it stands against accidents, not against forgery.
"""

import json
import re
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..data.durable_files import flush

_STATE = "state.json"
_CHUNK = 1 << 24  # bytes


def seal(folder: Path, step: int) -> None:
    """Write `state.json` as the last file of a checkpoint, and wait until all of it is on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): [path.stat().st_size, _crc32(path)] for path in files}
    state = folder / _STATE
    state.write_text(json.dumps({"step": step, "files": sums}, indent=1))
    for path in files:
        path.chmod(state.stat().st_mode)  # safetensors lets the owner alone read its files, whatever the umask says
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def step_of(checkpoint: Path) -> int:
    """The number of updates in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step_"))


def checkpoints(run_folder: Path) -> list[Path]:
    """Every checkpoint of a run, oldest first, damaged or not."""
    found = [path for path in run_folder.glob("checkpoints/step_*") if re.fullmatch(r"step_\d+", path.name)]
    return sorted(found, key=step_of)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None if every file is as it was written. Reads all of it."""
    try:
        state = json.loads((checkpoint / _STATE).read_text())
        step, files = state["step"], state["files"]
    except FileNotFoundError:
        return f"{_STATE} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{_STATE} cannot be read"
    if step != step_of(checkpoint):
        return f"{_STATE} is that of step {step}"
    for name, (size, crc32) in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} of {size} bytes"
        if _crc32(path) != crc32:
            return f"{name} holds other bytes than were written"
    return None


def newest_whole(run_folder: Path, tell: Callable[[str], None]) -> Path | None:
    """The newest checkpoint without damage; None where there is no checkpoint at all.

    After a power cut that is what one wants: to lose `save_every` steps once more rather than a night.

    Args:
        run_folder: the run.
        tell: called with one line for each newer checkpoint that is damaged.

    Raises:
        RuntimeError: there are checkpoints and all of them are damaged; a run never begins anew in their place.
    """
    problems = []
    for checkpoint in reversed(checkpoints(run_folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        problems.append(f"{checkpoint.name}: {problem}")
        tell(f"Checkpoint {checkpoint.name} is damaged ({problem}); the run goes on from the one before it.")
    if problems:
        raise RuntimeError(
            f"Expected a checkpoint in {run_folder / 'checkpoints'} as it was written; found only damaged ones "
            f"({'; '.join(problems)}). Bring one back from a copy, or start a new run with --output=…."
        )
    return None


def refuse_damage(checkpoint: Path) -> None:
    """Hold a checkpoint against what was written.

    Raises:
        RuntimeError: naming the file.
    """
    problem = damage(checkpoint)
    if problem:
        raise RuntimeError(
            f"Expected checkpoint {checkpoint} as it was written; found that {problem}. Take an earlier one, or bring "
            f"it back from a copy."
        )


def set_newer_aside(run_folder: Path, step: int, tell: Callable[[str], None]) -> None:
    """Rename the checkpoints after `step`, which a resumed run passed over as damaged: they must not count again."""
    for checkpoint in checkpoints(run_folder):
        if step_of(checkpoint) > step:
            aside = checkpoint.with_name(f"damaged_{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            tell(f"{checkpoint.name} is kept as {aside}; delete it when you like.")


def rotate(run_folder: Path, step: int, keep: int, keep_every: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and every `keep_every`-th; that of `step`, just written, stays.

    A folder without `state.json` is no checkpoint and never stays in the place of one.
    """
    so_far = [folder for folder in checkpoints(run_folder) if step_of(folder) <= step]
    complete = [folder for folder in so_far if (folder / _STATE).is_file()]
    for old in complete[:-keep]:
        if keep_every is None or step_of(old) % keep_every:
            with suppress(OSError):  # what cannot be deleted now is tried again after the next checkpoint
                discard(old)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint; whenever it is interrupted, no half of one is left under its name."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.deleting")
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def clear_away(run_folder: Path) -> None:
    """Delete what kills have left: checkpoints half written or half deleted."""
    for rest in run_folder.glob("checkpoints/.step_*"):
        shutil.rmtree(rest, ignore_errors=True)


def _crc32(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return total
