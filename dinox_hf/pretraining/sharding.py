"""Sharding (FSDP2): student, teacher and gram teacher are cut alike, so that each process holds a part of each.

`accelerate_configs/fsdp2.yaml` names the classes that become groups of their own, blocks and heads, in the student and
in both teachers. What is left, norms and embeddings, belongs to the root, the one module that Accelerate prepares.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

# Methods of SelfDistillation that run networks without `forward`: they too need whole parameters, and give them back.
_OTHER_ENTRANCES = ("teacher_targets", "student_spread")


def prepare(accelerator: Accelerator, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    """`accelerator.prepare`, and what FSDP2 needs beyond it; without FSDP2 nothing else.

    Args:
        accelerator: of the run; its configuration file decides between one process, DDP and FSDP2.
        model: a `SelfDistillation`, one module, because Accelerate shards only one.
        optimizer: the student's.

    Raises:
        RuntimeError: the processes that were launched do not know of each other.
    """
    _refuse_lone_processes(accelerator)
    if accelerator.is_fsdp2:
        accelerator.state.fsdp_plugin.mixed_precision_policy = _policy(accelerator.mixed_precision)
    model, optimizer = accelerator.prepare(model, optimizer)
    for name in _OTHER_ENTRANCES:
        register_fsdp_forward_method(model, name)  # does nothing to a module that is not sharded
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Accumulation asks every group for the parameters it has gathered (torch 2.13), and a gram teacher that
            # does not anchor yet would have gathered none.
            module.unshard()
            module.reshard()
    return model, optimizer


@contextmanager
def at_hand(model: nn.Module) -> Iterator[None]:
    """Inside, parts of a sharded model can be called on their own, as instruments and pictures do.

    Blocks gather their parameters whenever they are called; the rest belongs to the root, which has to be asked. Every
    process has to enter, after the first step of the run. For an unsharded model nothing happens.
    """
    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, gathered: every process has to ask. Any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(tensor: Tensor, example: Tensor) -> Tensor:
    """A whole tensor, known to every process, on the device of `example` and cut as it is."""
    tensor = tensor.to(example.device)
    if not isinstance(example, DTensor):
        return tensor
    # No source rank: each process takes its part of what it has read itself, and nothing is sent.
    return distribute_tensor(tensor, example.device_mesh, example.placements, src_data_rank=None)


def _refuse_lone_processes(accelerator: Accelerator) -> None:
    """Without a GPU Accelerate may leave launched processes alone, each with a run of its own in the same folder."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise RuntimeError(
            f"Expected {launched} processes that train together, as WORLD_SIZE says; found "
            f"{accelerator.num_processes}. On a machine without a GPU set ACCELERATE_USE_CPU=1 before the launch."
        )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and not accelerator.is_fsdp2:
        accelerator.print("Accelerate shards on GPUs only: every process holds the whole of all networks (DDP).")


def _policy(precision: str) -> MixedPrecisionPolicy:
    """Shards stay float32; with bf16 they travel and compute as bfloat16 and gradients are summed in float32.

    As in the released code. Accelerate's own choice would sum gradients and return the losses in bfloat16.
    """
    kind = torch.bfloat16 if precision == "bf16" else None
    return MixedPrecisionPolicy(param_dtype=kind, reduce_dtype=torch.float32, cast_forward_inputs=False)
