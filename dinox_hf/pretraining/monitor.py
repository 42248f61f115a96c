"""Collapse monitor: what a healthy self-distillation looks like in three numbers, and what to do when it does not."""

import math

import torch
from torch import Tensor

from ..metrics.effective_rank import effective_rank
from .self_distillation import TeacherTargets

_QUEUE_LENGTH = 512  # CLS tokens over which the effective rank is taken
_MARGINAL_MEMORY = 0.98  # the mean prototype use looks back over some fifty steps


class CollapseMonitor:
    """Watches the teacher over the last steps; everything stays on the device until `report` is asked.

    Three ways to collapse, and the number that shows each:

    - all images on few prototypes: `teacher_entropy`, entropy of softmax(logits / temperature) averaged over images,
      in nats, at most log K. It is taken before Sinkhorn-Knopp, which would even it out and hide the collapse;
    - all images on one point: `effective_rank` of the CLS tokens (RankMe, arXiv:2210.02885);
    - targets without an opinion: `target_entropy`, mean entropy of one image's target; at log K it says nothing.
    """

    def __init__(self, num_prototypes: int, hidden_size: int, device: torch.device) -> None:
        self.num_prototypes = num_prototypes
        self.marginal = torch.full((num_prototypes,), 1.0 / num_prototypes, device=device)
        self.queue = torch.zeros(_QUEUE_LENGTH, hidden_size, device=device)
        self.num_seen = torch.zeros((), dtype=torch.int64)
        self.target_entropy = torch.zeros((), device=device)

    def observe(self, targets: list[TeacherTargets]) -> None:
        """Take note of one step's targets; no host synchronisation."""
        for target in targets:
            self.marginal.lerp_(target.marginal, 1 - _MARGINAL_MEMORY)
            cls = target.cls.flatten(0, 1).float()[:_QUEUE_LENGTH]
            self.queue = torch.cat([self.queue[len(cls) :], cls])
            self.num_seen += len(cls)
        probs = torch.cat([target.cls_probs.flatten(0, 1) for target in targets])
        self.target_entropy = -torch.xlogy(probs, probs).sum(-1).mean()

    def report(self) -> dict[str, float]:
        """The numbers now, as plain floats."""
        tokens = self.queue[-min(int(self.num_seen), _QUEUE_LENGTH) :]
        return {
            "teacher_entropy": -torch.xlogy(self.marginal, self.marginal).sum().item(),
            "target_entropy": self.target_entropy.item(),
            "effective_rank": effective_rank(tokens) if tokens.isfinite().all() else math.nan,
            "cls_norm": tokens.norm(dim=-1).mean().item(),
        }

    def alarms(self, report: dict[str, float], cls_loss: float) -> dict[str, str]:
        """What is wrong, by the number that shows it, in words and with advice; empty for a healthy run."""
        log_k, width = math.log(self.num_prototypes), self.queue.shape[1]
        found = {}
        if not report["teacher_entropy"] >= 0.5 * log_k:
            found["teacher_entropy"] = (
                f"teacher_entropy is {report['teacher_entropy']:.2f} of at most {log_k:.2f} nats: the teacher uses "
                f"few prototypes. Raise teacher.temperature, lower optimizer.lr, or enlarge the batch."
            )
        if not report["effective_rank"] >= min(5.0, 0.05 * width):
            found["effective_rank"] = (
                f"effective_rank is {report['effective_rank']:.1f} of {width} dimensions: CLS tokens lie on few "
                f"directions. Raise losses.koleo, lower optimizer.lr, or check that the crops differ."
            )
        if not math.isfinite(cls_loss):
            found["cls_loss"] = "cls_loss is not finite: lower optimizer.lr or optimizer.max_grad_norm."
        return found

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs to report the same numbers."""
        return {"monitor.marginal": self.marginal, "monitor.queue": self.queue, "monitor.num_seen": self.num_seen}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        device = self.queue.device
        self.marginal = tensors["monitor.marginal"].to(device)
        self.queue = tensors["monitor.queue"].to(device)
        self.num_seen = tensors["monitor.num_seen"]
