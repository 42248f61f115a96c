"""What the teacher says of the training crops: how many prototypes it uses, and how its CLS tokens spread."""

import math

import torch
from torch import Tensor, nn

from ..metrics.effective_rank import effective_rank
from ..metrics.entropy import entropy
from .self_distillation import TeacherTargets

_QUEUE_LENGTH = 512  # CLS tokens over which rank and prototype use are taken
_MARGINAL_MEMORY = 0.98  # the mean prototype use looks back over some fifty steps
_HEAD_ROWS = 64  # tokens that go through the head at once: 65536 logits each would else fill the memory


class CollapseMonitor:
    """Watches the teacher over the last steps of this process; nothing leaves the device until `report` is asked.

    Two ways to collapse show here, and both are looked for before Sinkhorn-Knopp, which would even the prototypes out
    and hide the first: all images on few prototypes, all images on one point. `ProbeBatch` sees the others. What each
    number means and what is healthy stands in docs/monitor.md.
    """

    def __init__(self, num_prototypes: int, hidden_size: int, device: torch.device) -> None:
        self.num_prototypes = num_prototypes
        self.marginal = torch.full((num_prototypes,), 1.0 / num_prototypes, device=device)
        self.queue = torch.zeros(_QUEUE_LENGTH, hidden_size, device=device)
        self.num_seen = torch.zeros((), dtype=torch.int64, device=device)
        self.target_entropy = torch.zeros((), device=device)

    def observe(self, targets: list[TeacherTargets]) -> None:
        """Take note of one step's targets; no host synchronisation."""
        for target in targets:
            # One broken batch must not blind the monitor: a mean never forgets a NaN, the queue not for 512 tokens.
            is_finite = target.marginal.isfinite().all() & target.cls.isfinite().all()
            cls = target.cls.flatten(0, 1).float()[:_QUEUE_LENGTH]
            marginal = self.marginal.lerp(target.marginal, 1 - _MARGINAL_MEMORY)
            self.marginal = torch.where(is_finite, marginal, self.marginal)
            self.queue = torch.where(is_finite, torch.cat([self.queue[len(cls) :], cls]), self.queue)
            self.num_seen = self.num_seen + is_finite * len(cls)
        probs = torch.cat([target.cls_probs.flatten(0, 1) for target in targets])
        self.target_entropy = entropy(probs).mean()

    @property
    def num_queued(self) -> int:
        """CLS tokens that rank and prototype use are taken over."""
        return min(int(self.num_seen), _QUEUE_LENGTH)

    @torch.no_grad()
    def report(self, dino_head: nn.Module) -> dict[str, float]:
        """The numbers now, as plain floats; `dino_head` is the teacher's, which says what wins a CLS token."""
        tokens = self.queue[-self.num_queued :]
        winners = torch.cat([dino_head(rows).argmax(-1) for rows in tokens.split(_HEAD_ROWS)])
        return {
            "teacher_entropy": entropy(self.marginal).item(),
            "target_entropy": self.target_entropy.item(),
            "effective_rank": effective_rank(tokens.cpu()) if tokens.isfinite().all() else math.nan,
            "prototype_usage": len(winners.unique()) / min(self.num_prototypes, len(tokens)),
            "cls_norm": tokens.norm(dim=-1).mean().item(),
        }

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs to report the same numbers."""
        return {"monitor.marginal": self.marginal, "monitor.queue": self.queue, "monitor.num_seen": self.num_seen}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        device = self.queue.device
        self.marginal = tensors["monitor.marginal"].to(device)
        self.queue = tensors["monitor.queue"].to(device)
        self.num_seen = tensors["monitor.num_seen"].to(device)
