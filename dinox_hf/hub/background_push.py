"""Pushes while a run trains: each in a process of its own, so that none can stop or slow the steps."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# By these a process would take itself for a part of the training.
_OF_THE_LAUNCHER = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "MASTER_")
_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"}
_SECONDS_AT_THE_END = 900


class BackgroundPush:
    """Starts `publish.py RUN --repo … --push` after some checkpoints, one at a time, and tells how it ended.

    Args:
        script: training/publish.py.
        run: the run folder; what the pushes print goes to its push.log.
        repo: owner/name; None pushes nothing.
        every_steps: a push is due after so many steps, and after the last.
        say: how a line reaches the person who watches.
    """

    def __init__(
        self, script: Path, run: Path, repo: str | None, every_steps: int, say: Callable[[str], None] = print
    ) -> None:
        self.script, self.run, self.repo, self.every_steps, self.say = script, run, repo, every_steps, say
        self.log = run / "push.log"
        self.process: subprocess.Popen | None = None

    def after_save(self, step: int, is_last: bool) -> None:
        """Push the checkpoint that was saved after this step, if one is due and none is on its way."""
        if self.repo is None or ((step + 1) % self.every_steps and not is_last):
            return
        if is_last:
            self._wait()
        elif self.process is not None and self.process.poll() is None:
            self.say(f"The last push to {self.repo} is still on its way; step {step + 1} is left out. See {self.log}.")
            return
        self._tell()
        command = [sys.executable, str(self.script), str(self.run), "--repo", self.repo, "--push"]
        try:
            with self.log.open("a") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=_own_environment(),
                    start_new_session=True,  # Ctrl-C means the training
                )
        except OSError as error:
            self.say(f"A push to {self.repo} could not be started: {error}. Training goes on.")

    def finish(self) -> None:
        """Wait for the last push and tell how it ended."""
        self._wait()
        self._tell()

    def _wait(self) -> None:
        if self.process is not None:
            try:
                self.process.wait(_SECONDS_AT_THE_END)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _tell(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            how = "arrived" if code == 0 else f"failed with exit code {code}, which harms nothing here"
            self.say(f"A push to {self.repo} {how}. See {self.log}.")


def _own_environment() -> dict[str, str]:
    """The environment without what the launcher of the training put there."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _RANKS and not name.startswith(_OF_THE_LAUNCHER)
    }
