"""Pretrain a backbone: accelerate launch training/pretrain.py [CONFIG.yaml] [--resume | --resume auto] [--a.b=c …].

Without a configuration file it runs the phantom preset, training/configs/quickstart.yaml. `--resume` continues the run
in the folder `output`; `--resume auto` does so if there is one and starts it otherwise. `--init NAME` starts from
released weights: an id on the Hub, such as facebook/dinov3-vitl16-pretrain-lvd1689m, or a folder; with `--lora={}`
those stay as they are and adapters learn.
"""

import sys
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer
from transformers.utils.logging import disable_progress_bar

from dinox_hf.console import run_command
from dinox_hf.data.batches import PretrainBatch
from dinox_hf.data.loader import LoaderSettings, PretrainLoader
from dinox_hf.data.mixture import SliceMixture
from dinox_hf.data.slices import SliceSet
from dinox_hf.data.stream_loader import StreamLoader
from dinox_hf.data.streaming import StreamedSlices
from dinox_hf.hub.background_push import BackgroundPush
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.feasibility import refuse_too_few_slices, refuse_what_cannot_work, what_never_happens
from dinox_hf.pretraining.fit import explain_out_of_memory, fit_to_device
from dinox_hf.pretraining.initialization import initialize, recorded_origin, take_moments
from dinox_hf.pretraining.low_rank import add_adapters
from dinox_hf.pretraining.optimizer import build_optimizer, clip_gradients, set_step_values, step_if_finite
from dinox_hf.pretraining.precision import resolve_precision
from dinox_hf.pretraining.run import Run, hint_at_idle_cores, reseed
from dinox_hf.pretraining.run_record import Resume, prepare_folder
from dinox_hf.pretraining.schedules import Schedule, StepValues
from dinox_hf.pretraining.self_distillation import SelfDistillation, TeacherTargets
from dinox_hf.pretraining.sharding import prepare
from dinox_hf.pretraining.tracking import available_trackers

PHANTOM_PRESET = Path(__file__).parent / "configs" / "quickstart.yaml"
PUBLISH = Path(__file__).with_name("publish.py")


def main(config: PretrainConfig, resume: Resume = "never") -> None:
    """One run, from the first slice to the last checkpoint."""
    refuse_what_cannot_work(config)
    checkpoint = prepare_folder(config, resume)
    accelerator = Accelerator(
        mixed_precision=resolve_precision(config.precision),
        log_with=available_trackers(config.trackers),
        project_dir=config.output,
    )
    torch.set_float32_matmul_precision("high")
    hint_at_idle_cores(accelerator)
    for note in what_never_happens(config):
        accelerator.print(note)
    config, plan = fit_to_device(config, accelerator)
    loader = build_loader(config, accelerator)  # endless; every draw comes from (seed, step, row)
    refuse_too_few_slices(config, loader.num_slices, accelerator.num_processes)

    reseed(config.seed, step=0, rank=0)  # all processes start from the same weights
    model = SelfDistillation(config)
    # From the run before or from released weights, where the configuration says so; a resumed run has its own.
    origin = recorded_origin(config.output) if checkpoint else initialize(config, model, accelerator.print)
    if config.lora:
        add_adapters(model, config.lora, accelerator.print)
    optimizer = build_optimizer(
        model.student.named_parameters(),
        depth=model.student.backbone.config.num_hidden_layers,
        layerwise_decay=config.optimizer.layerwise_decay,
        patch_embed_lr_multiplier=config.optimizer.patch_embed_lr_multiplier,
        betas=(config.optimizer.beta1, config.optimizer.beta2),
    )
    schedule = Schedule(config, images_per_step=loader.settings.images_per_step)
    # Accelerate takes one module under FSDP2, so student and teachers travel together and shard alike.
    model, optimizer = prepare(accelerator, model, optimizer)
    if not checkpoint:
        take_moments(config.init, accelerator.unwrap_model(model), optimizer)

    run = Run(config, accelerator, model, optimizer, loader, checkpoint, origin)
    pushes = BackgroundPush(PUBLISH, run.folder, config.hub.repo, config.hub.every_steps, accelerator.print)
    with explain_out_of_memory(config, accelerator, plan):
        for step, micro_batches in run.steps():  # resumes where the last checkpoint stopped
            reseed(config.seed, step, accelerator.process_index)
            metrics, targets = training_step(accelerator, model, optimizer, micro_batches, schedule(step))
            run.watch(step, micro_batches, metrics, targets)
            del micro_batches, targets  # gigabytes, which the next step needs
            if run.due("log", step):
                run.log(step, metrics)
            if run.due("picture", step):
                run.picture(step)
            if run.due("save", step):
                run.save(step)
                if accelerator.is_main_process:
                    pushes.after_save(step, is_last=step + 1 == config.steps)
    run.finish()
    pushes.finish()
    # DDP has to go before the process group it talks through; torch may wait for ever where both go at once.
    model, optimizer = accelerator.free_memory(model, optimizer)
    accelerator.end_training()


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
        spreads = distillation.student_spread(micro_batches)  # likewise KoLeo, where losses.koleo_scope is `step`
    totals: dict[str, Tensor] = {}
    for batch, target, spread in zip(micro_batches, targets, spreads, strict=True):
        is_last = batch is micro_batches[-1]
        with nullcontext() if is_last else accelerator.no_sync(model):
            with accelerator.autocast():
                # {"dino_global": …, "ibot": …, "gram": …}, weighted
                losses, observed = model(batch, target, values, spread)
            accelerator.backward(sum(losses.values()) / len(micro_batches))
        for name, value in (losses | observed).items():
            totals[name] = totals.get(name, 0) + value.detach() / len(micro_batches)
    # A non-finite gradient skips update and teacher without asking the host: the flag stays on the device.
    norms, is_finite = clip_gradients(distillation.student_parts(), values.max_grad_norm)
    step_if_finite(optimizer, is_finite)
    distillation.update_teachers(values, is_finite)
    gradient_norms = {f"grad_norm/{part}": norm for part, norm in norms.items()}
    return totals | gradient_norms | values.scalars() | {"is_finite": is_finite}, targets


