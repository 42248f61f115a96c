"""Teacher targets: logits become probabilities that use every prototype, so that no single one can win all images."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

from .precision import outside_autocast

# As many rows are worked on at a time as make 16 MB.
_MOST_NUMBERS = 2**22


@torch.no_grad()
@outside_autocast
def sinkhorn_knopp(
    logits: Tensor, temperature: float, num_iterations: int = 3, group: ProcessGroup | None = None
) -> Tensor:
    """Share the samples out over the prototypes so that all prototypes are used about equally.

    Sinkhorn-Knopp as in SwAV (arXiv:2006.09882) and DINOv3: from M = exp(logits / temperature), in turn divide every
    column (prototype) by its sum and every row (sample) by its sum. The last step is a row step, so rows sum to one.

    The usual constants, 1/K for columns and 1/M for rows, cancel in the next row step and are left out. The first
    iteration runs on logarithms, where its row step is a softmax; after it a column sums to at least 1/K and nothing
    can overflow or vanish, whatever the logits. The other iterations only update one factor per row and per column.

    The result is that of one process on the joined rows of all ranks. One row alone gives the uniform target.

    Args:
        logits: (M, K) teacher logits of this rank; M may differ between ranks and be 0. Accumulated micro-batches are
            joined along M.
        temperature: teacher temperature; lower is sharper.
        num_iterations: column and row steps.
        group: the ranks that share one problem; None is all of them.

    Returns:
        (M, K) float32 without gradient, rows sum to one.

    Raises:
        ValueError: if `num_iterations` is below one.
    """
    if num_iterations < 1:
        raise ValueError(
            f"sinkhorn_knopp expects num_iterations >= 1; found {num_iterations}. "
            f"The recipe uses 3; for a softmax without balancing use centered_softmax()."
        )
    return sinkhorn_knopp_(logits.float() / temperature, num_iterations, group)


@torch.no_grad()
@outside_autocast
def sinkhorn_knopp_(scores: Tensor, num_iterations: int = 3, group: ProcessGroup | None = None) -> Tensor:
    """Replace scores by their targets in place: `sinkhorn_knopp` where no second matrix of that size should exist.

    Args:
        scores: (M, K) float32 teacher logits, already divided by the teacher temperature; overwritten.
        num_iterations: column and row steps, at least one.
        group: the ranks that share one problem; None is all of them.

    Returns:
        `scores`, now with rows that sum to one.
    """
    scores.sub_(_logsumexp_of_rows(scores, group))
    for rows in _few_rows(scores):
        rows.copy_(rows.softmax(dim=1))
    row_factor = scores.new_ones(len(scores))
    column_factor = scores.new_ones(scores.shape[1])
    for _ in range(num_iterations - 1):
        column_factor = 1 / _reduce(row_factor @ scores, ReduceOp.SUM, group)
        row_factor = 1 / (scores @ column_factor)
    return scores.mul_(row_factor[:, None]).mul_(column_factor)


@torch.no_grad()
def centered_softmax(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Turn teacher logits into probabilities after taking away what they all have in common.

    DINO (arXiv:2104.14294), equation 1 with the centre of section 3.1: softmax((logits - center) / temperature).
    The DINOv3 recipe prefers `sinkhorn_knopp`.

    Args:
        logits: (..., K) teacher logits.
        center: broadcastable to the logits, the running mean that `update_center` gives.
        temperature: teacher temperature.

    Returns:
        (..., K) float32 without gradient, the last axis sums to one.
    """
    return ((logits.float() - center) / temperature).softmax(dim=-1)


@torch.no_grad()
def update_center(center: Tensor, logits: Tensor, momentum: float = 0.9, group: ProcessGroup | None = None) -> Tensor:
    """Return the centre moved towards the mean of these logits: momentum x centre + (1 - momentum) x mean.

    Args:
        center: (1, ..., K) running mean of the teacher logits.
        logits: (..., K) teacher logits of this rank, averaged over all axes but the last and over all ranks.
        momentum: share of the old centre that is kept.
        group: the ranks that share one centre; None is all of them.

    Returns:
        the new centre, shaped as the old one.
    """
    rows = logits.float().flatten(end_dim=-2)
    sums = torch.cat([rows.sum(dim=0), rows.new_full((1,), len(rows))])
    sums = _reduce(sums, ReduceOp.SUM, group)
    return torch.lerp(center, (sums[:-1] / sums[-1]).expand_as(center), 1 - momentum)


def _logsumexp_of_rows(scores: Tensor, group: ProcessGroup | None) -> Tensor:
    """(M, K) on each rank -> (K,) log of the column sums of exp(scores) over all ranks; a rank without rows adds 0."""
    largest = scores.amax(dim=0) if len(scores) else scores.new_full(scores.shape[1:], -torch.inf)
    largest = _reduce(largest, ReduceOp.MAX, group)
    sums = torch.zeros_like(largest)
    for rows in _few_rows(scores):
        sums += (rows - largest).exp_().sum(dim=0)
    return largest + _reduce(sums, ReduceOp.SUM, group).log()


def _few_rows(scores: Tensor) -> tuple[Tensor, ...]:
    """Views of some rows at a time, so that what is computed from them stays small."""
    return scores.split(max(1, _MOST_NUMBERS // scores.shape[1]))


def _reduce(tensor: Tensor, operation: ReduceOp.RedOpType, group: ProcessGroup | None) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor, op=operation, group=group)
    return tensor
