"""Recomputation: every policy gives the gradients of none, and computes again what it says."""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.pretraining.test_self_distillation import batch_of, config_of, values_at

DEPTH = 4
RANDOM = "{patch_size: 8, drop_path_rate: 0.5, pos_embed_rescale: 2.0, layerscale_value: 1.0}"


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket] += 1
        return function(*args, **(kwargs or {}))


def gradients_of(policy, autocast=None):
    """Gradients of the student by name, and what the backward pass called."""
    torch.manual_seed(0)
    model, batch = (
        SelfDistillation(config_of(f"--model.checkpointing={policy}", f"--model.overrides={RANDOM}")),
        batch_of(),
    )
    torch.manual_seed(1)  # the draws of stochastic depth and of RoPE
    with autocast or nullcontext():
        losses, _ = model(batch, model.teacher_targets([batch], 0.07)[0], values_at(5))
    with Calls() as calls:
        sum(losses.values()).backward()
    return {name: parameter.grad for name, parameter in model.student.named_parameters()}, calls.counts


def differing(found, expected):
    return [name for name, gradient in expected.items() if not torch.equal(found[name], gradient)]


@pytest.mark.parametrize("policy", ["selective", "block"])
def test_no_policy_changes_a_bit_of_a_gradient(policy):
    expected, _ = gradients_of("none")
    found, _ = gradients_of(policy)
    assert differing(found, expected) == []


@pytest.mark.parametrize("policy", ["selective", "block"])
def test_under_bf16_gradients_of_blocks_are_those_of_casting_at_every_call(policy):
    expected, _ = gradients_of("none", torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False))
    found, _ = gradients_of(policy, torch.autocast("cpu", dtype=torch.bfloat16))
    assert [name for name in differing(found, expected) if ".layer." in name] == []


def test_selective_computes_no_product_of_a_block_again():
    aten = torch.ops.aten
    none, selective, block = (gradients_of(policy)[1] for policy in ("none", "selective", "block"))
    forward = aten._scaled_dot_product_flash_attention_for_cpu
    assert (none[forward], selective[forward], block[forward]) == (0, 0, 2 * DEPTH)  # two sizes of crops
    assert none[aten.addmm] == selective[aten.addmm] < block[aten.addmm]
    assert none[aten.native_layer_norm] == 0 and selective[aten.native_layer_norm] == 2 * 2 * DEPTH
