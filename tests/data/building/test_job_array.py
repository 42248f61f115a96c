import os
import shutil
import signal
import socket

import pytest

from dinox_hf.data.builder import build_dataset
from dinox_hf.data.building import pieces
from dinox_hf.data.building.job_array import Job, only_builder
from tests.data.builds import contents, killed_build, start_build, write_patient

SHARES = [{"num_shards": 3, "shard_index": index} for index in range(3)]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input") / "raw"
    for number in range(7):
        write_patient(folder, number)
    return folder


@pytest.fixture(scope="module")
def whole(raw):
    build_dataset(raw, raw.parent / "whole")
    return contents(raw.parent / "whole")


@pytest.fixture
def built(monkeypatch):
    """Series as they are built, so that a test sees what was not."""
    found, write_slices = [], pieces.write_slices
    monkeypatch.setattr(
        pieces, "write_slices", lambda volume, path: found.append(volume) or write_slices(volume, path)
    )
    return found


def test_shares_are_disjoint_and_leave_nothing_out():
    shares = [Job(index, 3).share(list(range(10))) for index in range(3)]
    assert sorted(piece for share in shares for piece in share) == list(range(10))


@pytest.mark.parametrize("index", [-1, 3])
def test_a_share_outside_the_array_is_refused_with_the_numbers_that_are_inside(index):
    with pytest.raises(ValueError, match=r"0 to num_shards - 1; found .* with 3 shards.*--array=0-2"):
        Job(index, 3)


def test_jobs_in_any_order_give_the_bytes_of_one_build(raw, whole, tmp_path, capsys):
    assert build_dataset(raw, tmp_path / "out", **SHARES[2]) is None
    assert "5 of 7 series of other shares are missing" in capsys.readouterr().out
    assert build_dataset(raw, tmp_path / "out", **SHARES[0]) is None
    assert build_dataset(raw, tmp_path / "out", **SHARES[1])["num_series"] == 7
    assert contents(tmp_path / "out") == whole


def test_jobs_at_the_same_time_give_the_bytes_of_one_build(raw, whole, tmp_path):
    for attempt in range(2):
        out = tmp_path / f"out{attempt}"
        jobs = [start_build(raw, out, **share) for share in SHARES]
        for job in jobs:
            job.join()
        assert [job.exitcode for job in jobs] == [0, 0, 0]
        assert contents(out) == whole


def test_pieces_of_two_machines_are_one_set_and_none_is_built_twice(raw, whole, tmp_path, built):
    for machine in (0, 1):
        assert build_dataset(raw, tmp_path / str(machine), num_shards=2, shard_index=machine) is None
    assert len(built) == 7
    shutil.copytree(tmp_path / "1" / ".building", tmp_path / "0" / ".building", dirs_exist_ok=True)
    build_dataset(raw, tmp_path / "0")
    assert len(built) == 7
    assert contents(tmp_path / "0") == whole


def test_a_job_killed_while_it_puts_the_set_together_is_replaced_by_another(raw, whole, tmp_path, built):
    for index in (0, 1):
        build_dataset(raw, tmp_path / "out", **SHARES[index])
    assert killed_build(60, raw, tmp_path / "out", **SHARES[2])
    assert (tmp_path / "out" / ".building" / "set").exists()
    built.clear()
    build_dataset(raw, tmp_path / "out", **SHARES[0])
    assert not built and contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("running", "started", "may_start"),
    [
        (Job(), Job(), False),
        (Job(1, 4), Job(1, 4), False),
        (Job(1, 4), Job(), False),
        (Job(1, 4), Job(1, 2), False),
        (Job(1, 4), Job(2, 4), True),
    ],
)
def test_two_builders_of_one_share_are_told_of_each_other(tmp_path, running, started, may_start):
    with only_builder(tmp_path / "out", running):
        if may_start:
            with only_builder(tmp_path / "out", started):
                pass
            return
        who = f"process {os.getpid()} on {socket.gethostname()} since 2"
        message = rf"one command at a time.*{who}.*Wait until"
        with pytest.raises(RuntimeError, match=message), only_builder(tmp_path / "out", started):
            pass
    assert not (tmp_path / "out").exists(), "locks go with the last job"


def test_a_second_build_stops_and_leaves_the_first_alone(raw, whole, tmp_path):
    with only_builder(tmp_path / "out", Job()):
        (tmp_path / "out" / ".building" / "pieces").mkdir()
        (tmp_path / "out" / ".building" / "pieces" / "a.slices.parquet").write_bytes(b"work of the first")
        with pytest.raises(RuntimeError, match="under way by"):
            build_dataset(raw, tmp_path / "out")
        assert contents(tmp_path / "out")[".building/pieces/a.slices.parquet"] == b"work of the first"


def test_two_builds_at_the_same_time_end_in_one_whole_set(raw, whole, tmp_path):
    builds = [start_build(raw, tmp_path / "out") for _ in range(3)]
    for build in builds:
        build.join()
    # Those that found the first at work stopped with a message; one that came after it found the set built.
    assert 0 in {build.exitcode for build in builds} <= {0, 1}
    assert contents(tmp_path / "out") == whole


def test_the_lock_of_a_killed_process_holds_nobody_up(raw, whole, tmp_path):
    job = start_build(raw, tmp_path / "out", die_at=20, workers=1)
    job.join()
    assert job.exitcode == -signal.SIGKILL and list((tmp_path / "out" / ".building" / "locks").glob("job-*"))
    build_dataset(raw, tmp_path / "out")
    assert contents(tmp_path / "out") == whole
