"""A run that is hit by a signal at a step and a function call: moments are counted, not timed, on any machine alike.

`python -m tests.training.killed STEP CALL MILLISECONDS SIGNAL ARGUMENTS…` is training/pretrain.py with ARGUMENTS; the
signal goes to its whole process group, so many milliseconds after the call.
"""

import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dinox_hf.pretraining.run import Run

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "pretrain.py"


@contextmanager
def counting_calls(step: int | None = None, call: int = 0, act: Callable[[], object] = print) -> Iterator[list[int]]:
    """Count the calls and returns of Python and C functions in each step, saving and pictures included.

    Args:
        step: of those of this process, counted from 0, in which to `act`; None for never.
        call: when; a step with fewer calls is acted on as it ends.
        act: what happens then.

    Yields:
        the numbers of calls, by step.
    """
    counts, process, steps = [], os.getpid(), Run.steps

    def see(_frame: object, _event: str, _argument: object) -> None:
        counts[-1] += 1
        # Workers are forked with all that is set here.
        if len(counts) - 1 == step and counts[-1] == call and os.getpid() == process:
            act()

    def counted_steps(run: Run) -> Iterator[tuple]:
        for batches in steps(run):
            counts.append(0)
            sys.setprofile(see)
            yield batches
            sys.setprofile(None)
            if len(counts) - 1 == step and counts[-1] < call:
                act()

    Run.steps = counted_steps
    try:
        yield counts
    finally:
        sys.setprofile(None)
        Run.steps = steps


def main() -> None:
    """See above."""
    step, call, milliseconds = map(int, sys.argv[1:4])
    number = getattr(signal, sys.argv[4])
    sys.argv = [str(SCRIPT), *sys.argv[5:]]
    hit = partial(os.killpg, 0, number)
    # A moment later: within a kernel, a write or a flush as well, where no function of Python begins or ends.
    act = threading.Timer(milliseconds / 1000, hit).start if milliseconds else hit
    with counting_calls(step, call, act):
        runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    main()
