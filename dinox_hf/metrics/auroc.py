"""Area under the receiver operating characteristic."""

import numpy as np
from scipy.stats import rankdata


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """How often a positive case scores above a negative one; a tie counts one half.

    The Mann-Whitney form of the area under the ROC curve (Hanley and McNeil, Radiology 1982), from ranks:

        (sum of the ranks of the positives - P (P + 1) / 2) / (P N)

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher means more likely positive.

    Raises:
        ValueError: if shapes differ, a label is neither 0 nor 1, a class is absent, or a score is not a number.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"auroc expects labels and scores of one shape (n,); found {labels.shape} and {scores.shape}. "
            f"Pass one score a case."
        )
    if set(np.unique(labels)) != {0, 1}:
        raise ValueError(
            f"auroc expects labels 0 and 1, both of them; found {np.unique(labels)[:5]}. "
            f"Binarise the ratings, and leave out a task with one class."
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"auroc expects finite scores; found {int(np.isnan(scores).sum())} NaN among {len(scores)}. "
            f"Look at the features that produced them."
        )
    num_positive = int((labels == 1).sum())
    num_negative = len(labels) - num_positive
    rank_sum = rankdata(scores)[labels == 1].sum()
    return float((rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))
