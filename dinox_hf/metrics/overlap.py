"""How well two shapes cover each other."""

import numpy as np


def dice(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Twice the common area over the sum of both areas (Dice 1945); 1 if both are empty.

    Args:
        predicted: bool, any shape.
        truth: bool, the same shape.

    Raises:
        ValueError: if the shapes differ.
    """
    common, predicted_area, true_area = _areas(predicted, truth)
    return 1.0 if predicted_area + true_area == 0 else 2 * common / (predicted_area + true_area)


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The common area over the area of either (Jaccard 1901); 1 if both are empty. Arguments as of `dice`."""
    common, predicted_area, true_area = _areas(predicted, truth)
    either = predicted_area + true_area - common
    return 1.0 if either == 0 else common / either


def _areas(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    predicted, truth = np.asarray(predicted, dtype=bool), np.asarray(truth, dtype=bool)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"Overlap expects two masks of one shape; found {predicted.shape} and {truth.shape}. "
            f"Resample one to the grid of the other."
        )
    return int((predicted & truth).sum()), int(predicted.sum()), int(truth.sum())
