"""Two processes as separate programs: under `accelerate launch`, and under the batch script of docs/clusters.md.

No SLURM was at hand: bash runs the script with stand-ins for `srun` and `scontrol`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinox_hf.pretraining.checkpoint import latest_checkpoint
from tests.distributed.processes import CONFIGS, environment_of
from tests.training.tiny import TINY, tiny_set

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "training" / "slurm" / "pretrain.sbatch"
STEPS = 100  # so many that a signal after two of them comes long before the end

# Two tasks on this machine; a signal goes to each of them, as srun's manual says.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & tasks+=($!); done
trap 'kill -USR1 "${tasks[@]}"' USR1
worst=0
for task in "${tasks[@]}"; do
    wait $task; status=$?
    while kill -0 $task 2>/dev/null; do wait $task; status=$?; done
    [ $status -eq 0 ] || worst=$status
done
exit $worst
"""
SCONTROL = """#!/bin/bash
if [ "$1 $2" = "show hostnames" ]; then echo 127.0.0.1; else echo "$@" >> "$REQUEUED"; fi
"""


class Job:
    """A command that runs the training script in two processes, and the run folder that it writes."""

    def __init__(self, folder: Path, *command: str, **environment: str) -> None:
        self.output, self.command, self.environment = folder / "run", command, environment
        settings = [f"--steps={STEPS}", f"--save_every={STEPS}", f"--picture_every={STEPS}"]
        self.arguments = [*TINY, *settings, f"--data.folder={tiny_set(folder / 'set')}", f"--output={self.output}"]

    def start(self) -> subprocess.Popen:
        environment = os.environ | {"ACCELERATE_USE_CPU": "1", "PYTHONPATH": str(ROOT)} | self.environment
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*self.command, *self.arguments], cwd=ROOT, env=environment, **pipes)

    def logged_steps(self) -> list[int]:
        path = self.output / "metrics.jsonl"
        return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []

    def stop_early(self, number: signal.Signals) -> tuple[int, str]:
        """Start, send a signal after two steps; returns exit code and output."""
        process, end = self.start(), time.monotonic() + 180
        while len(self.logged_steps()) < 2:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "the job logged nothing in three minutes"
            time.sleep(0.1)
        process.send_signal(number)
        text = process.communicate(timeout=180)[0]
        assert f"{number.name}: finishing this step, then saving." in text, text
        last_step = self.logged_steps()[-1]
        assert latest_checkpoint(self.output).name == f"step_{last_step:08d}" and last_step < STEPS, text
        assert "num_processes: 2" in (self.output / "run.yaml").read_text()
        return process.returncode, text


def test_the_scripts_line_for_sharding_says_what_the_configuration_file_says():
    words = re.findall(r"((?:ACCELERATE_USE_)?FSDP\w*)=(\S+)", SCRIPT.read_text())
    launched = environment_of("fsdp2.yaml")
    assert dict(words)["FSDP_VERSION"] == "2" and len(words) == 5
    assert {name: launched[name] for name, _ in words} == dict(words)


@pytest.mark.long
def test_a_job_out_of_time_saves_queues_again_and_is_finished_by_the_next(tmp_path):
    tools, requeued = tmp_path / "tools", tmp_path / "requeued"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    # The script makes its port of the job's number: two tests at once must not meet there.
    number = str(os.getpid())
    slurm = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "localhost", "REQUEUED": str(requeued), "PATH": path}
    job = Job(tmp_path, "bash", str(SCRIPT), **slurm)
    status, text = job.stop_early(signal.SIGUSR1)
    assert status == 0, text
    assert requeued.read_text() == f"requeue {number}\n"
    process = job.start()
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    assert requeued.read_text() == f"requeue {number}\n"  # finished: not queued once more
    assert job.logged_steps() == list(range(1, STEPS + 1))


def launched(script):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp.yaml")]
    return *launch, "--num_processes", "2", "--main_process_port", "0", script


@pytest.mark.long
def test_sigterm_to_accelerate_launch_reaches_the_run_which_saves(tmp_path):
    Job(tmp_path, *launched("training/pretrain.py")).stop_early(signal.SIGTERM)


@pytest.mark.long
def test_a_process_that_dies_ends_the_others_and_the_job_goes_on_from_the_last_checkpoint(tmp_path):
    job = Job(tmp_path, *launched("tests/distributed/dying.py"))
    job.arguments += ["--save_every=2", "--resume", "auto"]
    process = job.start()
    text = process.communicate(timeout=180)[0]  # the launcher waits for the others: none is left behind
    assert process.returncode != 0 and "(exitcode: -9) local_rank: 1" in text, text
    assert latest_checkpoint(job.output).name == "step_00000002"
    job.command = launched("training/pretrain.py")
    process = job.start()
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    assert job.logged_steps() == list(range(1, STEPS + 1))
