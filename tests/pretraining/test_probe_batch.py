"""What the fixed slices show: the same at every look, and each number on networks where it is known beforehand."""

import math

import numpy as np
import pytest
import torch

from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.slices import SliceExample
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.probe_batch import ProbeBatch, patch_similarities, probe_inputs, smallest_contrast
from dinox_hf.pretraining.run import image_processor
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.training.tiny import TINY

CPU = torch.device("cpu")


def networks(*overrides, seed=0):
    config = load_config(PretrainConfig, None, [*TINY, *overrides])
    torch.manual_seed(seed)
    return config, SelfDistillation(config)


def pixels(num=6):
    return torch.randn(num, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def redraw(backbone):
    """Let other patches be alike."""
    torch.nn.init.normal_(backbone.embeddings.patch_embeddings.weight)


def test_looking_twice_gives_the_same_numbers_and_leaves_the_networks_training():
    config, model = networks()
    probe = ProbeBatch(pixels(), config, CPU)
    first, second = (probe.report(model, 0, teacher_temperature=0.07) for _ in range(2))
    assert first == second
    assert model.student.training and not model.teacher.training
    assert all(math.isfinite(value) for value in first.values())


def test_a_teacher_that_is_the_student_diverges_from_it_by_temperature_alone():
    config, model = networks()
    probe = ProbeBatch(pixels(), config, CPU)
    same = probe.report(model, 0, teacher_temperature=config.losses.student_temperature)
    assert same["probe/kl"] == pytest.approx(0, abs=1e-6)
    assert same["probe/teacher_entropy"] == pytest.approx(same["probe/student_entropy"])
    assert probe.report(model, 0, teacher_temperature=0.001)["probe/kl"] > 0.1


def test_temperature_decides_how_sure_the_teacher_is():
    config, model = networks()
    probe = ProbeBatch(pixels(), config, CPU)
    cold, hot = (probe.report(model, 0, temperature)["probe/teacher_entropy"] for temperature in (1e-5, 1e2))
    assert cold < 0.1 and hot == pytest.approx(math.log(16), abs=1e-4)


def test_entropies_are_those_before_sinkhorn():
    """A head that always prefers one prototype: Sinkhorn would make its targets even, and the entropy log K."""
    config, model = networks()
    with torch.no_grad():
        direction = model.teacher.dino_head(model.teacher.global_tokens(pixels())[0]).mean(0).argmax()
        model.teacher.dino_head.prototypes.weight[direction] *= 1e3
    report = ProbeBatch(pixels(), config, CPU).report(model, 0, teacher_temperature=0.07)
    assert report["probe/teacher_entropy"] < 0.02


def test_constant_images_have_one_direction_and_no_contrast():
    config, model = networks()
    report = ProbeBatch(torch.full((6, 3, 32, 32), 0.3), config, CPU).report(model, 0, 0.07)
    assert report["probe/contrast"] == pytest.approx(0, abs=1e-6)
    assert report["probe/cls_rank"] == pytest.approx(1, abs=0.05)
    assert report["probe/patch_rank"] == pytest.approx(1, abs=0.05)


def test_contrast_is_nothing_within_flat_slices_and_nothing_between_equal_ones():
    flat = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)
    assert smallest_contrast(flat) == 0
    assert smallest_contrast(pixels(1).expand(4, -1, -1, -1)) == pytest.approx(0, abs=1e-6)
    assert smallest_contrast(pixels()) == pytest.approx(1, abs=0.1)


def test_similarities_are_cosines_between_the_same_places_of_every_slice():
    patches = torch.eye(2)[[0, 1, 0, 1]].expand(3, 4, 2) * 5
    expected = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]] * 2).expand(3, 4, 4)
    torch.testing.assert_close(patch_similarities(patches), expected)
    assert patch_similarities(torch.randn(2, 196, 8)).shape == (2, 64, 64)


def test_drift_is_measured_from_a_snapshot_that_a_tenth_of_the_run_renews():
    config, model = networks("--steps=100", "--gram.first_step=null")
    probe = ProbeBatch(pixels(), config, CPU)
    assert probe.report(model, 0, 0.07)["probe/gram_drift"] == 0
    redraw(model.teacher.backbone)
    drifted = probe.report(model, 5, 0.07)["probe/gram_drift"]
    assert drifted > 1e-3
    assert probe.report(model, 9, 0.07)["probe/gram_drift"] == drifted  # the tenth is over: this becomes the snapshot
    assert probe.report(model, 10, 0.07)["probe/gram_drift"] == 0


def test_drift_is_measured_from_the_gram_teacher_once_there_is_one():
    config, model = networks("--steps=100", "--gram={first_step: 2, ramp_steps: 3}")
    probe = ProbeBatch(pixels(), config, CPU)
    assert [probe.is_anchored(step) for step in (1, 2, 4, 5)] == [False, False, False, True]
    probe.report(model, 0, 0.07)
    assert probe.report(model, 5, 0.07)["probe/gram_drift"] == pytest.approx(0, abs=1e-6)
    redraw(model.gram_teacher)
    assert probe.report(model, 5, 0.07)["probe/gram_drift"] > 1e-3


def test_a_probe_that_is_put_back_reports_the_same():
    config, model = networks("--steps=100", "--gram.first_step=null")
    before, after = (ProbeBatch(pixels(), config, CPU) for _ in range(2))
    before.report(model, 0, 0.07)
    after.load_state(before.state())
    redraw(model.teacher.backbone)
    assert before.report(model, 5, 0.07) == after.report(model, 5, 0.07)
    # With another number of slices the old snapshot says nothing; the drift begins anew.
    fewer = ProbeBatch(pixels(3), config, CPU)
    fewer.load_state(before.state())
    assert fewer.report(model, 5, 0.07)["probe/gram_drift"] == 0


def test_slices_are_cut_as_training_cuts_its_field_and_not_distorted():
    config, _ = networks()
    slice_hu = np.random.default_rng(0).integers(-1000, 1000, (64, 64)).astype(np.int16)
    example = SliceExample([slice_hu], (0.5, 0.5), None, 0)
    processor = image_processor(config)
    (whole, whole_mm), (again, _) = (probe_inputs([example], processor, CropsConfig(global_size=32)) for _ in range(2))
    assert torch.equal(whole, again) and whole.shape == (1, 3, 32, 32)
    direct = processor(slice_hu, size={"height": 32, "width": 32}, return_tensors="pt").pixel_values
    torch.testing.assert_close(whole, direct)
    field, field_mm = probe_inputs([example], processor, CropsConfig(global_size=32, field_mm=8.0))
    # 64 pixels of 0.5 mm, and 8 mm, both shown on 32 pixels.
    assert whole_mm.tolist() == [[1.0, 1.0]] and field_mm.tolist() == [[0.25, 0.25]]
    # 8 mm are 16 pixels: the part is stretched to twice its size, so that neighbours differ less than in the whole.
    assert field.shape == whole.shape and field.diff(dim=-1).abs().mean() < 0.8 * whole.diff(dim=-1).abs().mean()
