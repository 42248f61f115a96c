import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from dinox_hf.pretraining.optimizer import (
    build_optimizer,
    clip_gradients,
    multipliers,
    parameter_groups,
    set_step_values,
    step_if_finite,
)

NAMES = ["backbone.embeddings.cls_token", "backbone.model.layer.1.mlp.up_proj.weight", "dino_head.prototypes.weight"]


def small_student():
    torch.manual_seed(0)
    return nn.ModuleDict({"backbone": nn.Linear(4, 3), "prototypes": nn.Linear(3, 5, bias=False)})


def optimizer_of(student):
    optimizer = build_optimizer(student.named_parameters(), depth=2)
    set_step_values(optimizer, lr=0.1, weight_decay=0.04)
    return optimizer


def set_gradients(student, seed=1, broken=None):
    generator = torch.Generator().manual_seed(seed)
    for parameter in student.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    if broken is not None:
        student["prototypes"].weight.grad[0, 0] = broken


def everything(student, optimizer):
    """Parameters, moments and step counts, as copies."""
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in [*student.parameters(), *states]]


def test_layers_near_the_pixels_learn_more_slowly_by_hand():
    rates = [multipliers(name, depth=2, layerwise_decay=0.5).lr for name in NAMES]
    assert rates == [1 / 8, 1 / 2, 1]
    patch = multipliers(
        "embeddings.patch_embeddings.weight", depth=2, layerwise_decay=0.5, patch_embed_lr_multiplier=0.2
    )
    assert patch.lr == pytest.approx(1 / 40)


@pytest.mark.parametrize(
    ("name", "weight_decay"),
    [
        ("model.layer.0.norm1.weight", 0),
        ("model.layer.0.layer_scale1.lambda1", 0),
        ("model.layer.0.attention.q_proj.bias", 0),
        ("local_cls_norm.weight", 0),
        ("model.layer.0.attention.q_proj.weight", 1),
        ("embeddings.mask_token", 1),
    ],
)
def test_norms_biases_and_layer_scales_are_not_decayed(name, weight_decay):
    assert multipliers(name, depth=2).weight_decay == weight_decay


def test_groups_hold_every_trainable_parameter_once_and_no_frozen_one():
    parameters = [(name, nn.Parameter(torch.zeros(1))) for name in [*NAMES, "norm.weight", "norm.bias", "frozen"]]
    parameters[-1][1].requires_grad_(False)
    groups = parameter_groups(parameters, depth=2, layerwise_decay=0.5)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for _, parameter in parameters[:-1])
    assert [len(group["params"]) for group in groups] == [1, 1, 1, 2]
    assert [group["is_last_layer"] for group in groups] == [False, False, True, False]


def test_step_values_are_multiplied_per_group_and_prototypes_have_their_own_rate():
    parameters = [(name, nn.Parameter(torch.zeros(1))) for name in [*NAMES, "norm.bias"]]
    optimizer = build_optimizer(parameters, depth=2, layerwise_decay=0.5)
    set_step_values(optimizer, lr=0.8, weight_decay=0.4, last_layer_lr=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.4, 0.0, 0.8])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.4, 0.4, 0.0])
    set_step_values(optimizer, lr=0.8, weight_decay=0.4)
    assert optimizer.param_groups[2]["lr"] == pytest.approx(0.8)


def test_frozen_prototypes_neither_learn_nor_decay():
    student = small_student()
    optimizer = optimizer_of(student)
    set_step_values(optimizer, lr=0.1, weight_decay=0.4, last_layer_lr=0.0)
    before = copy.deepcopy(student)
    set_gradients(student)
    optimizer.step()
    assert torch.equal(student["prototypes"].weight, before["prototypes"].weight)
    assert not torch.equal(student["backbone"].weight, before["backbone"].weight)


def test_each_part_is_clipped_by_its_own_norm_by_hand():
    student = nn.ModuleDict({"long": nn.Linear(2, 1, bias=False), "short": nn.Linear(2, 1, bias=False)})
    student["long"].weight.grad = torch.tensor([[30.0, 40.0]])
    student["short"].weight.grad = torch.tensor([[0.3, 0.4]])
    norms, is_finite = clip_gradients(student, max_norm=3.0)
    assert {name: norm.item() for name, norm in norms.items()} == pytest.approx({"long": 50.0, "short": 0.5})
    torch.testing.assert_close(student["long"].weight.grad, torch.tensor([[1.8, 2.4]]))
    torch.testing.assert_close(student["short"].weight.grad, torch.tensor([[0.3, 0.4]]))
    assert is_finite.item() is True


def test_an_infinite_max_norm_only_measures():
    student = small_student()
    set_gradients(student)
    before = [parameter.grad.clone() for parameter in student.parameters()]
    clip_gradients(student, math.inf)
    for gradient, parameter in zip(before, student.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("num_good_steps", [0, 2])
def test_a_broken_gradient_leaves_parameters_moments_and_step_counts_untouched(broken, num_good_steps):
    student = small_student()
    optimizer = optimizer_of(student)
    for seed in range(num_good_steps):
        set_gradients(student, seed)
        step_if_finite(optimizer, clip_gradients(student, 3.0)[1])
    before = everything(student, optimizer)

    set_gradients(student, broken=broken)
    _, is_finite = clip_gradients(student, 3.0)
    step_if_finite(optimizer, is_finite)

    assert not is_finite
    after = everything(student, optimizer)
    # Before the first step there is no state; a skipped first step creates it, all zeros.
    for tensor in after[len(before) :]:
        assert (tensor == 0).all()
    for one, other in zip(before, after, strict=False):
        assert torch.equal(one, other)


def test_a_run_with_one_skipped_step_equals_the_run_without_it():
    runs = []
    for gradients in ([None, math.nan, None], [None, None]):
        student = small_student()
        optimizer, seeds = optimizer_of(student), iter(range(10))
        for broken in gradients:
            set_gradients(student, seed=99 if broken else next(seeds), broken=broken)
            step_if_finite(optimizer, clip_gradients(student, 3.0)[1])
        runs.append(everything(student, optimizer))
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_finite_steps_equal_plain_adamw_bit_for_bit():
    student = small_student()
    plain = copy.deepcopy(student)
    optimizer = optimizer_of(student)
    plain_optimizer = AdamW(
        [
            {"params": [plain["backbone"].weight, plain["prototypes"].weight], "weight_decay": 0.04},
            {"params": [plain["backbone"].bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        fused=True,
    )
    for seed in range(3):
        set_gradients(student, seed)
        set_gradients(plain, seed)
        step_if_finite(optimizer, torch.tensor(True))
        plain_optimizer.step()
    for one, other in zip(student.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not hasattr(optimizer, "found_inf")


def test_the_wrapper_of_accelerate_skips_too():
    from accelerate import Accelerator

    student = small_student()
    optimizer = Accelerator(cpu=True).prepare(optimizer_of(student))
    before = copy.deepcopy(student)
    set_gradients(student, broken=math.nan)
    step_if_finite(optimizer, clip_gradients(student, 3.0)[1])
    for one, other in zip(student.parameters(), before.parameters(), strict=True):
        assert torch.equal(one, other)
    set_gradients(student)
    step_if_finite(optimizer, clip_gradients(student, 3.0)[1])
    assert not torch.equal(student["backbone"].weight, before["backbone"].weight)


def test_an_optimizer_that_would_ignore_the_flag_is_refused():
    optimizer = AdamW(small_student().parameters(), fused=False)
    with pytest.raises(ValueError, match=r"AdamW with fused=False.*build_optimizer"):
        step_if_finite(optimizer, torch.tensor(True))
