"""How far one update moves the student, and how far the teacher lies behind it, both as a share of the weights."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from .self_distillation import SelfDistillation


@torch.no_grad()
def update_ratio(optimizer: Optimizer) -> float:
    """Length of the last AdamW update over the length of the weights, without weight decay.

    The update is worked out from the two moments, so no copy of the weights is kept. Under FSDP2 all ranks must ask.
    """
    moved, length = [], []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state:
                continue
            length.append(_length(parameter))
            moved.append(group["lr"] * _length(_adam_direction(state, *group["betas"], group["eps"])))
    if not length:
        return 0.0
    return (torch.stack(moved).norm() / torch.stack(length).norm()).item()


@torch.no_grad()
def teacher_distance(model: SelfDistillation) -> float:
    """Length of teacher minus student over the length of the student, over all that is trained."""
    pairs = zip(model.student.parameters(), model.teacher.parameters(), strict=True)
    trained = [(student, teacher) for student, teacher in pairs if student.requires_grad]
    apart = torch.stack([_length(teacher - student) for student, teacher in trained]).norm()
    return (apart / torch.stack([_length(student) for student, _ in trained]).norm()).item()


def _adam_direction(state: dict[str, Tensor], beta1: float, beta2: float, eps: float) -> Tensor:
    num_steps = state["step"].to(state["exp_avg"].device).clamp_min(1)  # 0 while the first steps are skipped
    first = state["exp_avg"] / (1 - beta1**num_steps)
    second = state["exp_avg_sq"] / (1 - beta2**num_steps)
    return first / (second.sqrt() + eps)


def _length(tensor: Tensor) -> Tensor:
    """Its L2 norm; under FSDP2 every rank holds a part of the sum."""
    norm = tensor.float().norm()
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
