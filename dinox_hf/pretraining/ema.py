"""The teacher follows the student as an exponential moving average of its parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def ema_update_(
    teacher: Iterable[Tensor], student: Iterable[Tensor], momentum: float, is_finite: Tensor | None = None
) -> None:
    """Move every teacher parameter a little towards the student's: teacher <- m x teacher + (1 - m) x student.

    DINO (arXiv:2104.14294), section 3.1. Called after the optimiser's step; parameters only, a ViT has no running
    statistics. All tensors are updated by one call per device rather than one per parameter.

    Args:
        teacher: parameters, changed in place.
        student: parameters in the same order.
        momentum: m, 1 keeps the teacher as it is.
        is_finite: () bool from `clip_gradients`; where it is False nothing moves, and the host does not wait to know.

    Raises:
        ValueError: if teacher and student differ in number of parameters.
    """
    teacher, student = list(teacher), list(student)
    if len(teacher) != len(student):
        raise ValueError(
            f"ema_update_ expects the same parameters from teacher and student; found {len(teacher)} and "
            f"{len(student)}. Build both from one configuration and leave training-only modules out of both."
        )
    if is_finite is None:
        torch._foreach_lerp_(teacher, student, 1 - momentum)
        return
    # With a share of 0, lerp gives back the teacher bit for bit, as long as the student's own step was skipped too.
    share = torch.where(is_finite, 1 - momentum, 0.0)
    torch._foreach_lerp_(teacher, student, [share] * len(teacher))
