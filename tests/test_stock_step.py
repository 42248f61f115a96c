"""The step that ours is measured against takes the same steps, or the ratio would mean nothing."""

import pytest
import torch
from accelerate import Accelerator

from benchmarks import step as benchmark
from benchmarks.stock_step import StockStep, StockTokens
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.schedules import Schedule
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.pretraining.test_self_distillation import batch_of
from tests.training.tiny import TINY

BACKBONE = "{patch_size: 8, drop_path_rate: 0.0, layerscale_value: 1.0, pos_embed_rescale: null}"
SETTINGS = [*TINY, f"--model.overrides={BACKBONE}", "--model.untie_local_cls_norm=false", "--gram.first_step=null"]


@pytest.mark.parametrize("side", ["per crop", "per resolution", "network"])
def test_three_steps_around_stock_transformers_have_our_losses(side):
    config = load_config(PretrainConfig, None, [*SETTINGS, "--optimizer.layerwise_decay=1.0"])
    torch.manual_seed(0)
    model, values = SelfDistillation(config), Schedule(config, images_per_step=1024)(3)
    accelerator, batch = Accelerator(cpu=True), batch_of()
    if side == "network":
        other = SelfDistillation(config)
        other.load_state_dict(model.state_dict())
        for network in (other.student, other.teacher):
            network.backbone = StockTokens(network.backbone)
        other.teacher.requires_grad_(False)
        take_theirs = benchmark.our_step(accelerator, other, batch, values)
    else:
        stock = StockStep(model, is_per_crop=side == "per crop")

        def take_theirs():
            return stock(batch, values)

    take_ours = benchmark.our_step(accelerator, model, batch, values)
    losses = [(take_theirs().item(), take_ours().item()) for _ in range(3)]
    assert losses[0][1] != losses[2][1]
    for theirs, ours in losses:
        assert theirs == pytest.approx(ours, rel=1e-5)
