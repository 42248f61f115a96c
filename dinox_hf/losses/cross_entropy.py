"""Cross-entropy over very many prototypes: the logits of the student exist once, and nothing else of their size."""

from collections.abc import Iterator
from functools import reduce

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
        for crop, rows, target in _parts(logits, targets, pairs):
            scores = logits[crop, rows].float() / temperature
            losses[crop, rows] = -torch.linalg.vecdot(scores.log_softmax(-1), target)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx, factors: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for crop, rows, target in _parts(logits, targets, ctx.pairs):
            probs = (logits[crop, rows].float() / ctx.temperature).softmax(-1)
            factor = factors[crop, rows, None] / ctx.temperature
            # factor * (probs * sum of the target - target)
            torch.addcmul(probs.mul_(factor * target.sum(-1, keepdim=True)), target, -factor, out=probs)
            gradient[crop, rows] = probs
        return gradient, None, None, None


def _parts(logits: Tensor, targets: Tensor, pairs: tuple) -> Iterator[tuple[int, slice, Tensor]]:
    """Crop, a few of its rows, and the (rows, K) float32 sum of the targets that count for it."""
    num_crops, num_rows, num_prototypes = logits.shape
    at_once = max(1, _MOST_NUMBERS // num_prototypes)
    for first in range(0, num_rows, at_once):
        rows = slice(first, first + at_once)
        sums: dict[tuple[bool, ...], Tensor] = {}  # most crops have the same targets
        for crop in range(num_crops):
            if pairs[crop] not in sums:
                sums[pairs[crop]] = _sum_of(targets[:, rows], pairs[crop])
            yield crop, rows, sums[pairs[crop]]


def _sum_of(targets: Tensor, counts: tuple[bool, ...]) -> Tensor:
    chosen = [target.float() for target, counts_here in zip(targets, counts, strict=True) if counts_here]
    return reduce(torch.add, chosen) if chosen else torch.zeros_like(targets[0], dtype=torch.float32)
