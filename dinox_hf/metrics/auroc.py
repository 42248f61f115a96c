"""Area under the receiver operating characteristic, for one sample or for many bootstrap resamples at once."""

import numpy as np


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """How often a positive case scores above a negative one; a tie counts one half.

    The Mann-Whitney form of the area under the ROC curve (Hanley and McNeil, Radiology 1982). With weights every pair
    counts weight times weight, so that a bootstrap resample is the vector of how often each case was drawn.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher means more likely positive.
        weights: (n,) or (num_resamples, n) non-negative; None counts every case once.

    Returns:
        A float, or (num_resamples,) floats. NaN where a resample holds one class only.

    Raises:
        ValueError: if shapes differ, a label is neither 0 nor 1, or a score is not a number.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"auroc expects labels and scores of one shape (n,); found {labels.shape} and {scores.shape}. "
            f"Pass one score a case."
        )
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"auroc expects labels 0 and 1; found {np.unique(labels)[:5]}. Binarise the ratings first.")
    if np.isnan(scores).any():
        raise ValueError(
            f"auroc expects finite scores; found {int(np.isnan(scores).sum())} NaN among {len(scores)}. "
            f"Look at the features that produced them."
        )
    if len(scores) == 0:
        return float("nan") if weights is None or np.ndim(weights) == 1 else np.full(len(weights), np.nan)

    order = np.argsort(scores, kind="stable")
    rows = np.ones((1, len(scores))) if weights is None else np.atleast_2d(np.asarray(weights, dtype=np.float64))
    positive = rows[:, order] * labels[order]
    negative = rows[:, order] - positive
    # Cases of equal score form one step of the curve.
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    positive = np.add.reduceat(positive, starts, axis=1)
    negative = np.add.reduceat(negative, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    num_pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = (positive * (below + negative / 2)).sum(axis=1)
    area = np.divide(wins, num_pairs, out=np.full(len(rows), np.nan), where=num_pairs > 0)
    return area if weights is not None and np.ndim(weights) == 2 else float(area[0])
