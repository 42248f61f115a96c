"""training/pretrain.py, whose second process is killed in its third step."""

import os
import runpy
import signal
from pathlib import Path

from dinox_hf.pretraining.run import Run

watch = Run.watch


def killed_in_the_third_step(run, step, *rest):
    """As if the machine had run out of memory."""
    if step == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    watch(run, step, *rest)


if __name__ == "__main__":
    Run.watch = killed_in_the_third_step
    runpy.run_path(str(Path(__file__).parents[2] / "training" / "pretrain.py"), run_name="__main__")
