"""What a power cut or a full disk does to a run: from the last whole checkpoint it is the same run."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import training.pretrain as script
from dinox_hf.console import run_command
from dinox_hf.pretraining.run import Run
from tests.training.test_pretrain import assert_same_run
from tests.training.tiny import TINY, tiny_config, tiny_set

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set") / "built")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of an uninterrupted run, with checkpoints after steps 4 and 6."""
    output = tmp_path_factory.mktemp("run") / "whole"
    script.main(tiny_config(data, output))
    return output


def names(run):
    return sorted(folder.name for folder in (run / "checkpoints").iterdir())


def test_after_a_power_cut_the_run_goes_on_from_the_last_whole_checkpoint(data, whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    newest = run / "checkpoints" / "step_00000006"
    with (newest / "training.safetensors").open("r+b") as file:
        file.truncate(1000)
    # What else a cut may leave: a log that ends in zeros, half a record, half a checkpoint.
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(bytes(512))
    (run / "run.yaml.0123.unfinished").write_text("output: x")
    (run / "checkpoints" / ".step_00000008.building").mkdir()
    script.main(tiny_config(data, run, "--keep_checkpoints=1"), resume="auto")
    said = capsys.readouterr().out
    assert "Checkpoint step_00000006 is damaged (training.safetensors has 1000 of" in said
    assert "step_00000006 is kept as" in said
    assert_same_run(whole, run)
    assert names(run) == ["damaged_step_00000006", "step_00000006"]
    assert not list(run.glob("*.unfinished"))


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(data, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "backbone" / "model.safetensors").write_bytes(b"")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RuntimeError, match=r"only damaged ones \(step_00000006: .*; step_00000004: .*from a copy"):
        script.main(tiny_config(data, run), resume="auto")
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("text", [None, "", "steps: [", "steps: 6\n"])
def test_a_run_without_its_record_is_not_continued(text, data, whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "run.yaml").unlink()
    if text is not None:
        (run / "run.yaml").write_text(text)
    with pytest.raises(RuntimeError, match=r"--resume expects .*run.yaml, which says .* damaged. Bring it back"):
        script.main(tiny_config(data, run), resume="always")


@contextmanager
def files_of_at_most(size):
    """The operating system refuses to let any file grow further: a full disk with another number on it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Room for all files of a checkpoint but the largest; and for half a line of the log.
@pytest.mark.parametrize(
    ("work", "room", "message"),
    [
        ("save", 4 << 20, r"write checkpoint .*step_00000004; found: .*Earlier checkpoints are untouched"),
        ("log", None, r"add a line to .*metrics.jsonl; found: "),
    ],
)
def test_a_full_disk_ends_the_command_in_words_and_resuming_gives_the_same_run(
    work, room, message, data, whole, tmp_path, monkeypatch, capsys
):
    run, do = tmp_path / "run", getattr(Run, work)

    def without_room(self, step, *arguments):
        if step != 3:
            return do(self, step, *arguments)
        size = (run / "metrics.jsonl").stat().st_size + 100
        with files_of_at_most(room or size):
            return do(self, step, *arguments)

    monkeypatch.setattr(Run, work, without_room)
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}")
    arguments = ["pretrain.py", str(empty), *TINY, f"--data.folder={data}", f"--output={run}", "--resume", "auto"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        run_command(script.command)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and os.strerror(errno.EFBIG) in error and "with --resume" in error
    assert re.search("error: Expected to " + message, error), error
    assert names(run) == ["step_00000002"]
    monkeypatch.setattr(Run, work, do)
    run_command(script.command)
    assert_same_run(whole, run)


def can_mount():
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.long
def test_a_disk_that_is_really_full_leaves_the_previous_checkpoint(data, whole, tmp_path):
    """The real command on a file system with room for one checkpoint and a half, then on a larger one."""
    if not can_mount():
        pytest.skip("this machine lets no user mount a file system")
    (tmp_path / "disk").mkdir()
    (tmp_path / "empty.yaml").write_text("{}")
    arguments = [str(tmp_path / "empty.yaml"), *TINY, f"--data.folder={data}", "--output=disk/run", "--resume", "auto"]
    steps = """
        mount -t tmpfs -o size=15m tmpfs disk
        "$@" > first.txt 2>&1; echo $? > status.txt; ls -A disk/run/checkpoints > left.txt
        mount -o remount,size=100m disk
        "$@" > second.txt 2>&1; cp -r disk/run run
    """
    command = ["unshare", "-Urm", "bash", "-c", steps, "steps", sys.executable, str(script.__file__), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    first = (tmp_path / "first.txt").read_text()
    assert (tmp_path / "status.txt").read_text() == "2\n", first
    assert "error: Expected to write checkpoint disk/run/checkpoints/step_00000004; found: " in first
    assert os.strerror(errno.ENOSPC) in first and "Traceback" not in first
    assert (tmp_path / "left.txt").read_text() == "step_00000002\n"
    assert_same_run(whole, tmp_path / "run")
