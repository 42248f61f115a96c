"""A trial reads the pace of a program that runs on, and outlives one that does not."""

import json
import os
import sys
import textwrap
import time

import pytest

from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.trial import Setting, try_setting

SETTING = Setting(batch_size=16, accumulate=4, num_workers=2, pin_memory=False)
# A program that takes the arguments of training/pretrain.py and logs as it does, a step every twentieth of a second.
PROGRAM = """
    import json, os, sys, time
    arguments = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    folder, every = arguments["output"], int(arguments["log_every"])
    os.makedirs(folder)
    with open("arguments.json", "w") as file:
        json.dump(arguments | {"pid": os.getpid()}, file)
    for step in range(1, int(arguments["steps"]) + 1):
        time.sleep(0.05)
        FAULT
        if step == 1 or step % every == 0:
            record = {"step": step, "images_per_second": 10.0 * step, "share_waiting_for_data": 0.25, "memory_gb": 3.5}
            with open(folder + "/metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + chr(10))
"""


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """try_setting on a program with a line of fault in its loop."""
    monkeypatch.chdir(tmp_path)

    def run(fault="", timeout_s=20.0, steps=100_000):
        script = tmp_path / "program.py"
        script.write_text(textwrap.dedent(PROGRAM).replace("FAULT", fault or "pass"))
        folder = tmp_path / "trial"
        folder.mkdir()
        return try_setting(SETTING, PretrainConfig(steps=steps), [sys.executable, str(script)], folder, 3, timeout_s)

    return run


def arguments_given():
    with open("arguments.json") as file:
        return json.load(file)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_pace_is_that_of_the_second_log_and_the_program_is_ended_there(trial):
    found = trial()
    assert (found.images_per_second, found.share_waiting_for_data, found.memory_gb) == (60.0, 0.25, 3.5)
    assert not found.fault and not is_alive(arguments_given()["pid"])


def test_the_setting_reaches_the_program_and_nothing_is_saved_or_drawn(trial):
    trial(steps=4)
    arguments = arguments_given()
    assert (arguments["batch.size"], arguments["batch.accumulate"]) == ("16", "4")
    assert (arguments["data.num_workers"], arguments["data.pin_memory"]) == ("2", "false")
    assert int(arguments["steps"]) == 7  # its last step, which saves, comes after the second log
    assert int(arguments["save_every"]) > 7 and int(arguments["picture_every"]) > 7


@pytest.mark.parametrize(
    ("fault", "words", "is_out_of_memory"),
    [
        ("sys.exit('torch.OutOfMemoryError: HIP out of memory. Tried to allocate 4 GiB')", "on the device", True),
        ("print('error: batch.size must be <= 11') or sys.exit(2)", "error: batch.size must be <= 11", False),
        ("sys.exit('Memory access fault by GPU node-1')", "Memory access fault", False),
        ("os._exit(3)", "exit code 3", False),
    ],
)
def test_a_program_that_ends_early_tells_why(trial, fault, words, is_out_of_memory):
    found = trial(f"if step == 2: {fault}")
    assert words in found.fault and found.is_out_of_memory == is_out_of_memory


def test_a_program_that_the_system_kills_counts_as_out_of_memory(trial):
    found = trial("if step == 2: os.kill(os.getpid(), 9)")
    assert "killed by the system" in found.fault and found.is_out_of_memory


def test_a_program_that_hangs_is_ended(trial):
    begin = time.monotonic()
    found = trial("if step == 2: time.sleep(60)", timeout_s=1.0)
    assert "no second log in 1 s" in found.fault and time.monotonic() - begin < 20
    assert not is_alive(arguments_given()["pid"])