def build_loader(config: PretrainConfig, accelerator: Accelerator) -> PretrainLoader | StreamLoader:
    """The crops of this process; unless streamed, the same whatever the number of workers."""
    sets = config.data.sets
    weights = [part.weight for part in sets]
    settings = LoaderSettings(
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
        pin_memory=config.data.pin_memory,
        z_stride=config.data.z_stride,
        neighbour_mm=config.data.neighbour_mm,
    )
    if config.data.streaming:
        streams = [StreamedSlices(part.folder, part.split) for part in sets]
        loader = StreamLoader(streams, weights, settings, config.data.shuffle_buffer)
    else:
        slices = SliceMixture([SliceSet(part.folder, part.split) for part in sets], weights)
        loader = PretrainLoader(slices, settings)
    if loader.spread_note:
        accelerator.print(loader.spread_note)
    return loader


def read_arguments(arguments: list[str]) -> tuple[PretrainConfig, Resume]:
    """`[CONFIG.yaml] [--resume | --resume auto] [--init NAME] [--a.b=c …]`, in any order."""
    if "--init" in arguments:
        arguments = _joined(arguments, arguments.index("--init"))
    if ("--resume", "auto") in pairwise(arguments):
        arguments = _joined(arguments, arguments.index("--resume"))
    resume = {"--resume": "always", "--resume=auto": "auto"}
    for name, value in pairwise(arguments):
        if name.startswith("--") and "=" not in name and name not in resume and not value.startswith("--"):
            raise ValueError(
                f"Expected {name}={value}, with = and no space; found {name} {value}. Write {name}={value}."
            )
    files = [argument for argument in arguments if not argument.startswith("--")]
    if len(files) > 1:
        raise ValueError(f"Expected one configuration file; found {files}. Overrides are written --a.b=c.")
    overrides = [argument for argument in arguments if argument.startswith("--") and argument not in resume]
    config = load_config(PretrainConfig, files[0] if files else PHANTOM_PRESET, overrides)
    return config, next((resume[argument] for argument in arguments if argument in resume), "never")


def _joined(arguments: list[str], at: int) -> list[str]:
    """`--name value` as `--name=value`."""
    return [*arguments[:at], "=".join(arguments[at : at + 2]), *arguments[at + 2 :]]


def command() -> None:
    """Entry point of the script."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    disable_progress_bar()  # of transformers, which would draw one for every checkpoint
    main(*read_arguments(sys.argv[1:]))


if __name__ == "__main__":
    run_command(command)
