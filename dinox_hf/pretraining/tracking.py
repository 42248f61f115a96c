"""Where a run's numbers and pictures go: JSON lines in its folder always, Accelerate's trackers on top."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from ..data.durable_files import flush, write_text_whole

TRACKERS = ("tensorboard", "trackio", "wandb")
_PROJECT = "dinox-hf"


class JsonLines:
    """One JSON object a line, with its step; a resumed run drops the lines that its checkpoint does not know yet."""

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        is_known = path.is_file() and last_step > 0
        lines = path.read_text(errors="replace").splitlines(keepends=True) if is_known else []
        # Whole or not at all: a second kill just now must not take the log of two weeks with it.
        write_text_whole(path, "".join(line for line in lines if _step_of(line) <= last_step))

    def append(self, record: dict[str, object]) -> None:
        """Add one line; it is on its way to the disk when this returns.

        Raises:
            RuntimeError: the disk refused.
        """
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RuntimeError(
                f"Expected to add a line to {self.path}; found: {error}. Free some space, then go on from the last "
                f"checkpoint with --resume."
            ) from error

    def flush(self) -> None:
        """Wait until all lines are on the disk: a checkpoint that outlives a power cut has its log with it."""
        if self.path.exists():
            flush(self.path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # the half line of a killed run


def say_once(line: str) -> None:
    """Print a line on the first process; the launcher has said which that is before there is an Accelerator."""
    if os.environ.get("RANK", "0") == "0":
        print(line)


def available_trackers(names: tuple[str, ...], say: Callable[[str], None] = say_once) -> list[str] | None:
    """The trackers among these that are installed, None for none; each that is not is named in one line.

    A run of days should not end because a machine lacks a viewer: its numbers are in metrics.jsonl anyway.

    Raises:
        ValueError: a name that is no tracker.
    """
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise ValueError(
            f"trackers expects names among {', '.join(TRACKERS)}; found {', '.join(unknown)}. Correct the name, or "
            f"set --trackers=[] for metrics.jsonl and pictures/ alone."
        )
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    for name in missing:
        say(f"Tracker {name} is not installed and is left out (pip install {name}); metrics.jsonl holds all numbers.")
    return [name for name in names if name not in missing] or None


def start_trackers(accelerator: Accelerator, folder: Path, is_resumed: bool) -> None:
    """Open the trackers under the run's name; a resumed run goes on where the tracker has it.

    Args:
        accelerator: made with `available_trackers`.
        folder: of the run; it exists.
        is_resumed: whether the run continues.

    TensorBoard writes into the run folder. Trackio writes to its local store ($TRACKIO_DIR), where
    `trackio show --project dinox-hf` finds it. W&B obeys its own WANDB_MODE: `offline` writes into the run folder.
    """
    if not accelerator.log_with:
        return
    # Many run folders are called "run": the digest keeps them apart.
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    name = f"{folder.resolve().parent.name}-{folder.name}-{digest}"
    resume = "allow" if is_resumed else None
    options = {
        "trackio": {"name": name, "resume": resume or "never", "embed": False},
        "wandb": {"name": name, "id": name, "resume": resume, "dir": str(folder)},
    }
    accelerator.init_trackers(_PROJECT, init_kwargs=options)
    for tracker in accelerator.trackers:
        accelerator.print(f"Tracker {tracker.name}: {_where(tracker.name, folder)}")


def log_picture(accelerator: Accelerator, name: str, picture: np.ndarray, step: int) -> None:
    """Send one picture, (H, W, 3) uint8, to every tracker; each wants it in another form."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: picture[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({name: [picture]}, step=step)
        elif tracker.name == "trackio":
            # Accelerate's tracker knows no images, but hands any value on.
            from trackio import Image

            tracker.log({name: Image(picture)}, step=step)


def _where(name: str, folder: Path) -> str:
    return {
        "tensorboard": f"tensorboard --logdir {folder}",
        "trackio": f"trackio show --project {_PROJECT}",
        "wandb": f"see {folder / 'wandb'} or wandb.ai, as WANDB_MODE says",
    }[name]
