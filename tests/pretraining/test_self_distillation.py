"""Student, teacher and gram teacher: what each sees, what moves, and what the losses mean."""

import numpy as np
import pytest
import torch

from dinox_hf.data.batches import PretrainBatch
from dinox_hf.data.masking import batch_masks
from dinox_hf.losses.sinkhorn import sinkhorn_knopp
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.schedules import Schedule
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.training.tiny import TINY

BATCH = 4


def config_of(*overrides):
    return load_config(PretrainConfig, None, [*TINY, "--model.overrides={patch_size: 8}", *overrides])


def batch_of(seed=0, gram_size=None):
    generator = torch.Generator().manual_seed(seed)
    gram = torch.randn(2 * BATCH, 3, gram_size, gram_size, generator=generator) if gram_size else None
    return PretrainBatch(
        global_crops=torch.randn(2 * BATCH, 3, 32, 32, generator=generator),
        local_crops=torch.randn(2 * BATCH, 3, 16, 16, generator=generator),
        gram_crops=gram,
        masks=torch.from_numpy(batch_masks(np.random.default_rng(seed), 2 * BATCH, (4, 4))),
        rows=torch.arange(BATCH),
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SelfDistillation(config_of())


def values_at(step, config=None):
    return Schedule(config or config_of(), images_per_step=BATCH)(step)


def test_teacher_and_gram_teacher_start_as_the_student_and_never_ask_for_gradients(model):
    for name, tensor in model.student.state_dict().items():
        assert torch.equal(tensor, model.teacher.state_dict()[name]), name
    assert not any(p.requires_grad for frozen in model.frozen_modules() for p in frozen.parameters())
    assert all(p.requires_grad for p in model.student.parameters())


def test_the_teachers_stay_in_eval_mode(model):
    model.train()
    assert model.student.training and not model.teacher.training and not model.gram_teacher.training


def test_the_teacher_sees_clean_crops_and_the_student_masked_ones(model):
    """A change under the mask reaches the targets but not the student."""
    batch = batch_of()
    changed = batch.global_crops.clone()
    crop, patch = next((i, int(mask.nonzero()[0])) for i, mask in enumerate(batch.masks) if mask.any())
    row, column = divmod(patch, 4)
    changed[crop, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 3.0
    model.eval()
    before, after = (model.student.global_tokens(crops, batch.masks)[0] for crops in (batch.global_crops, changed))
    torch.testing.assert_close(before, after)
    seen, changed_target = (model.teacher.global_tokens(crops)[0] for crops in (batch.global_crops, changed))
    assert not torch.allclose(seen[crop], changed_target[crop], atol=1e-7, rtol=0)


def test_targets_of_accumulated_micro_batches_share_one_sinkhorn():
    # With the recipe's LayerScale of 1e-5 a fresh teacher says the same of every slice; at 1 it does not.
    model = SelfDistillation(config_of("--model.overrides={patch_size: 8, layerscale_value: 1.0}"))
    first, second = batch_of(1), batch_of(2)
    joint = model.teacher_targets([first, second], temperature=0.07)
    alone = model.teacher_targets([first], temperature=0.07)
    logits = [model.teacher.dino_head(model.teacher.global_tokens(b.global_crops)[0]) for b in (first, second)]
    expected = sinkhorn_knopp(torch.cat(logits), 0.07)
    torch.testing.assert_close(torch.cat([t.cls_probs.flatten(0, 1) for t in joint]), expected)
    assert not torch.allclose(joint[0].cls_probs, alone[0].cls_probs)


def test_every_parameter_of_the_student_gets_a_gradient(model):
    batch = batch_of()
    losses, _ = model(batch, model.teacher_targets([batch], 0.07)[0], values_at(5))
    assert set(losses) == {"dino_global", "dino_local", "ibot", "koleo", "gram"}
    sum(losses.values()).backward()
    assert [name for name, p in model.student.named_parameters() if p.grad is None] == []


def test_shares_of_crop_pairs_are_those_of_the_recipe():
    """2 global and 8 local crops: 2 of 18 pairs are global-global, 16 local-global."""
    model = SelfDistillation(config_of())
    assert model.pair_shares(num_local=8) == pytest.approx((2 / 18, 16 / 18))


def test_the_teacher_follows_slowly_and_the_gram_teacher_only_when_due(model):
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    before = model.teacher.backbone.norm.bias.clone()
    values = values_at(0)
    assert not values.refresh_gram_teacher
    model.update_teachers(values, torch.tensor(True))
    moved = model.teacher.backbone.norm.bias - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - values.ema_momentum), rtol=1e-4, atol=1e-6)
    assert torch.equal(model.gram_teacher.norm.bias, before)
    values = values_at(1)  # gram.first_step is 2: after the second update
    assert values.refresh_gram_teacher
    model.update_teachers(values, torch.tensor(True))
    assert torch.equal(model.gram_teacher.norm.bias, model.teacher.backbone.norm.bias)


def test_a_step_that_is_not_finite_moves_no_teacher(model):
    with torch.no_grad():
        model.student.backbone.norm.bias.add_(1.0)
    before = model.teacher.backbone.norm.bias.clone()
    model.update_teachers(values_at(0), torch.tensor(False))
    assert torch.equal(model.teacher.backbone.norm.bias, before)


def test_larger_gram_crops_are_brought_to_the_students_grid():
    config = config_of("--crops.gram_size=48")
    model = SelfDistillation(config)
    batch = batch_of(gram_size=48)
    patches = model.gram_patches(batch, model.teacher_targets([batch], 0.07)[0], num_patches=16)
    assert patches.shape == (2 * BATCH, 16, model.student.backbone.config.hidden_size)


def test_without_a_first_step_there_is_no_gram_teacher_and_no_gram_loss():
    config = config_of("--gram.first_step=null")
    model, batch = SelfDistillation(config), batch_of()
    losses, _ = model(batch, model.teacher_targets([batch], 0.07)[0], values_at(1000, config))
    assert model.gram_teacher is None and "gram" not in losses


def test_the_second_look_at_a_micro_batch_drops_the_same_slices_as_the_first(monkeypatch):
    """KoLeo's gradient belongs to the tokens of the first look; with stochastic depth they have to come again."""
    overrides = "--model.overrides={patch_size: 8, drop_path_rate: 0.5, layerscale_value: 1.0}"
    config = config_of(overrides, "--losses.koleo_scope=step")
    torch.manual_seed(0)
    model, batches = SelfDistillation(config), [batch_of(1), batch_of(2)]
    looks, look = [], model.student.global_tokens
    monkeypatch.setattr(model.student, "global_tokens", lambda *a: looks.append(look(*a)) or looks[-1])
    spreads = model.student_spread(batches)
    torch.rand(3)  # whatever else is drawn in between
    targets = model.teacher_targets(batches, 0.07)
    for batch, target, spread in zip(batches, targets, spreads, strict=True):
        model(batch, target, values_at(0), spread)
    for first, second in zip(looks[:2], looks[2:], strict=True):
        assert torch.equal(first[0], second[0])
    assert spreads[0].seed != spreads[1].seed and torch.equal(spreads[0].loss, spreads[1].loss)


def test_koleo_per_process_needs_no_first_look(model):
    assert model.student_spread([batch_of(1), batch_of(2)]) == [None, None]


def test_koleo_over_the_step_leaves_no_room_for_groups_of_processes():
    with pytest.raises(ValueError, match=r"koleo_ranks_per_group must be 1 with koleo_scope: step; found 2"):
        config_of("--losses={koleo_scope: step, koleo_ranks_per_group: 2}")
