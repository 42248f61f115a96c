"""Entropy of prototype assignments: of one image, and of their average over images."""

import numpy as np
from scipy.special import entr


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """How undecided a distribution is: 0 for one certain outcome, log K for K equal ones.

    Shannon, in nats: -sum p log p over the last dimension, with 0 log 0 = 0.

    Args:
        probabilities: (..., K) non-negative, summing to 1 over the last dimension.

    Returns:
        (...) float64.
    """
    return entr(np.asarray(probabilities, dtype=np.float64)).sum(axis=-1)


def marginal_entropy(probabilities: np.ndarray) -> float:
    """How evenly a set of images uses the prototypes: log K if all equally, 0 if every image falls on one.

    Args:
        probabilities: (M, K) one distribution an image.

    Returns:
        In nats.
    """
    return float(entropy(np.mean(probabilities, axis=0)))
