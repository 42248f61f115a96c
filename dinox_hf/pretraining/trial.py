"""One short trial of a configuration: the real training program in a process of its own, stopped once it has its pace.

Nothing is imitated: what is timed is what will run. A process of its own means that one which runs out of memory, or
is ended by the system, is a result like any other and leaves nothing behind.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .config import PretrainConfig

_POLL_S = 0.2
_NEVER = 1_000_000_000  # steps between checkpoints or pictures
_OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is tried. `batch_size` times `accumulate` are the images of one update."""

    batch_size: int
    accumulate: int
    num_workers: int
    pin_memory: bool | None  # None: as the run has it

    @property
    def arguments(self) -> list[str]:
        """The setting as arguments of training/pretrain.py."""
        pinned = [] if self.pin_memory is None else [f"--data.pin_memory={str(self.pin_memory).lower()}"]
        batch = [f"--batch.size={self.batch_size}", f"--batch.accumulate={self.accumulate}"]
        return [*batch, f"--data.num_workers={self.num_workers}", *pinned]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a setting; without a fault the numbers of its last log."""

    setting: Setting
    images_per_second: float = 0.0  # through the whole loop, each image once
    share_waiting_for_data: float = 0.0
    memory_gb: float = 0.0  # peak on the device, or resident on a CPU
    fault: str = ""

    @property
    def is_out_of_memory(self) -> bool:
        """Then a larger micro-batch need not be tried."""
        return _OUT_OF_MEMORY in self.fault


def try_setting(
    setting: Setting, config: PretrainConfig, program: Sequence[str], folder: Path, num_steps: int, timeout_s: float
) -> Trial:
    """Train for two logs and read the pace of the second; the first warms up.

    Args:
        setting: what is tried.
        config: the run's.
        program: training/pretrain.py with the run's own arguments.
        folder: an empty one; only metrics and the program's words are written there.
        num_steps: updates between two logs.
        timeout_s: seconds for the whole trial.
    """
    output = folder / "run"
    arguments = [
        *setting.arguments,
        f"--output={output}",
        f"--log_every={num_steps}",
        f"--steps={max(config.steps, 2 * num_steps + 1)}",  # its end, with picture and checkpoint, is never reached
        f"--save_every={_NEVER}",
        f"--picture_every={_NEVER}",
        "--keep_every=null",
        "--trackers=[]",
    ]
    with (folder / "words.txt").open("w") as words:
        # A session of its own, so that the loader's workers end with it.
        process = subprocess.Popen(
            [*program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            record = _record_of_step(2 * num_steps, output / "metrics.jsonl", process, timeout_s)
            code = process.poll()
        finally:
            _end(process)
    if record is None:
        late = f"no second log in {timeout_s:g} s"
        return Trial(setting=setting, fault=late if code is None else _fault(code, folder / "words.txt"))
    names = ("images_per_second", "share_waiting_for_data", "memory_gb")
    return Trial(setting=setting, **{name: record[name] for name in names})


def _record_of_step(step: int, metrics: Path, process: subprocess.Popen, timeout_s: float) -> dict[str, float] | None:
    """The log after `step` updates, or None if the process ends or the time is up before."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        has_ended = process.poll() is not None
        # The last line may be half written.
        lines = metrics.read_text().splitlines(keepends=True) if metrics.is_file() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        if reached := [record for record in records if record["step"] >= step]:
            return reached[0]
        if has_ended:
            return None
        time.sleep(_POLL_S)
    return None


def _end(process: subprocess.Popen) -> None:
    """End the process and its workers at once: SIGTERM would have it save a checkpoint first."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _fault(code: int, words: Path) -> str:
    """Why a trial has no number, in a few words."""
    text = words.read_text(errors="replace")
    if _OUT_OF_MEMORY in text.lower():
        return f"{_OUT_OF_MEMORY} on the device"
    if code == -signal.SIGKILL:
        return f"killed by the system, which was {_OUT_OF_MEMORY}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    mistakes = [line for line in lines if line.startswith("error: ")]
    return (mistakes or lines or [f"ended with exit code {code}"])[-1]
