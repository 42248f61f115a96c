"""Between two logged steps an accelerator must never wait for Python: no loss and no update may read a value back."""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import training.pretrain as script
from dinox_hf.losses import precision
from dinox_hf.losses.dino import dino_loss
from dinox_hf.losses.gram import gram_loss
from dinox_hf.losses.ibot import masked_patch_weights
from dinox_hf.losses.koleo import koleo_loss
from dinox_hf.losses.sinkhorn import sinkhorn_knopp, update_center
from dinox_hf.pretraining.ema import ema_update_
from dinox_hf.pretraining.monitor import CollapseMonitor
from dinox_hf.pretraining.optimizer import build_optimizer, clip_gradients, set_step_values, step_if_finite
from dinox_hf.pretraining.self_distillation import SelfDistillation, patches_at, unmasked_places
from dinox_hf.pretraining.skipped_steps import SkippedSteps
from tests.pretraining.test_self_distillation import batch_of, config_of, values_at

aten = torch.ops.aten
# Operations whose result, or the shape of whose result, the host has to know before it can go on.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2}


class NoHostSync(TorchDispatchMode):
    """Raise where the same code on an accelerator would wait for the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = function.overloadpacket
        indices = args[1] if packet in {aten.index, aten.index_put_} else []
        by_mask = any(index is not None and index.dtype == torch.bool for index in indices)
        uncounted = packet is aten.repeat_interleave and kwargs.get("output_size") is None
        if packet in WAITING or by_mask or uncounted:
            raise RuntimeError(f"{function} makes the host wait for the device")
        return function(*args, **kwargs)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.repeat_interleave(torch.tensor([2, 1])),
        lambda x: torch.where(x > 0),
    ],
)
def test_the_guard_notices_what_waits(waits):
    with NoHostSync(), pytest.raises(RuntimeError, match="makes the host wait"):
        waits(torch.ones(2))


def test_targets_and_losses_never_wait():
    logits = torch.randn(4, 3, 8, requires_grad=True)
    masks = torch.tensor([[True, False], [True, True]])
    with NoHostSync():
        targets = torch.stack([sinkhorn_knopp(logits[crop], 0.1) for crop in range(2)])
        update_center(torch.zeros(1, 8), logits[0])
        weights = masked_patch_weights(masks, 3)
        loss = dino_loss(logits, targets) + dino_loss(logits, targets, ignore_diagonal=True)
        loss = loss + koleo_loss(logits[0]) + gram_loss(logits, logits.detach() + 1) + weights.sum()
        loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("is_broken", [False, True])
def test_clipping_update_and_teacher_never_wait_whether_the_step_counts_or_not(is_broken):
    student, teacher = nn.Linear(3, 2), nn.Linear(3, 2)
    before = student.weight.detach().clone(), teacher.weight.detach().clone()
    optimizer = build_optimizer(student.named_parameters(), depth=1)
    set_step_values(optimizer, lr=0.1, weight_decay=0.04)
    (student(torch.ones(1, 3)).sum() * (torch.inf if is_broken else 1.0)).backward()
    with NoHostSync():
        norms, is_finite = clip_gradients({"backbone": student}, 3.0)
        step_if_finite(optimizer, is_finite)
        ema_update_(teacher.parameters(), student.parameters(), 0.9, is_finite)
    assert norms["backbone"].shape == ()
    for parameter, old in zip((student.weight, teacher.weight), before, strict=True):
        assert torch.equal(parameter, old) == is_broken


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.repeat_interleave(torch.ones(2, dtype=torch.int64, device="meta"), dim=0),
        lambda x: torch.where(x > 0),
        lambda x: x.cpu(),
    ],
)
def test_a_tensor_without_data_refuses_what_waits(waits):
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        waits(torch.ones(2, 3, device="meta"))


@pytest.mark.parametrize("gram_tokens", ["all", "masked", "unmasked"])
def test_a_whole_step_and_what_watches_it_need_no_data(gram_tokens, monkeypatch):
    """On the meta device nothing can be read back, so whoever wanted to would fail; optimiser and EMA: see above."""
    monkeypatch.setattr(precision.torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    monkeypatch.setattr(script, "step_if_finite", lambda *_: None)  # nor does the fused kernel
    overrides = "--model.overrides={patch_size: 8, drop_path_rate: 0.5}"
    image_level = str(gram_tokens == "all").lower()
    config = config_of(
        overrides, "--losses.koleo_scope=step", f"--gram.tokens={gram_tokens}", f"--gram.image_level={image_level}"
    )
    model = SelfDistillation(config).to("meta")
    optimizer = build_optimizer(model.student.named_parameters(), depth=2)
    batches = [batch_of(seed).to("meta") for seed in (1, 2)]
    metrics, targets = script.training_step(Accelerator(cpu=True), model, optimizer, batches, values_at(5, config))
    CollapseMonitor(16, model.teacher.backbone.config.hidden_size, torch.device("meta")).observe(targets)
    SkippedSteps().watch(5, metrics["is_finite"], [batch.rows for batch in batches])
    assert {"gram", "koleo", "ibot"} <= set(metrics) and metrics["ibot"].is_meta


def test_masked_patches_are_found_by_place_as_by_mask():
    batch = batch_of()
    assert torch.equal(batch.masks.flatten()[batch.masked_places], torch.ones(len(batch.masked_places)).bool())
    assert len(batch.masked_places) == batch.masks.sum()
    patches = torch.randn(*batch.masks.shape, 3)
    assert torch.equal(patches_at(batch.masked_places, patches), patches[batch.masks])
    assert torch.equal(patches_at(unmasked_places(batch), patches), patches[~batch.masks])
