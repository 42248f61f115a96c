"""Training with coordinates in millimetres: every network is told the spacing of the crops that it sees."""

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

import training.pretrain as script
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTRopePositionEmbedding
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.schedules import Schedule
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.training.tiny import tiny_config, tiny_set

METRIC = (
    "--model.overrides={patch_size: 8, drop_path_rate: 0.3, rope_coordinates: metric, rope_extent_mm: 40}",
    "--crops.field_mm=40",
    "--crops.zoom_jitter=1.3",
    "--crops.gram_size=64",
)


class Killed(Exception):
    """Stands for a kill -9: nothing of ours runs after it."""


@pytest.fixture
def data(tmp_path):
    return tiny_set(tmp_path / "set")


def one_step(config, monkeypatch):
    """The step in which the gram teacher first anchors, and the (training, spacing) of every call of a backbone."""
    calls, tables = [], Dinov3CTRopePositionEmbedding.forward

    def heard(self, grid, device, spacing_mm=None):
        calls.append((self.training, spacing_mm))
        return tables(self, grid, device, spacing_mm)

    monkeypatch.setattr(Dinov3CTRopePositionEmbedding, "forward", heard)
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    loader = script.build_loader(config, accelerator)
    torch.manual_seed(0)
    model = SelfDistillation(config)
    optimizer = build_optimizer(model.student.named_parameters(), depth=4, layerwise_decay=0.9)
    micro_batches = next(loader.steps())
    values = Schedule(config, images_per_step=loader.settings.images_per_step)(4)
    assert values.gram_weight > 0
    metrics, _ = script.training_step(accelerator, model, optimizer, micro_batches, values)
    return micro_batches[0], calls, metrics


def test_student_teacher_and_gram_teacher_are_told_the_spacing_of_their_crops(data, tmp_path, monkeypatch):
    batch, calls, metrics = one_step(tiny_config(data, tmp_path / "run", *METRIC), monkeypatch)
    assert metrics["is_finite"]
    (_, teacher), (_, student_global), (_, student_local), (_, gram) = calls
    assert [is_training for is_training, _ in calls] == [False, True, True, False]
    assert torch.equal(teacher, batch.global_spacing_mm) and torch.equal(student_global, batch.global_spacing_mm)
    assert torch.equal(student_local, batch.local_spacing_mm) and torch.equal(gram, batch.gram_spacing_mm)


def test_koleo_over_the_step_looks_twice_with_the_same_spacing(data, tmp_path, monkeypatch):
    several = ("--losses.koleo_scope=step", "--batch.size=2", "--batch.accumulate=2")
    _, calls, metrics = one_step(tiny_config(data, tmp_path / "run", *METRIC, *several), monkeypatch)
    assert metrics["is_finite"] and all(spacing_mm is not None for _, spacing_mm in calls)
    looks = [spacing_mm for is_training, spacing_mm in calls if is_training and len(spacing_mm) == 4]
    assert torch.equal(looks[0], looks[2])


@pytest.mark.long
def test_a_metric_run_killed_and_resumed_is_the_same_run(data, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    script.main(tiny_config(data, whole, *METRIC))
    take_step, steps = script.training_step, iter(range(3))

    def killed_at_the_fourth(*arguments):
        if next(steps, None) is None:
            raise Killed
        return take_step(*arguments)

    monkeypatch.setattr(script, "training_step", killed_at_the_fourth)
    with pytest.raises(Killed):
        script.main(tiny_config(data, stopped, *METRIC))
    monkeypatch.undo()
    script.main(tiny_config(data, stopped, *METRIC), resume="always")
    expected, found = (
        {
            f"{file.name}:{name}": tensor
            for file in sorted(latest_checkpoint(run).rglob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        for run in (whole, stopped)
    )
    assert len(expected) > 50 and expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
