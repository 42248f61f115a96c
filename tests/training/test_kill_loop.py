"""kill -9 at random moments, saving included, over and over: the run that survives is the run nobody touched."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import training.pretrain as script
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from tests.training.test_pretrain import assert_same_run
from tests.training.tiny import TINY, tiny_config, tiny_set

ROOT = Path(__file__).resolve().parents[2]
LONGER = ("--steps=60", "--save_every=1", "--keep_checkpoints=1", "--picture_every=30")


def started(data, output, *more):
    arguments = [*TINY, *LONGER, f"--data.folder={data}", f"--output={output}", "--resume=auto", *more]
    empty = output.with_suffix(".yaml")
    empty.write_text("{}")
    command = [sys.executable, "training/pretrain.py", str(empty), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=-3, stderr=-3)


def step_of(output):
    checkpoint = latest_checkpoint(output)
    return int(checkpoint.name.removeprefix("step_")) if checkpoint else 0


def wait_for(process, output, step):
    while process.poll() is None and step_of(output) < step:
        time.sleep(0.01)


@pytest.mark.long
def test_ten_kills_leave_no_trace(tmp_path):
    data = tiny_set(tmp_path / "set")
    script.main(tiny_config(data, tmp_path / "whole", *LONGER, "--data.num_workers=1"))
    draw, output = random.Random(0), tmp_path / "killed"
    for kill in range(10):
        process = started(data, output, f"--data.num_workers={kill % 2}")
        wait_for(process, output, step_of(output) + draw.randint(1, 4))
        time.sleep(draw.random() * 0.3)  # anywhere in the step, the checkpoint or the picture that comes next
        assert process.poll() is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert step_of(output) < 60
    assert started(data, output).wait() == 0
    assert_same_run(tmp_path / "whole", output)


@pytest.mark.long
def test_sigterm_to_the_whole_group_saves_and_resumes(tmp_path):
    data, output = tiny_set(tmp_path / "set"), tmp_path / "run"
    script.main(tiny_config(data, tmp_path / "whole", *LONGER))
    process = started(data, output, "--save_every=1000", "--data.num_workers=1")
    log = output / "metrics.jsonl"
    while process.poll() is None and (not log.is_file() or len(log.read_text().splitlines()) < 5):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait() == 0
    assert 5 <= step_of(output) < 60
    assert started(data, output).wait() == 0
    assert_same_run(tmp_path / "whole", output)
