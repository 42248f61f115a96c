"""Entropy of the teacher's prototype assignments: per image, and of their average."""

import torch
from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """How undecided a distribution is: 0 for one certain outcome, log K for K equal ones.

    Shannon, in nats: -sum p log p over the last dimension, with 0 log 0 = 0.

    Args:
        probabilities: (..., K) non-negative, summing to 1 over the last dimension.

    Returns:
        (...) float32.
    """
    return torch.special.entr(torch.as_tensor(probabilities).float()).sum(dim=-1)


def marginal_entropy(probabilities: Tensor) -> Tensor:
    """How evenly a batch uses the prototypes: log K if all equally, 0 if every image falls on one.

    Args:
        probabilities: (M, K) one distribution an image.

    Returns:
        () float32, in nats.
    """
    return entropy(torch.as_tensor(probabilities).float().mean(dim=0))
