"""FLOPs against PyTorch's own counter, and the page against the command that writes it."""

from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory import config_of, noise, values_of
from dinox_hf.pretraining.footprint import sizes_of
from dinox_hf.pretraining.memory_plan import plan_run
from dinox_hf.pretraining.roofline import BF16, DEVICES, Work, page, work_of
from dinox_hf.pretraining.self_distillation import SelfDistillation

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "--crops={global_size: 112, local_size: 48, num_local: 3}",
    "--model.overrides={num_hidden_layers: 4, drop_path_rate: 0.5}",
    "--dino_head={num_prototypes: 1024, hidden_dim: 256}",
    "--ibot_head={num_prototypes: 1024, hidden_dim: 256}",
)


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("selective", ("--gram={first_step: 0}", "--crops.gram_size=224")),
        ("block", ("--model.overrides={use_gated_mlp: true, num_hidden_layers: 3, drop_path_rate: 0.0}",)),
    ],
    ids=["selective, gram teacher", "block, gated"],
)
def test_flops_are_those_that_pytorch_counts(policy, settings):
    config = config_of("vits16", policy, *SMALL, *settings)
    model, batch = SelfDistillation(config), noise(config)
    for backbone in (module for module in model.modules() if hasattr(module, "set_attn_implementation")):
        backbone.set_attn_implementation("eager")  # PyTorch does not count the CPU's fused attention
    with FlopCounterMode(display=False) as counter:
        (target,) = model.teacher_targets([batch], 0.07)
        losses, _ = model(batch, target, values_of(config))
        sum(losses.values()).backward()
    sizes, size = sizes_of(config), config.batch.size
    work = work_of(config, plan_run(config, BF16, policy, size, 1, sizes), sizes)
    assert size * work.flops == pytest.approx(counter.get_total_flops(), rel=0.04)


def test_the_roof_is_the_lower_of_two():
    strix_halo = DEVICES[0]
    assert Work(flops=59.4e12, bytes=1.0).seconds(strix_halo) == pytest.approx(1)
    assert Work(flops=1.0, bytes=512e9).seconds(strix_halo) == pytest.approx(2)


def test_the_page_is_what_the_command_writes():
    assert (ROOT / "docs" / "roofline.md").read_text() == page()
