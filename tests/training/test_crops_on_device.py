"""A run whose crops are cut on the device: stopped and resumed, it is the same run, and it is that of the loader."""

import json

import pytest
from safetensors.torch import load_file

import training.pretrain as script
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from tests.training.tiny import tiny_config, tiny_set

ON_DEVICE = "--crops.cut_on=device"


class Killed(Exception):
    """Stands for a kill -9: nothing of ours runs after it."""


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["dino_global"] for line in lines]


def weights(checkpoint):
    files = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{file.name}:{name}": tensor for file in files for name, tensor in load_file(file).items()}


def test_a_run_killed_and_resumed_is_the_same_run_and_begins_as_the_loaders(tmp_path, monkeypatch):
    data = tiny_set(tmp_path / "set")
    whole, stopped, by_loader = tmp_path / "whole", tmp_path / "stopped", tmp_path / "by_loader"
    script.main(tiny_config(data, whole, ON_DEVICE))
    script.main(tiny_config(data, by_loader))
    assert losses(whole)[:2] == pytest.approx(losses(by_loader)[:2], abs=1e-3)

    take_step, steps = script.training_step, iter(range(3))

    def killed_at_the_fourth(*arguments):
        if next(steps, None) is None:
            raise Killed
        return take_step(*arguments)

    monkeypatch.setattr(script, "training_step", killed_at_the_fourth)
    with pytest.raises(Killed):
        script.main(tiny_config(data, stopped, ON_DEVICE))
    monkeypatch.undo()
    script.main(tiny_config(data, stopped, ON_DEVICE), resume="always")
    expected, found = (weights(latest_checkpoint(run)) for run in (whole, stopped))
    assert len(expected) > 50 and expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
