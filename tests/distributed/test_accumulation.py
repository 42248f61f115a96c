"""Accumulation is one batch in parts: 4 x 8 slices give what 32 at once give, in every term of the loss."""

import pytest
import torch
from accelerate import Accelerator

from tests.distributed.joint_step import (
    NUM_SLICES,
    TERMS,
    assert_same_step,
    joint_batch,
    joint_config,
    joint_model,
    joint_values,
    optimizer_of,
    part_of,
    results_of,
    take_step,
)


def step_in_parts(num_parts, *overrides, accelerator=None):
    config, size = joint_config(*overrides), NUM_SLICES // num_parts
    model, batch = joint_model(config), joint_batch()
    parts = [part_of(batch, first, size) for first in range(0, NUM_SLICES, size)]
    accelerator = accelerator or Accelerator(cpu=True)
    metrics = take_step(accelerator, model, optimizer_of(model), parts, joint_values(config))
    return results_of(model, metrics)


@pytest.fixture(scope="module")
def at_once():
    return step_in_parts(1)


def test_parts_of_the_batch_differ_in_what_could_hide_a_wrong_mean():
    masks = [part_of(joint_batch(), first, 8).masks for first in range(0, NUM_SLICES, 8)]
    assert len({int(mask.sum()) for mask in masks}) == 4
    assert len({int(mask.any(1).sum()) for mask in masks}) > 1


def test_four_times_eight_slices_are_thirty_two_in_every_loss_gradient_and_weight(at_once):
    assert all(at_once[f"metric/{term}"].abs() > 1e-4 for term in TERMS)
    assert_same_step(step_in_parts(4), at_once)


def test_a_last_part_of_one_slice_size_does_not_matter_to_koleo(at_once):
    """16 parts of 2 slices: within a part each slice's nearest neighbour would be the only other one."""
    assert_same_step(step_in_parts(16), at_once)


def test_koleo_per_micro_batch_is_another_loss(at_once):
    """What `koleo_scope: step` is for: neighbours among 8 slices are farther away than among 32."""
    found = step_in_parts(4, "--losses.koleo_scope=process")
    assert found["metric/koleo"] < at_once["metric/koleo"] - 0.01
    for term in set(TERMS) - {"koleo"}:
        torch.testing.assert_close(found[f"metric/{term}"], at_once[f"metric/{term}"], rtol=1e-5, atol=1e-6)


def test_in_bfloat16_too_the_parts_pull_where_the_whole_does(at_once, monkeypatch):
    """Both looks run under autocast, and the second one gets all its gradients."""
    accelerator = Accelerator(cpu=True)
    monkeypatch.setattr(accelerator, "autocast", lambda: torch.autocast("cpu", torch.bfloat16))
    found = step_in_parts(4, accelerator=accelerator)
    for name, gradient in at_once.items():
        if name.startswith("gradient/") and gradient.norm() > 1e-2:
            assert torch.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.97, name
