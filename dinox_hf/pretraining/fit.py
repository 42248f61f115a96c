"""Does a run fit its device? Asked before the first step, and answered again where memory ran out all the same."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator

from .config import PretrainConfig
from .footprint import Arithmetic, sizes_of
from .memory import own_plan, parts_table, verdict
from .memory_plan import GB, RESERVED, Plan, nearest_plan
from .speed import peak_memory_bytes


def fit_to_device(config: PretrainConfig, accelerator: Accelerator) -> tuple[PretrainConfig, Plan | None]:
    """Plan the memory of a run on the device at hand, say so, and decide what `model.checkpointing: auto` means.

    Under FSDP2, where a process holds a part of each network, nothing is planned and `auto` is `block`.

    Returns:
        the configuration with a policy in place of `auto`, and the plan.

    Raises:
        ValueError: the run does not fit; names the nearest plan that does.
    """
    if accelerator.is_fsdp2:
        policy = "block" if config.model.checkpointing == "auto" else config.model.checkpointing
        accelerator.print(f"Memory is not planned under FSDP2; model.checkpointing is {policy}.")
        return _with_policy(config, policy), None
    how = _arithmetic(accelerator)
    device, sizes = device_bytes(config, accelerator), sizes_of(config)
    plan = own_plan(config, how, device, sizes, accelerator.num_processes)
    if not plan.fits(device):
        raise ValueError(
            f"{verdict(config, plan, how, device, sizes)}. A device that can give more than it says: --device_gb=…; "
            f"the whole table: python -m dinox_hf.pretraining.memory."
        )
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:3]
    shown = ", ".join(f"{name} {size / GB:.2f}" for name, size in largest)
    accelerator.print(
        f"Memory: {plan.peak / GB:.2f} GB planned of {(1 - RESERVED) * device / GB:.2f} ({shown}, …); checkpointing "
        f"{plan.policy}, {plan.size} x {plan.accumulate} slices, {plan.kept_per_slice / 1e6:,.0f} MB kept for each."
    )
    return _with_policy(config, plan.policy), plan


def device_bytes(config: PretrainConfig, accelerator: Accelerator) -> float:
    """What one process has to itself: a GPU, or its share of the machine's memory; or what `device_gb` says."""
    if config.device_gb is not None:
        return config.device_gb * GB
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / accelerator.num_processes


@contextmanager
def explain_out_of_memory(config: PretrainConfig, accelerator: Accelerator, plan: Plan | None) -> Iterator[None]:
    """Inside, an allocation that fails ends in the plan beside what was really allocated, and a smaller plan.

    Raises:
        RuntimeError: in place of torch's error. Nothing is saved: a checkpoint is whole or is not there.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        found = f"{peak_memory_bytes() / GB:.2f} GB at most were allocated ({str(error).splitlines()[0]})"
        advice = "Try --model.checkpointing=block or a smaller --batch.size"
        planned = "Nothing was planned"
        if plan is not None:
            how, sizes = _arithmetic(accelerator), sizes_of(config)
            smaller = nearest_plan(config, how, 0.8 * plan.peak / (1 - RESERVED), sizes)
            advice = f"A plan with a fifth less: {smaller.arguments}" if smaller else advice
            planned = "\n".join([f"Planned were {plan.peak / GB:.2f} GB", *parts_table(plan)])
        raise RuntimeError(
            f"Expected the step to fit into memory; found that {found}. Nothing of this step was saved, the last "
            f"complete checkpoint stays: go on from it with --resume. {advice}.\n{planned}"
        ) from error


def _arithmetic(accelerator: Accelerator) -> Arithmetic:
    return Arithmetic(2 if accelerator.mixed_precision == "bf16" else 4, is_cpu=accelerator.device.type == "cpu")


def _with_policy(config: PretrainConfig, policy: str) -> PretrainConfig:
    return replace(config, model=replace(config.model, checkpointing=policy))
