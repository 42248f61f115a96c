"""Teacher targets: logits become probabilities that use every prototype, so that no single one can win all images."""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

from .precision import outside_autocast


@torch.no_grad()
@outside_autocast
def sinkhorn_knopp(
    logits: Tensor,
    temperature: float,
    num_iterations: int = 3,
    group: ProcessGroup | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Share the samples out over the prototypes so that all prototypes are used about equally.

    Sinkhorn-Knopp as in SwAV (arXiv:2006.09882) and DINOv3: from M = exp(logits / temperature), in turn divide every
    column (prototype) by its sum and every row (sample) by its sum. The last step is a row step, so rows sum to one.

    The usual constants, 1/K for columns and 1/M for rows, cancel in the next row step and are left out. So does any
    other factor of a column, and of a row once its sum has been weighed: what is exponentiated are scores minus the
    largest of their column, minus the largest that is then left in their row. Every column and every row holds a 1;
    nothing can overflow or vanish, whatever the logits. The iterations only update one factor per row and per column.

    The result is that of one process on the joined rows of all ranks. One row alone gives the uniform target.

    Args:
        logits: (M, K) teacher logits of this rank; M may differ between ranks and be 0. Accumulated micro-batches are
            joined along M.
        temperature: teacher temperature; lower is sharper.
        num_iterations: column and row steps.
        group: the ranks that share one problem; None is all of them.
        out: (M, K) float32 that becomes the result, for instance `logits` itself; without it one is made.

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
    targets = torch.empty_like(logits, dtype=torch.float32) if out is None else out
    # exp(logits / temperature) = 2 ** (sharpness * logits): one operation takes the largest away, and exp2 is the
    # faster of torch's exponentials, three times so on some CPUs.
    sharpness = 1 / (temperature * math.log(2))
    shift = -sharpness * _reduce(_largest_of_columns(logits), ReduceOp.MAX, group)
    column_sums = torch.zeros_like(shift)
    row_factor = shift.new_empty(len(logits))
    blocks = list(zip(*(each.split(_rows_at_once(logits)) for each in (logits, targets, row_factor)), strict=True))
    for given, rows, factor in blocks:
        torch.amax(torch.add(shift, given, alpha=sharpness, out=rows), dim=1, out=factor)
        rows.sub_(factor[:, None]).exp2_()
        column_sums.addmv_(rows.T, factor.exp2_())
    for _ in range(num_iterations - 1):
        column_factor = 1 / _reduce(column_sums, ReduceOp.SUM, group)
        column_sums = torch.zeros_like(column_factor)
        for _given, rows, factor in blocks:
            torch.mv(rows, column_factor, out=factor)
            column_sums.addmv_(rows.T, factor.reciprocal_())
    column_factor = 1 / _reduce(column_sums, ReduceOp.SUM, group)
    for _given, rows, _factor in blocks:
        rows.mul_(column_factor)
        rows.div_(rows.sum(dim=1, keepdim=True))
    return targets


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


def _rows_at_once(logits: Tensor) -> int:
    """A CPU keeps 2 MB in its cache: what is done with a block of rows then costs one reading of memory."""
    return max(1, 2**19 // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))


def _largest_of_columns(logits: Tensor) -> Tensor:
    """(M, K) -> (K,) float32, also of no rows at all."""
    largest = logits.new_full(logits.shape[1:], -torch.inf, dtype=torch.float32)
    for rows in logits.split(_rows_at_once(logits)) if len(logits) else ():
        torch.maximum(largest, rows.amax(dim=0), out=largest)
    return largest


def _reduce(tensor: Tensor, operation: ReduceOp.RedOpType, group: ProcessGroup | None) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor, op=operation, group=group)
    return tensor
