"""KoLeo loss: keeps the CLS tokens of a batch apart, so that images do not all end in the same few places."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .precision import outside_autocast

EPSILON = 1e-8


@outside_autocast
def koleo_loss(cls_tokens: Tensor, topk: int = 1, ranks_per_group: int = 1) -> Tensor:
    """Minus the log distance of each image to its nearest neighbours in the batch, on the unit sphere.

    The Kozachenko-Leonenko estimate of entropy, "Spreading vectors for similarity search" (arXiv:1806.03198), as
    DINOv3 uses it, for each global crop on its own:

        L = - mean over images i and their topk neighbours j of  log(|| x_i - x_j + eps || + eps),  x = cls / |cls|

    Neighbours are chosen without gradient; the gradient of a distance moves both of its ends.

    Args:
        cls_tokens: (B, D) CLS tokens of one global crop after the final norm, before the head.
        topk: neighbours per image.
        ranks_per_group: consecutive ranks among which neighbours are looked for; 1 is this rank alone, as in the
            recipe's first stages. Every rank of a run has to call with the same B, because tokens are exchanged.

    Returns:
        () float32, whatever the input dtype: the mean over this rank's images.

    Raises:
        ValueError: if the group has no more than `topk` images. A single image has no neighbour, hence no spread.
            Also if `ranks_per_group` does not divide the number of ranks.
    """
    tokens = F.normalize(cls_tokens.float(), dim=-1, eps=EPSILON)
    candidates, first_own = _group_tokens(tokens, ranks_per_group)
    if len(candidates) <= topk:
        raise ValueError(
            f"koleo_loss with topk={topk} expects a batch size of at least {topk + 1}, the image and its neighbours; "
            f"found {len(candidates)}. Raise the batch size, widen ranks_per_group, or set the KoLeo weight to 0."
        )
    with torch.no_grad():
        similarity = tokens @ candidates.mT
        similarity.diagonal(offset=first_own).fill_(-torch.inf)  # an image is not its own neighbour
        neighbours = similarity.topk(topk, dim=1).indices
    # Not 2 - 2 x_i . x_j: that difference of near-equal numbers has no correct digit for close neighbours.
    offsets = tokens[:, None] - candidates[neighbours] + EPSILON
    return -(offsets.norm(dim=-1) + EPSILON).log().mean()


def known_loss(cls_tokens: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """Return a loss that was computed elsewhere, as if it had been computed here from these tokens.

    So a loss over more images than fit into one pass is differentiated exactly: look at all of them without keeping
    activations, take the gradient of the loss for every token, then pass micro-batch after micro-batch through the
    network again, each with the gradient of its own tokens.

    Args:
        cls_tokens: (..., D) tokens of this pass, equal to those that the loss was computed from.
        loss: () its value.
        gradient: (..., D) its gradient for these tokens.

    Returns:
        () the loss, differentiable in `cls_tokens`.
    """
    return _KnownLoss.apply(cls_tokens, loss, gradient)


def _group_tokens(tokens: Tensor, ranks_per_group: int) -> tuple[Tensor, int]:
    """Return the tokens of this rank's group and the row at which its own begin."""
    if ranks_per_group == 1:
        return tokens, 0
    world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world_size % ranks_per_group:
        raise ValueError(
            f"koleo_loss expects ranks_per_group to divide the number of ranks; found ranks_per_group="
            f"{ranks_per_group} with {world_size} ranks. Choose a divisor, or 1 to stay on each rank."
        )
    gathered = _GatherRanks.apply(tokens)  # (world, B, D)
    rank_in_group = dist.get_rank() % ranks_per_group
    first_rank = dist.get_rank() - rank_in_group
    return gathered[first_rank : first_rank + ranks_per_group].flatten(end_dim=1), rank_in_group * len(tokens)


class _GatherRanks(torch.autograd.Function):
    """(B, D) on each rank -> (world, B, D); what any rank does with a token counts in the gradient of its owner."""

    @staticmethod
    def forward(ctx, tokens: Tensor) -> Tensor:
        gathered = [torch.empty_like(tokens) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tokens.contiguous())
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may still need its own
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


class _KnownLoss(torch.autograd.Function):
    """The value of a loss forward, its known gradient backward."""

    @staticmethod
    def forward(ctx, tokens: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = tokens.dtype
        return loss.clone()

    @staticmethod
    def backward(ctx, factor: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (factor * gradient).to(ctx.dtype), None, None
