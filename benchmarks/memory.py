"""Predicted memory against measured memory: python -m benchmarks.memory [PRESET …].

Kept: what lives from the student's forward pass to its backward pass, counted tensor by tensor. Peak: the most that
all tensors of a second step take together, networks, moments and crops included; on a GPU the allocator's number.
Resident: by how much the process really grew, which on a CPU holds workspaces of the kernels and freed pages too.
Kept has a process of its own. Crops are the recipe's, 2 micro-batches of 2 slices, 16384 prototypes.
"""

import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim import Optimizer

from benchmarks.allocations import AllocationMeter
from benchmarks.usage import show_help
from dinox_hf.data.batches import PretrainBatch
from dinox_hf.data.masking import batch_masks
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.footprint import Arithmetic
from dinox_hf.pretraining.memory_plan import POLICIES, plan_run
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.schedules import Schedule, StepValues
from dinox_hf.pretraining.self_distillation import SelfDistillation
from dinox_hf.pretraining.speed import peak_memory_bytes
from training.pretrain import training_step

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = (
    "--batch={size: 2, accumulate: 2}",
    "--model.overrides={drop_path_rate: 0.1}",
    "--dino_head={num_prototypes: 16384}",
    "--ibot_head={num_prototypes: 16384}",
)


def main() -> None:
    """One line for each preset, precision and policy."""
    show_help(__doc__)
    print("MB, planned / found\n\n| preset | precision | checkpointing | kept | peak | resident |")
    print("|---|---|---|---|---|---|")
    for preset in sys.argv[1:] or ["vits16"]:
        for precision in ("no", "bf16"):
            for policy in POLICIES:
                print(f"| {preset} | {precision} | {policy} | {compared(preset, precision, policy)} |", flush=True)


def compared(preset: str, precision: str, policy: str) -> str:
    """Cells of the table, in megabytes."""
    config = config_of(preset, policy)
    plan = plan_run(config, arithmetic(precision), policy, config.batch.size, config.batch.accumulate)
    (kept,) = measured_apart("kept", preset, precision, policy)
    peak, resident = measured_apart("step", preset, precision, policy)
    cells = [
        f"{planned / 1e6:,.0f} / {found / 1e6:,.0f} ({planned / found - 1:+.1%})"
        for planned, found in ((plan.kept + plan.copies, kept), (plan.peak, peak))
    ]
    return " | ".join([*cells, f"{resident / 1e6:,.0f}"])


def config_of(preset: str, policy: str, *settings: str) -> PretrainConfig:
    """The configuration that is measured."""
    chosen = (f"--model.preset={preset}", f"--model.checkpointing={policy}")
    return load_config(PretrainConfig, None, [*chosen, *SETTINGS, *settings])


def arithmetic(precision: str) -> Arithmetic:
    """Of this machine."""
    return Arithmetic(2 if precision == "bf16" else 4, is_cpu=DEVICE == "cpu")


def measured_apart(what: str, preset: str, precision: str, policy: str) -> list[float]:
    """What is kept, or peak and growth of a step, from a process of its own, in bytes."""
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", what, preset, precision, policy]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [float(number) for number in printed[-1].split()]


def noise(config: PretrainConfig) -> PretrainBatch:
    """A micro-batch without content, with as many hidden patches as a real one."""
    size, crops, masking = config.batch.size, config.crops, config.masking
    side = crops.global_size // config.model.backbone().patch_size
    masks = batch_masks(np.random.default_rng(0), 2 * size, (side, side), masking.probability, masking.ratio)

    def pixels(num: int, px: int) -> torch.Tensor:
        return torch.randn(num * size, 3, px, px, device=DEVICE)

    return PretrainBatch(
        global_crops=pixels(2, crops.global_size),
        local_crops=pixels(crops.num_local, crops.local_size),
        gram_crops=pixels(2, crops.gram_size) if crops.gram_size else None,
        masks=torch.from_numpy(masks).to(DEVICE),
        rows=torch.arange(size, device=DEVICE),
    )


def kept_bytes(config: PretrainConfig, precision: str) -> int:
    """What lives on after the student's forward pass for the backward pass; parameters and crops left out."""
    model, batch = SelfDistillation(config).to(DEVICE), noise(config)
    autocast = torch.autocast(DEVICE, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
    with autocast:
        (target,) = model.teacher_targets([batch], 0.07)
    with AllocationMeter() as meter:
        with autocast:
            losses, _ = model(batch, target, values_of(config))
        # What is left is reached from the losses alone.
        return meter.current if losses else 0


def step_bytes(config: PretrainConfig, precision: str) -> tuple[int, int]:
    """Peak: the most that all tensors take in the second step, when moments exist. Resident: the process's growth.

    It grows from before the networks are built to the end of the second step.
    """
    accelerator = Accelerator(cpu=DEVICE == "cpu", mixed_precision=precision)
    before = peak_memory_bytes()
    with AllocationMeter() as meter:
        model = SelfDistillation(config).to(DEVICE)
        optimizer = build_optimizer(model.student.named_parameters(), depth=1)
        step_of(accelerator, config, model, optimizer)
        meter.reset_peak()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step_of(accelerator, config, model, optimizer)
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else meter.peak
    return peak, peak_memory_bytes() - before


def step_of(accelerator: Accelerator, config: PretrainConfig, model: SelfDistillation, optimizer: Optimizer) -> None:
    """One training step on noise."""
    batches = [noise(config) for _ in range(config.batch.accumulate)]
    training_step(accelerator, model, optimizer, batches, values_of(config))


def values_of(config: PretrainConfig) -> StepValues:
    """The values of a step in which Gram anchoring is on, where the configuration has it."""
    values = Schedule(config, images_per_step=4)(0)
    return replace(values, gram_weight=0.0 if config.gram.first_step is None else 1.0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        what, preset, precision, policy = sys.argv[2:]
        config = config_of(preset, policy)
        print(*((kept_bytes(config, precision),) if what == "kept" else step_bytes(config, precision)))
    else:
        main()
