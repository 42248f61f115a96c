"""Chains of commands side by side; each finishes its step and saves when the user says stop."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

_POLL_S = 1.0
_SHOWN_CHARACTERS = 1500


@dataclass(frozen=True)
class Job:
    """A command that can be run again and then goes on where it stopped."""

    name: str
    command: tuple[str, ...]
    log: Path  # what it prints
    num_steps: int
    steps_done: Callable[[], int]  # as far as is known from outside

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.steps_done() >= self.num_steps


def run_side_by_side(chains: Sequence[Sequence[Job]], num_workers: int, unit: str = "step") -> None:
    """Run the jobs of each chain one after another, and the chains beside each other; finished jobs are skipped.

    Each job computes with one thread. Ctrl-C or SIGTERM is handed on to the running jobs and waited for.

    Args:
        chains: jobs in their order; of different chains none needs another.
        num_workers: jobs at once.
        unit: what the jobs count.

    Raises:
        RuntimeError: a job failed or stopped before its end; the others are stopped too.
        KeyboardInterrupt: after all jobs have stopped.
    """
    jobs = [job for chain in chains for job in chain]
    waiting = deque(deque(job for job in chain if not job.is_finished) for chain in chains)
    running: list[tuple[subprocess.Popen, deque[Job]]] = []
    with _interrupted_by_sigterm(), tqdm(total=sum(job.num_steps for job in jobs), unit=unit) as bar:
        bar.initial = bar.n = sum(job.steps_done() for job in jobs)
        try:
            while waiting or running:
                while waiting and len(running) < num_workers:
                    if chain := waiting.popleft():
                        running.append((_start(chain[0]), chain))
                time.sleep(_POLL_S)
                for process, chain in [pair for pair in running if pair[0].poll() is not None]:
                    running.remove((process, chain))
                    _check(process, chain.popleft())
                    waiting.appendleft(chain)
                bar.set_description(", ".join(chain[0].name for _, chain in running))
                bar.update(sum(job.steps_done() for job in jobs) - bar.n)
        finally:
            for process, _ in running:
                process.terminate()
            for process, _ in running:
                process.wait()


def _start(job: Job) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(job.command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _check(process: subprocess.Popen, job: Job) -> None:
    if process.returncode == 0 and job.is_finished:
        return
    end = job.log.read_text(errors="replace").replace("\r", "\n")[-_SHOWN_CHARACTERS:]
    raise RuntimeError(
        f"Expected {job.name} to reach step {job.num_steps}; found it ended at step {job.steps_done()} with exit code "
        f"{process.returncode}. Its last lines in {job.log}:\n{end}\nMend what they name and run the same command "
        f"again: finished steps are kept."
    )


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends like Ctrl-C, or the jobs would be left behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
