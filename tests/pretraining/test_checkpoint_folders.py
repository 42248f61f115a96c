"""Damage is found and named, the newest whole checkpoint is taken, and rotation never leaves a run without one."""

import json
import os
import shutil

import pytest

from dinox_hf.pretraining import checkpoint_folders
from dinox_hf.pretraining.checkpoint_folders import (
    checkpoints,
    clear_away,
    damage,
    newest_whole,
    refuse_damage,
    rotate,
    seal,
    set_newer_aside,
)


def written(run, step):
    folder = run / "checkpoints" / f"step_{step:08d}"
    (folder / "backbone").mkdir(parents=True)
    (folder / "training.safetensors").write_bytes(bytes(range(200)))
    (folder / "backbone" / "model.safetensors").write_bytes(bytes([step]) * 100)
    seal(folder, step)
    return folder


def names(run):
    return sorted(folder.name for folder in (run / "checkpoints").iterdir())


def cut_short(folder):
    with (folder / "training.safetensors").open("r+b") as file:
        file.truncate(150)


def emptied(folder):
    (folder / "backbone" / "model.safetensors").write_bytes(b"")


def one_bit_flipped(folder):
    with (folder / "training.safetensors").open("r+b") as file:
        file.seek(77)
        file.write(bytes([77 ^ 1]))


def zeroed(folder):
    (folder / "backbone" / "model.safetensors").write_bytes(bytes(100))


def lost(folder):
    (folder / "training.safetensors").unlink()


def without_state(folder):
    (folder / "state.json").unlink()


def garbage_state(folder):
    (folder / "state.json").write_bytes(b"\x00\xff" * 40)


def half_a_state(folder):
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(text[: len(text) // 2])


def state_of_another_kind(folder):
    (folder / "state.json").write_text("[]")


def state_of_another_step(folder):
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"step": 3}))


DAMAGE = {
    cut_short: "training.safetensors has 150 of 200 bytes",
    emptied: "backbone/model.safetensors has 0 of 100 bytes",
    one_bit_flipped: "training.safetensors holds other bytes than were written",
    zeroed: "backbone/model.safetensors holds other bytes than were written",
    lost: "training.safetensors is missing",
    without_state: "state.json is missing",
    garbage_state: "state.json cannot be read",
    half_a_state: "state.json cannot be read",
    state_of_another_kind: "state.json cannot be read",
    state_of_another_step: "state.json is that of step 3",
}


@pytest.mark.parametrize("kind", DAMAGE, ids=lambda kind: kind.__name__)
def test_damage_is_named_and_the_checkpoint_before_is_taken(kind, tmp_path):
    older, newer = written(tmp_path, 5), written(tmp_path, 9)
    assert newest_whole(tmp_path, pytest.fail) == newer
    kind(newer)
    said = []
    assert newest_whole(tmp_path, said.append) == older
    assert said == [f"Checkpoint step_00000009 is damaged ({DAMAGE[kind]}); the run goes on from the one before it."]
    with pytest.raises(RuntimeError, match=f"step_00000009 as it was written; found that {DAMAGE[kind]}. Take an ear"):
        refuse_damage(newer)


def test_a_run_with_damaged_checkpoints_only_does_not_begin_anew(tmp_path):
    for step, kind in ((5, lost), (9, cut_short)):
        kind(written(tmp_path, step))
    with pytest.raises(RuntimeError, match=r"only damaged .*step_00000009: .*150 of 200.*step_00000005: .*missing"):
        newest_whole(tmp_path, lambda _: None)
    assert names(tmp_path) == ["step_00000005", "step_00000009"]


def test_whoever_may_read_one_file_of_a_checkpoint_may_read_all(tmp_path):
    folder = tmp_path / "checkpoints" / "step_00000005"
    folder.mkdir(parents=True)
    (folder / "training.safetensors").touch(mode=0o600)
    seal(folder, 5)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_without_checkpoints_there_is_none(tmp_path):
    assert newest_whole(tmp_path, pytest.fail) is None


def test_steps_are_ordered_as_numbers_and_other_folders_are_no_checkpoints(tmp_path):
    for name in ("step_100", "step_00000099", "step_old", "damaged_step_00000200", ".step_00000300.building"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step_00000099", "step_100"]


def test_rotation_keeps_the_newest_and_every_so_many(tmp_path):
    for step in (2, 4, 6, 8):
        written(tmp_path, step)
    rotate(tmp_path, step=8, keep=1, keep_every=4)
    assert names(tmp_path) == ["step_00000004", "step_00000008"]


def test_a_folder_that_is_no_checkpoint_takes_no_place_from_one(tmp_path):
    """A run that went on from step 2, since 9 was damaged, writes 4 and keeps one: that is 4, not 9."""
    written(tmp_path, 2)
    without_state(written(tmp_path, 9))
    written(tmp_path, 4)
    rotate(tmp_path, step=4, keep=1, keep_every=None)
    assert newest_whole(tmp_path, lambda _: None).name == "step_00000004"


def test_a_damaged_checkpoint_that_looks_newer_costs_no_good_one(tmp_path):
    written(tmp_path, 2)
    cut_short(written(tmp_path, 9))
    written(tmp_path, 4)
    rotate(tmp_path, step=4, keep=1, keep_every=None)
    assert newest_whole(tmp_path, lambda _: None).name == "step_00000004"


def test_what_was_passed_over_is_set_aside_and_never_counts_again(tmp_path):
    said = []
    for _ in range(2):  # it may happen to the same step twice
        shutil.rmtree(tmp_path, ignore_errors=True)
        written(tmp_path, 2)
        cut_short(written(tmp_path, 9))
        set_newer_aside(tmp_path, 2, said.append)
        assert names(tmp_path) == ["damaged_step_00000009", "step_00000002"]
        assert newest_whole(tmp_path, pytest.fail).name == "step_00000002"
    assert "step_00000009 is kept as " in said[0] and "delete it when you like" in said[0]


class Killed(BaseException):
    """Stands for a kill -9: nothing of ours runs after it."""


def counted(do, calls, fatal):
    def called(*arguments, **options):
        if next(calls) == fatal:
            raise Killed
        return do(*arguments, **options)

    return called


# To delete one checkpoint takes a rename, three files and two folders; two are deleted.
@pytest.mark.parametrize("fatal", range(1, 13))
def test_a_kill_anywhere_in_a_rotation_leaves_no_half_checkpoint(fatal, tmp_path, monkeypatch):
    for step in (2, 4, 6):
        written(tmp_path, step)
    calls = iter(range(1, 100))
    for name in ("rename", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name), calls, fatal))
    with pytest.raises(Killed):
        rotate(tmp_path, step=6, keep=1, keep_every=None)
    monkeypatch.undo()
    left = checkpoints(tmp_path)
    assert left[-1].name == "step_00000006" and all(damage(folder) is None for folder in left)
    clear_away(tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_checkpoint_that_cannot_be_deleted_stops_no_run(tmp_path, monkeypatch):
    for step in (2, 4):
        written(tmp_path, step)

    def refuses(*_):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(checkpoint_folders, "discard", refuses)
    rotate(tmp_path, step=4, keep=1, keep_every=None)
    monkeypatch.undo()
    assert names(tmp_path) == ["step_00000002", "step_00000004"]
    rotate(tmp_path, step=4, keep=1, keep_every=None)
    assert names(tmp_path) == ["step_00000004"]
