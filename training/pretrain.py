"""Pretrain a backbone: accelerate launch training/pretrain.py [CONFIG.yaml] [--resume | --resume=auto] [--a.b=c …].

Without a configuration file it runs the phantom preset, training/configs/quickstart.yaml. `--resume` continues the run
in the folder `output`; `--resume=auto` does so if there is one and starts it otherwise.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from transformers.utils.logging import disable_progress_bar

from dinox_hf.console import run_command
from dinox_hf.data.loader import PretrainBatch, PretrainLoader
from dinox_hf.data.slices import SliceSet
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.optimizer import build_optimizer, clip_gradients, set_step_values, step_if_finite
from dinox_hf.pretraining.run import Resume, Run, hint_at_idle_cores, prepare_folder, reseed, resolve_precision
from dinox_hf.pretraining.schedules import Schedule, StepValues
from dinox_hf.pretraining.self_distillation import SelfDistillation, TeacherTargets
from dinox_hf.pretraining.tracking import available_trackers

PHANTOM_PRESET = Path(__file__).parent / "configs" / "quickstart.yaml"


def main(config: PretrainConfig, resume: Resume = "never") -> None:
    """One run, from the first slice to the last checkpoint."""
    checkpoint = prepare_folder(config, resume)
    accelerator = Accelerator(
        mixed_precision=resolve_precision(config.precision),
        log_with=available_trackers(config.trackers),
        project_dir=config.output,
    )
    torch.set_float32_matmul_precision("high")
    hint_at_idle_cores(accelerator)
    loader = build_loader(config, accelerator)  # endless; every draw comes from (seed, step, row)

    reseed(config.seed, step=0, rank=0)  # all processes start from the same weights
    model = SelfDistillation(config)
    optimizer = build_optimizer(
        model.student.named_parameters(),
        depth=model.student.backbone.config.num_hidden_layers,
        layerwise_decay=config.optimizer.layerwise_decay,
        patch_embed_lr_multiplier=config.optimizer.patch_embed_lr_multiplier,
        betas=(config.optimizer.beta1, config.optimizer.beta2),
    )
    schedule = Schedule(config, images_per_step=loader.images_per_step)
    # Accelerate takes one module under FSDP2, so student and teachers travel together and shard alike.
    model, optimizer = accelerator.prepare(model, optimizer)

    run = Run(config, accelerator, model, optimizer, loader, checkpoint)
    for step, micro_batches in run.steps():  # resumes where the last checkpoint stopped
        reseed(config.seed, step, accelerator.process_index)
        metrics, targets = training_step(accelerator, model, optimizer, micro_batches, schedule(step))
        run.watch(targets)
        if run.due("log", step):
            run.log(step, metrics)
        if run.due("picture", step):
            run.picture(step)
        if run.due("save", step):
            run.save(step)
    run.finish()


def training_step(
    accelerator: Accelerator,
    model: SelfDistillation,
    optimizer: Optimizer,
    micro_batches: list[PretrainBatch],
    values: StepValues,
) -> tuple[dict[str, Tensor], list[TeacherTargets]]:
    """One update of the student from exactly these micro-batches, then one of the teacher.

    Returns:
        Detached scalars, still on the device, and the teacher's targets for the collapse monitor.
    """
    distillation = accelerator.unwrap_model(model)
    set_step_values(optimizer, lr=values.lr, weight_decay=values.weight_decay, last_layer_lr=values.last_layer_lr)
    optimizer.zero_grad()
    # The teacher sees the whole batch first: Sinkhorn over 4 x 64 images is not four times Sinkhorn over 64.
    with accelerator.autocast():
        targets = distillation.teacher_targets(micro_batches, values.teacher_temperature)
    totals: dict[str, Tensor] = {}
    for batch, target in zip(micro_batches, targets, strict=True):
        is_last = batch is micro_batches[-1]
        with nullcontext() if is_last else accelerator.no_sync(model):
            losses, observed = model(batch, target, values)  # {"dino_global": …, "ibot": …, "gram": …}, weighted
            accelerator.backward(sum(losses.values()) / len(micro_batches))
        for name, value in (losses | observed).items():
            totals[name] = totals.get(name, 0) + value.detach() / len(micro_batches)
    # A non-finite gradient skips update and teacher without asking the host: the flag stays on the device.
    norms, is_finite = clip_gradients(distillation.student_parts(), values.max_grad_norm)
    step_if_finite(optimizer, is_finite)
    distillation.update_teachers(values, is_finite)
    gradient_norms = {f"grad_norm/{part}": norm for part, norm in norms.items()}
    return totals | gradient_norms | values.scalars() | {"is_finite": is_finite}, targets


def build_loader(config: PretrainConfig, accelerator: Accelerator) -> PretrainLoader:
    """The crops of this process, the same whatever the number of workers."""
    return PretrainLoader(
        SliceSet(config.data.folder, config.data.split),
        crops=config.crops,
        intensity=config.intensity,
        masking=config.masking,
        patch_size=config.model.backbone().patch_size,
        batch_size=config.batch.size,
        accumulate=config.batch.accumulate,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_workers=config.data.num_workers,
    )


def read_arguments(arguments: list[str]) -> tuple[PretrainConfig, Resume]:
    """`[CONFIG.yaml] [--resume | --resume=auto] [--a.b=c …]`, in any order."""
    resume = {"--resume": "always", "--resume=auto": "auto"}
    files = [argument for argument in arguments if not argument.startswith("--")]
    if len(files) > 1:
        raise ValueError(f"Expected one configuration file; found {files}. Overrides are written --a.b=c.")
    overrides = [argument for argument in arguments if argument.startswith("--") and argument not in resume]
    config = load_config(PretrainConfig, files[0] if files else PHANTOM_PRESET, overrides)
    return config, next((resume[argument] for argument in arguments if argument in resume), "never")


def command() -> None:
    """Entry point of the script."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    disable_progress_bar()  # of transformers, which would draw one for every checkpoint
    main(*read_arguments(sys.argv[1:]))


if __name__ == "__main__":
    run_command(command)
