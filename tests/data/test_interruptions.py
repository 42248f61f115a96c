"""A build may be killed at any moment: nothing is taken for a set before it is one, and the next run mends all."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dinox_hf.data.builder import build_dataset
from dinox_hf.data.building import pieces
from tests.data.builds import contents, killed_build, opens, start_build, write_patient


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input") / "raw"
    for number in range(2):
        write_patient(folder, number)
    return folder


@pytest.fixture(scope="module")
def whole(raw):
    build_dataset(raw, raw.parent / "whole")
    return contents(raw.parent / "whole")


def set_in(out):
    return {name: content for name, content in contents(out).items() if not name.startswith(".building")}


def check_kills(raw, whole, folder, steps):
    """Kill a build after each of some steps on the disk; returns whether the last one outlived its build."""
    was_killed = True
    for step in steps:
        out = folder / f"out{step}"
        was_killed = killed_build(step, raw, out)
        assert set_in(out) == whole or not opens(out, folder / "cache"), f"killed after step {step}"
        build_dataset(raw, out)
        assert contents(out) == whole, f"killed after step {step} and run again"
        if not was_killed:
            break
    return was_killed


def test_a_kill_among_the_last_steps_shows_no_half_set_and_is_mended(raw, whole, tmp_path):
    # The second half of some sixty steps of this build puts the finished pieces in place and clears up.
    assert not check_kills(raw, whole, tmp_path, range(34, 200, 4))


@pytest.mark.long
def test_a_kill_at_every_other_step_on_the_disk_is_mended_by_the_next_run(raw, whole, tmp_path):
    assert not check_kills(raw, whole, tmp_path, range(1, 200, 2))


@pytest.mark.long
def test_a_set_that_is_being_replaced_cannot_be_opened_half_way(raw, whole, tmp_path):
    write_patient(tmp_path / "other", 7)
    for step in range(1, 200, 2):
        out = tmp_path / f"out{step}"
        build_dataset(tmp_path / "other", out)
        old = contents(out)
        was_killed = killed_build(step, raw, out, overwrite=True)
        assert set_in(out) in (old, whole) or not opens(out, tmp_path / "cache"), f"killed after step {step}"
        if not was_killed:
            break
    assert not was_killed


def test_what_a_killed_build_has_finished_is_not_built_again(raw, whole, tmp_path, monkeypatch):
    written = []
    write_slices = pieces.write_slices

    def interrupted(volume, path):
        if written:
            raise KeyboardInterrupt
        written.append(volume.series_id)
        write_slices(volume, path)

    monkeypatch.setattr(pieces, "write_slices", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_dataset(raw, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".building"]
    monkeypatch.setattr(pieces, "write_slices", lambda *args: written.append("again") or write_slices(*args))
    build_dataset(raw, tmp_path / "out")
    assert written[1:] == ["again"]
    assert contents(tmp_path / "out") == whole


def test_a_piece_cut_off_by_a_copy_is_built_again(raw, whole, tmp_path):
    killed_build(30, raw, tmp_path / "out")
    first = min((tmp_path / "out" / ".building" / "pieces").glob("*.slices.parquet"))
    first.write_bytes(first.read_bytes()[:-1])
    build_dataset(raw, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_a_full_disk_keeps_what_is_finished_and_says_so(raw, whole, tmp_path, monkeypatch):
    write_slices = pieces.write_slices

    def full(volume, path):
        if volume.patient_id == "P1":
            path.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        write_slices(volume, path)

    monkeypatch.setattr(pieces, "write_slices", full)
    with pytest.raises(RuntimeError, match=r"No space left on device.*Free some space.*finished series are kept"):
        build_dataset(raw, tmp_path / "out")
    kept = [path.name.split(".", 1)[1] for path in (tmp_path / "out" / ".building" / "pieces").iterdir()]
    assert sorted(kept) == ["json", "marks.parquet", "nodules.parquet", "slices.parquet"]
    monkeypatch.undo()
    build_dataset(raw, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


@pytest.mark.long
@pytest.mark.parametrize("jobs", [[{}], [{"workers": 2}], [{"num_shards": 2, "shard_index": i} for i in (0, 1)]])
def test_kill_9_at_random_moments_again_and_again_ends_in_the_same_bytes(tmp_path, jobs):
    draw = random.Random(0)
    for number in range(12):
        write_patient(tmp_path / "raw", number)
    build_dataset(tmp_path / "raw", tmp_path / "whole")
    whole, out = contents(tmp_path / "whole"), tmp_path / "out"
    for process in [start_build(tmp_path / "raw", tmp_path / "first", **options) for options in jobs]:
        process.join()  # the first build starts the process that the others are forked from
    longest, kills, builds = 1.0, 0, 0
    while kills < 6:
        builds += 1
        assert builds <= 60, f"only {kills} of {builds} builds were still under way when they were killed"
        moment = draw.uniform(0, longest)
        processes = [start_build(tmp_path / "raw", out, **options) for options in jobs]
        time.sleep(moment)
        hit = any(process.is_alive() for process in processes)
        for process in processes:
            process.kill()
            process.join()
        kills += hit
        # How long a build takes here and now is learned on the way: kills then come at any point of it.
        longest = 1.5 * longest if hit else moment
        assert set_in(out) == whole or not opens(out, tmp_path / "cache")
        if set_in(out) == whole:  # nothing is left to kill: begin again
            shutil.rmtree(out)
    for options in jobs:
        build_dataset(tmp_path / "raw", out, **options)
    assert contents(out) == whole


def test_workers_are_deaf_to_ctrl_c_which_a_terminal_sends_to_all_processes():
    # In a fresh process, whose fork server no other test has started.
    code = """
from signal import SIG_BLOCK, SIGINT, pthread_sigmask
from dinox_hf.data.workers import worker_map
if __name__ == "__main__":
    with worker_map(2) as run:
        (masked,) = run(pthread_sigmask, [SIG_BLOCK], [()])
    assert SIGINT in masked and SIGINT not in pthread_sigmask(SIG_BLOCK, ())
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
