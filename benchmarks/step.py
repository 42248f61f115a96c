"""The whole training step against the same step written around stock transformers, in turns and with losses compared.

    python -m benchmarks.step [--prototypes 65536] [--batch 2] [--rounds 7] [--threads 2] [--device cuda --bf16]

ViT-S/16, 2 global crops of 224 and 8 local ones of 96 pixels, noise; ours is `training_step` of training/pretrain.py.
Three others start from the same weights and take their steps on the same batch: a usual loop (stock_step.py) that
calls the model once per crop, the same loop with one call per resolution, and our own step with the network of
transformers in it, which shows what the network alone gives. Seconds on a CPU are those of this process.
"""

import statistics
from argparse import Namespace
from collections.abc import Callable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.rounds import begin, in_turns, ratio, step_options
from benchmarks.stock_step import StockStep, StockTokens
from dinox_hf.data.batches import PretrainBatch
from dinox_hf.data.masking import batch_masks
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.schedules import Schedule, StepValues
from dinox_hf.pretraining.self_distillation import SelfDistillation
from training.pretrain import training_step

TERMS = ("dino_global", "dino_local", "ibot", "koleo")
STEPS_COMPARED = 3
OURS = "ours"
STEP_OF_SCHEDULE = 2000  # behind the warm-up


def main() -> None:
    """A line for each of the others at each rate of stochastic depth."""
    options = step_options(__doc__, prototypes=4096, batch=2, rounds=7)
    options.add_argument("--drop-path", type=float, nargs="+", default=[0.0, 0.3], help="[0.0 0.3]")
    options.add_argument("--bf16", action="store_true", help="autocast instead of float32")
    chosen = options.parse_args()
    device = begin(chosen)
    for rate in chosen.drop_path:
        torch.manual_seed(0)
        compare(rate, prepared_sides(rate, chosen, device), chosen.rounds, device)


def compare(rate: float, sides: dict[str, Callable[[], Tensor]], num_rounds: int, device: torch.device) -> None:
    """Print ratios, and how far the losses of the first steps lie apart where nothing is drawn at random."""
    losses = {name: [float(step()) for _ in range(STEPS_COMPARED)] for name, step in sides.items()}
    seconds = in_turns(sides, num_rounds, device)
    own = statistics.median(seconds[OURS])
    print(f"drop path {rate}: ours takes {own:.2f} s; times as long take (median of {num_rounds} rounds, quartiles)")
    for name in sides:
        if name == OURS:
            continue
        apart = max(abs(one - other) for one, other in zip(losses[name], losses[OURS], strict=True))
        said = f"losses of {STEPS_COMPARED} steps differ by at most {apart:.1e} of {losses[OURS][0]:.2f}"
        print(f"  {name}: {ratio(seconds[name], seconds[OURS])}; {said if rate == 0 else 'draws differ'}")


def prepared_sides(rate: float, chosen: Namespace, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """By name, functions that take one step and return its loss."""
    config = config_of(rate, chosen.prototypes)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if chosen.bf16 else "no")
    values = Schedule(config, images_per_step=1024)(STEP_OF_SCHEDULE)
    batch = noise(chosen.batch).to(device)
    model = SelfDistillation(config).to(device)
    swapped = SelfDistillation(config).to(device)
    swapped.load_state_dict(model.state_dict())
    for network in (swapped.student, swapped.teacher):
        network.backbone = StockTokens(network.backbone).to(device)
    swapped.teacher.requires_grad_(False)

    def usual(is_per_crop: bool) -> Callable[[], Tensor]:
        step = StockStep(model, is_per_crop)

        def run() -> Tensor:
            with accelerator.autocast():
                return step(batch, values)

        return run

    return {
        "a usual loop, once per crop": usual(is_per_crop=True),
        "a usual loop, once per resolution": usual(is_per_crop=False),
        "our step with the network of transformers": our_step(accelerator, swapped, batch, values),
        OURS: our_step(accelerator, model, batch, values),
    }


def config_of(rate: float, prototypes: int) -> PretrainConfig:
    """The recipe as far as the network of transformers can follow it; LayerScale 1, so that every block counts."""
    head = f"{{num_prototypes: {prototypes}}}"
    settings = [
        "--model.preset=vits16",
        f"--model.overrides={{drop_path_rate: {rate}, layerscale_value: 1.0, pos_embed_rescale: null}}",
        "--model.untie_local_cls_norm=false",
        "--optimizer.layerwise_decay=1.0",
        "--optimizer.patch_embed_lr_multiplier=1.0",
        "--gram.first_step=null",
        f"--dino_head={head}",
        f"--ibot_head={head}",
    ]
    return load_config(PretrainConfig, None, settings)


def our_step(
    accelerator: Accelerator, model: SelfDistillation, batch: PretrainBatch, values: StepValues
) -> Callable[[], Tensor]:
    """`training_step`, and the sum of its losses."""
    optimizer = build_optimizer(
        model.student.named_parameters(), depth=model.student.backbone.config.num_hidden_layers
    )

    def run() -> Tensor:
        metrics, _ = training_step(accelerator, model, optimizer, [batch], values)
        return sum(metrics[term] for term in TERMS)

    return run


def noise(size: int) -> PretrainBatch:
    """Crops without content, masked as in training."""
    generator = torch.Generator().manual_seed(0)
    return PretrainBatch(
        global_crops=torch.randn(2 * size, 3, 224, 224, generator=generator),
        local_crops=torch.randn(8 * size, 3, 96, 96, generator=generator),
        gram_crops=None,
        masks=torch.from_numpy(batch_masks(np.random.default_rng(0), 2 * size, (14, 14))),
        rows=torch.arange(size),
    )


if __name__ == "__main__":
    main()
