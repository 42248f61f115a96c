"""A kill at any operation of a save leaves a whole checkpoint, and nothing that the next save does not clear."""

import itertools
import os

import pytest
from safetensors import SafetensorError

from dinox_hf.pretraining import checkpoint
from dinox_hf.pretraining.checkpoint import save_checkpoint
from dinox_hf.pretraining.checkpoint_folders import checkpoints, damage
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.run import image_processor
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.training.tiny import tiny_config

# What changes the disk or waits for it, where Python asks for it; safetensors writes its file by itself.
OPERATIONS = [(os, name) for name in ("mkdir", "fsync", "rename", "unlink", "rmdir")] + [(checkpoint, "save_file")]


class Killed(BaseException):
    """Stands for a kill -9: nothing of ours runs after it."""


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """save(run, step), which keeps one checkpoint."""
    config = tiny_config(tmp_path_factory.getbasetemp(), tmp_path_factory.getbasetemp())
    model = SelfDistillation(config)
    optimizer = build_optimizer(model.student.named_parameters(), depth=2)
    return lambda run, step: save_checkpoint(run, step, model, optimizer, image_processor(config), keep=1)


def killed_at(fatal, monkeypatch):
    """Let operation number `fatal` be the last; a file that safetensors should write is half written then."""
    calls = itertools.count()

    def counted(do, name):
        def called(*arguments, **options):
            if next(calls) == fatal:
                if name == "save_file":
                    arguments[1].write_bytes(b"half a file")
                raise Killed
            return do(*arguments, **options)

        return called

    for where, name in OPERATIONS:
        monkeypatch.setattr(where, name, counted(getattr(where, name), name))


def test_a_kill_at_any_operation_of_a_save_leaves_a_whole_checkpoint(save, tmp_path, monkeypatch):
    newest = []
    for fatal in itertools.count():
        run = tmp_path / str(fatal)
        save(run, 2)
        with monkeypatch.context() as patched:
            killed_at(fatal, patched)
            try:
                save(run, 4)
            except Killed:
                killed = True
            else:
                killed = False
        left = checkpoints(run)
        assert left and all(damage(folder) is None for folder in left), f"killed at operation {fatal}"
        newest.append(left[-1].name)
        if not killed:
            break
        save(run, 6)
        assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step_00000006"]
    # Killed before the rename, after it, and not at all.
    assert newest.count("step_00000002") > 10 and newest.count("step_00000004") > 5
    assert newest == sorted(newest)


def test_a_full_disk_is_told_and_leaves_nothing_of_the_new_checkpoint(save, tmp_path, monkeypatch):
    save(tmp_path, 2)

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RuntimeError, match=r"step_00000004; found: .*No space left.*untouched.*--resume"):
        save(tmp_path, 4)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
