"""kill -9 at random moments, saving included, over and over: the run that survives is the run nobody touched."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import training.pretrain as script
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from tests.training.killed import counting_calls
from tests.training.test_pretrain import assert_same_run, logged
from tests.training.tiny import TINY, tiny_config, tiny_set

ROOT = Path(__file__).resolve().parents[2]
SEED = 0  # of every draw below; another one is another ten moments
LONGER = ("--steps=60", "--save_every=1", "--keep_checkpoints=1", "--picture_every=30")


def killed_run(data, output, step, call):
    """For a process of its own."""
    with counting_calls(step, call, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        script.main(tiny_config(data, output))


def test_a_kill_at_a_random_moment_leaves_no_trace(tmp_path):
    data = tiny_set(tmp_path / "set")
    with counting_calls() as counts:
        script.main(tiny_config(data, tmp_path / "whole"))
    draw = random.Random(SEED)
    step = draw.randrange(len(counts))
    call = draw.randrange(counts[step])
    print(f"killed at call {call} of {counts[step]} in step {step + 1}")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=killed_run, args=(data, tmp_path / "killed", step, call), daemon=True)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    script.main(tiny_config(data, tmp_path / "killed", "--data.num_workers=1"), resume="auto")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def started(data, output, *hit):
    """The real command; `hit` are the arguments of tests/training/killed.py, and more of the command's own."""
    arguments = [*TINY, *LONGER, f"--data.folder={data}", f"--output={output}", "--resume", "auto"]
    empty = output.with_suffix(".yaml")
    empty.write_text("{}")
    how = ["-m", "tests.training.killed", *map(str, hit)] if hit else ["training/pretrain.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *how, str(empty), *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=-3, stderr=-3)


@pytest.mark.long
def test_ten_kills_leave_no_trace(tmp_path):
    data, output = tiny_set(tmp_path / "set"), tmp_path / "killed"
    with counting_calls() as counts:
        script.main(tiny_config(data, tmp_path / "whole", *LONGER))
    draw = random.Random(SEED)
    for kill in range(10):
        # Ten times five steps at most: no run ends before it is killed.
        step, call, milliseconds = draw.randrange(5), draw.randrange(counts[1]), draw.randrange(30)
        process = started(data, output, step, call, milliseconds, "SIGKILL", f"--data.num_workers={kill % 2}")
        assert process.wait() == -signal.SIGKILL
        print(f"killed {milliseconds} ms after call {call} of step {step + 1}; saved: {latest_checkpoint(output)}")
    assert started(data, output).wait() == 0
    assert_same_run(tmp_path / "whole", output)


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_the_whole_group_saves_and_resumes(name, tmp_path):
    data, output = tiny_set(tmp_path / "set"), tmp_path / "run"
    script.main(tiny_config(data, tmp_path / "whole", *LONGER))
    process = started(data, output, 6, 1, 0, name, "--save_every=1000", "--data.num_workers=1")
    assert process.wait() == 0
    steps = [line["step"] for line in logged(output)]
    assert steps == list(range(1, len(steps) + 1)) and 7 <= len(steps) < 60
    assert latest_checkpoint(output).name == f"step_{len(steps):08d}"
    assert started(data, output).wait() == 0
    assert_same_run(tmp_path / "whole", output)
