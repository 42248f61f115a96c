"""Several jobs on one set: which series each builds, and locks that a killed job does not hold for ever."""

import errno
import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..durable_files import delete_unfinished

NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class Job:
    """One job of an array; the only one by default."""

    index: int = 0
    num: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.num:
            raise ValueError(
                f"shard_index should be 0 to num_shards - 1; found {self.index} with {self.num} shards. "
                f"Number the jobs from 0, as in: sbatch --array=0-{max(self.num - 1, 0)}."
            )

    def share(self, pieces: list) -> list:
        """Every num-th piece: neighbours go to different jobs, so that a patient with many series is spread."""
        return pieces[self.index :: self.num]

    @property
    def lock_name(self) -> str:
        """The file that this job locks."""
        return f"job-{self.index}-of-{self.num}.lock"

    def excludes(self, lock_name: str) -> bool:
        """Whether the job of this lock cannot run beside ours: it is the same, or shares out otherwise."""
        index, num = map(int, re.findall(r"\d+", lock_name))
        return num != self.num or index == self.index


@contextmanager
def only_builder(out: Path, job: Job) -> Iterator[None]:
    """Hold `out` for a job until it ends or dies; on the way out, remove what is worth nothing.

    Raises:
        RuntimeError: if another process builds this job, or the set with another number of shards.
    """
    building, new_folders = out / ".building", [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        building.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(
            f"OUT should be a folder that can be written; found that it is not ({error}). "
            f"Mend the permissions, or choose another OUT."
        ) from error
    with _gate(building):
        running = _running_jobs(building)
        for name, holder in running.items():
            if job.excludes(name):
                raise RuntimeError(
                    f"A set should be built by one command at a time, or by the jobs of one array with different "
                    f"--shard-index; found {out} under way by {holder}. Wait until that has ended, or stop it: "
                    f"what it has finished is kept."
                )
        lock = _take(building / "locks" / job.lock_name, wait=False)
        if not running:
            delete_unfinished(building / "pieces")
    worth_keeping = "pieces/*.slices.parquet"
    try:
        yield
        # A share of which nothing can be read is done as well, and what it says is for the job that finishes last.
        worth_keeping = "pieces/*"
    finally:
        with _gate(building):
            (building / "locks" / job.lock_name).unlink(missing_ok=True)
            lock.close()
            if not _running_jobs(building) and not any(building.glob(worth_keeping)):
                shutil.rmtree(building, ignore_errors=True)
                # A build that stops with a message before its first series leaves nothing.
                with suppress(OSError):
                    for folder in new_folders:
                        folder.rmdir()


@contextmanager
def only_assembler(out: Path) -> Iterator[None]:
    """Wait for the right to put the set together; the death of its holder passes it on."""
    lock = _take(out / ".building" / "locks" / "assemble.lock", wait=True)
    try:
        yield
    finally:
        lock.close()


@contextmanager
def _gate(building: Path) -> Iterator[None]:
    """Held for a moment by whoever looks which jobs run, so that two do not start at once."""
    lock = _take(building / "locks" / "gate.lock", wait=True)
    try:
        yield
    finally:
        lock.close()


def _take(path: Path, wait: bool) -> TextIO | None:
    """Lock a file until it is closed, or until this process dies; None if another process holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The last job removes the folder with its locks: one on a removed file protects nothing, so try again.
        with suppress(FileNotFoundError):
            file = open(path, "a+")  # noqa: SIM115 – the lock is held as long as it is open
            if not _lock(file, wait):
                file.close()
                return None
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M')}")
                file.flush()
                return file
            file.close()


def _lock(file: TextIO, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network disks know no locks. Pieces are whole and named by content, so that jobs do not need them; two
        # jobs that finish in the same second, or two builders started by mistake, do.
        if error.errno not in NO_LOCKS_HERE:
            raise
        print(f"The disk of {Path(file.name).parent} knows no locks: start no two builders of the same shard.")
    return True


def _running_jobs(building: Path) -> dict[str, str]:
    """Lock name and holder of every job that lives; files of dead ones are removed."""
    running = {}
    for path in (building / "locks").glob("job-*-of-*.lock"):
        file = _take(path, wait=False)
        if file is None:
            running[path.name] = f"{path.stem}, {path.read_text()}"
        else:
            path.unlink()
            file.close()
    return running
