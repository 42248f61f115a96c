"""Entropy of prototype assignments."""

import torch
from torch import Tensor


def entropy(probabilities: Tensor) -> Tensor:
    """How undecided a distribution is: 0 for one certain outcome, log K for K equal ones.

    Shannon, in nats: -sum p log p over the last dimension, with 0 log 0 = 0. Taken of one image's assignment it says
    whether the image has found its prototypes; of the mean over images, how evenly they use them.

    Args:
        probabilities: (..., K) non-negative, summing to 1 over the last dimension.

    Returns:
        (...) of the same dtype.
    """
    return torch.special.entr(probabilities).sum(-1)
