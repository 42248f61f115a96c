"""Cross-entropy for every pixel, Dice for the shape as a whole, and their weighted sum."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import outside_autocast

CROSS_ENTROPY_WEIGHT, DICE_WEIGHT = 0.4, 0.6


@outside_autocast
def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the overlap of predicted and true shape, averaged over images and foreground classes.

    Soft Dice with squared denominators (V-Net, Milletari et al. 2016, arXiv:1606.04797) on softmax probabilities:

        1 - (2 sum p g + 1) / (sum p^2 + sum g^2 + 1)

    Each sum runs over the pixels of one image. The ones let an image without the class be right with p = 0, and keep
    the gradient finite there. Class 0, the background, is left out: it would drown a nodule of a few pixels.

    Args:
        logits: (B, C, H, W), C at least 2.
        targets: (B, H, W) int64 class numbers.

    Returns:
        () float32.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _refuse_other_shapes(logits, targets)
    probabilities = logits.float().softmax(dim=1)[:, 1:]
    truth = F.one_hot(targets, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    both = (probabilities * truth).sum(dim=(2, 3))
    each = (probabilities**2).sum(dim=(2, 3)) + (truth**2).sum(dim=(2, 3))
    return (1 - (2 * both + 1) / (each + 1)).mean()


@outside_autocast
def segmentation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """0.4 cross-entropy + 0.6 Dice; arguments as of `dice_loss`."""
    _refuse_other_shapes(logits, targets)
    cross_entropy = F.cross_entropy(logits.float(), targets)
    return CROSS_ENTROPY_WEIGHT * cross_entropy + DICE_WEIGHT * dice_loss(logits, targets)


def _refuse_other_shapes(logits: Tensor, targets: Tensor) -> None:
    fits = logits.ndim == 4 and logits.shape[1] >= 2 and targets.shape == (logits.shape[0], *logits.shape[2:])
    if not fits or targets.dtype != torch.int64:
        raise ValueError(
            f"A segmentation loss expects logits (B, C, H, W) of at least 2 classes and int64 targets (B, H, W); "
            f"found {tuple(logits.shape)} and {tuple(targets.shape)} of {targets.dtype}. Resize the logits to the "
            f"mask, and turn a bool mask into class numbers with .long()."
        )
