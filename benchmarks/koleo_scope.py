"""What KoLeo over the whole step costs: one training step with `losses.koleo_scope: step` against `process`.

    OMP_NUM_THREADS=1 python -m benchmarks.koleo_scope

ViT-S/16 on crops of the recipe's sizes, 4 micro-batches of 4 slices of noise, on one thread. Both steps are taken in
turn in one process, on the processor's clock, and the ratio of each pair is kept; the machine may be noisy.
"""

import statistics
import time

import torch
from accelerate import Accelerator

from benchmarks.usage import show_help
from dinox_hf.data.batches import PretrainBatch
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.schedules import Schedule
from dinox_hf.pretraining.self_distillation import SelfDistillation
from training.pretrain import training_step

NUM_PAIRS, ACCUMULATE, SIZE, NUM_LOCAL = 5, 4, 4, 8
HEADS = "{num_prototypes: 4096, hidden_dim: 2048, bottleneck_dim: 256}"


def main() -> None:
    """Print the median ratio and its range."""
    show_help(__doc__)
    steps = {scope: prepared_step(scope) for scope in ("process", "step")}
    ratios = [seconds(steps["step"]) / seconds(steps["process"]) for _ in range(1 + NUM_PAIRS)][1:]
    print(f"step with KoLeo over the step / per process: {statistics.median(ratios):.3f}", end=" ")
    print(f"({min(ratios):.3f} to {max(ratios):.3f} in {NUM_PAIRS} pairs)")


def prepared_step(scope: str):
    """A function that takes one step."""
    settings = [
        f"--losses.koleo_scope={scope}",
        "--model.preset=vits16",
        f"--dino_head={HEADS}",
        f"--ibot_head={HEADS}",
    ]
    config = load_config(PretrainConfig, None, settings)
    accelerator, model = Accelerator(cpu=True), SelfDistillation(config)
    optimizer = build_optimizer(model.student.named_parameters(), depth=12)
    values = Schedule(config, images_per_step=ACCUMULATE * SIZE)(0)
    batches = [noise() for _ in range(ACCUMULATE)]
    return lambda: training_step(accelerator, model, optimizer, batches, values)


def noise() -> PretrainBatch:
    """A micro-batch without content; half of the global crops hide a third of their patches."""
    masks = torch.zeros(2 * SIZE, 196, dtype=torch.bool)
    masks[::2, :65] = True
    return PretrainBatch(
        global_crops=torch.randn(2 * SIZE, 3, 224, 224),
        local_crops=torch.randn(NUM_LOCAL * SIZE, 3, 96, 96),
        gram_crops=None,
        masks=masks,
        rows=torch.arange(SIZE),
    )


def seconds(step) -> float:
    """Processor time of one step."""
    begin = time.process_time()
    step()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
