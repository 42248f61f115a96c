"""Numbers and pictures reach the run folder and every tracker that is there, without a network."""

import importlib.util
import json

import numpy as np
import pytest
from accelerate import Accelerator

from dinox_hf.pretraining.tracking import JsonLines, available_trackers, log_picture, start_trackers


def test_a_resumed_run_drops_the_lines_its_checkpoint_does_not_know(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    lines = JsonLines(path, last_step=2)
    lines.append({"step": 3, "again": True})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "again": True},
    ]
    JsonLines(path, last_step=0)
    assert path.read_text() == ""


def test_a_kill_while_lines_are_dropped_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    import os

    def killed(*_):
        raise KeyboardInterrupt

    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        JsonLines(path, last_step=1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n' and list(tmp_path.iterdir()) == [path]


def test_a_tracker_that_is_not_installed_is_named_in_one_line_and_left_out(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name))
    said = []
    assert available_trackers(("tensorboard", "wandb"), said.append) == ["tensorboard"]
    assert len(said) == 1 and "wandb is not installed" in said[0] and "metrics.jsonl" in said[0]
    assert available_trackers(("wandb",), said.append) is None
    assert available_trackers((), said.append) is None and len(said) == 2


def test_a_misspelt_tracker_names_the_trackers():
    with pytest.raises(ValueError, match=r"among tensorboard, trackio, wandb; found tensorbord.*--trackers=\[\]"):
        available_trackers(("tensorbord",))


def test_tensorboard_gets_numbers_and_pictures_in_the_run_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=str(tmp_path))
    start_trackers(accelerator, tmp_path, is_resumed=False)
    accelerator.log({"cls_loss": 2.5}, step=7)
    picture = np.zeros((12, 20, 3), dtype=np.uint8)
    picture[:, 10:] = 255
    log_picture(accelerator, "pictures/teacher", picture, step=7)
    accelerator.end_training()
    events = EventAccumulator(str(tmp_path / "dinox-hf"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("cls_loss")] == [(7, 2.5)]
    (image,) = events.Images("pictures/teacher")
    assert (image.step, image.height, image.width) == (7, 12, 20)


class Recorded:
    """Stands for a tracker of Accelerate."""

    def __init__(self, name):
        self.name, self.calls = name, []

    def log(self, values, step):
        self.calls.append((values, step))

    def log_images(self, values, step):
        self.calls.append((values, step))


def test_wandb_gets_a_list_of_pictures():
    accelerator = type("Accelerator", (), {"trackers": [Recorded("wandb")]})
    picture = np.zeros((2, 2, 3), dtype=np.uint8)
    log_picture(accelerator, "pictures/teacher", picture, step=3)
    ((values, step),) = accelerator.trackers[0].calls
    assert step == 3 and values["pictures/teacher"][0] is picture


def test_trackio_gets_numbers_and_pictures_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    import trackio.utils

    folder = tmp_path / "run"
    folder.mkdir()
    accelerator = Accelerator(cpu=True, log_with="trackio")
    start_trackers(accelerator, folder, is_resumed=False)
    accelerator.log({"cls_loss": 2.5}, step=7)
    log_picture(accelerator, "pictures/teacher", np.zeros((12, 20, 3), dtype=np.uint8), step=7)
    media = list((trackio.utils.TRACKIO_DIR / "media" / "dinox-hf").rglob("*.png"))
    accelerator.end_training()
    assert any(path.parent.name == "7" and "run-" in path.parent.parent.name for path in media)
