"""Cross-entropy over very many prototypes: the logits of the student exist once, and nothing else of their size."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows are taken as many at a time as make 16 MB of float32: 64 rows of 65536 prototypes.
_MOST_NUMBERS = 2**22


def cross_entropy(
    logits: Tensor, targets: Tensor, temperature: float, pairs: tuple[tuple[bool, ...], ...] = ((True,),)
) -> Tensor:
    """Cross-entropy of softmax(logits / temperature) against soft targets, a few rows at a time.

        C_sb = - sum over t with pairs[s][t], over k, of  targets_tbk  log softmax(logits_sb / temperature)_k

    Autograd would keep a float32 log-softmax beside the logits and make three more such tensors on the way back. Here
    the logits themselves are kept, in their own dtype; the way back computes the softmax again, row by row, and makes
    one tensor, the gradient.

    Args:
        logits: (S, B, K), of any dtype.
        targets: (T, B, K), rows sum to one, or to zero where nothing is asked; no gradient flows into them.
        temperature: of the softmax.
        pairs: S times T: which targets count for which logits.

    Returns:
        (S, B) float32, summed over targets.
    """
    return _CrossEntropy.apply(logits, targets, temperature, pairs)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temperature: float, pairs: tuple) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.temperature, ctx.pairs = temperature, pairs
        losses = torch.empty(logits.shape[:2], dtype=torch.float32, device=logits.device)
        for crop, rows in _parts(logits):
            scores = logits[crop, rows].float() / temperature
            target = _joint_target(targets, rows, pairs[crop])
            losses[crop, rows] = -(scores.log_softmax(-1) * target).sum(-1)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, factors: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for crop, rows in _parts(logits):
            probs = (logits[crop, rows].float() / ctx.temperature).softmax(-1)
            target = _joint_target(targets, rows, ctx.pairs[crop])
            difference = probs.mul_(target.sum(-1, keepdim=True)).sub_(target)
            gradient[crop, rows] = difference.mul_(factors[crop, rows, None] / ctx.temperature).to(logits.dtype)
        return gradient, None, None, None


def _parts(logits: Tensor) -> Iterator[tuple[int, slice]]:
    num_crops, num_rows, num_prototypes = logits.shape
    at_once = max(1, _MOST_NUMBERS // num_prototypes)
    for crop in range(num_crops):
        for first in range(0, num_rows, at_once):
            yield crop, slice(first, first + at_once)


def _joint_target(targets: Tensor, rows: slice, counts: tuple[bool, ...]) -> Tensor:
    """(rows, K) float32: the sum of the targets that count."""
    chosen = [targets[crop, rows].float() for crop, counts_here in enumerate(counts) if counts_here]
    return torch.zeros_like(targets[0, rows], dtype=torch.float32) if not chosen else sum(chosen)
