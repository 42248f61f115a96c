"""Area under the ROC curve within strata: for scores of several fits that share no scale."""

import numpy as np


def stratified_auroc(
    labels: np.ndarray, scores: np.ndarray, strata: np.ndarray, counts: np.ndarray | None = None
) -> float:
    """How often a positive case scores above a negative one of the same stratum; a tie counts one half.

    Each fold of a cross-validation is scored by another fit. Comparing scores across folds would mix how well a fit
    ranks with where it puts its zero, so only pairs within a fold count, all with the same weight. With one stratum it
    is the ordinary area under the curve.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) higher means more likely positive; or (n, S), several scores whose pairs are averaged.
        strata: (n,) the fold of each case.
        counts: (n,) how often a case counts, as a bootstrap draws it; None for once.

    Raises:
        ValueError: if no stratum holds both classes, a label is neither 0 nor 1, a score is not a number, or shapes
            differ.
    """
    scores = np.asarray(scores, dtype=np.float64)
    wins, pairs = pair_wins(labels, scores[:, None] if scores.ndim == 1 else scores, strata)
    areas = resampled_area(wins, pairs, labels, np.ones((1, len(labels))) if counts is None else counts[None])
    if np.isnan(areas[0]):
        raise ValueError(
            "stratified_auroc expects both classes in at least one stratum; found none that holds both. "
            "Use fewer strata, or more cases."
        )
    return float(areas[0])


def pair_wins(labels: np.ndarray, scores: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which positive beats which negative of its stratum.

    Args:
        labels: (n,) 0 or 1.
        scores: (n, S).
        strata: (n,).

    Returns:
        (positives, negatives) share of the S scores by which the positive wins, 0 across strata; and bool, whether
        both are of one stratum.

    Raises:
        ValueError: if shapes differ, a label is neither 0 nor 1, or a score is not a number.
    """
    labels, strata = np.asarray(labels), np.asarray(strata)
    if not len(labels) == len(scores) == len(strata) or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"Expected one label 0 or 1, one score and one stratum a case; found {len(labels)} labels of "
            f"{np.unique(labels)[:5]}, {len(scores)} scores and {len(strata)} strata. Pass arrays of one length."
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"Expected finite scores; found {int(np.isnan(scores).sum())} NaN among {scores.size}. "
            f"Look at the features that produced them."
        )
    positive, negative = labels == 1, labels == 0
    pairs = strata[positive][:, None] == strata[negative][None]
    first, second = scores[positive][:, None], scores[negative][None]  # compared, not subtracted: two infinities tie
    return ((first > second) + 0.5 * (first == second)).mean(axis=2) * pairs, pairs


def resampled_area(wins: np.ndarray, pairs: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R,) the area for every row of `counts` (R, n); NaN where no stratum holds both classes.

    Args:
        wins: of `pair_wins`.
        pairs: of `pair_wins`.
        labels: (n,) 0 or 1.
        counts: (R, n) how often each case counts.
    """
    labels = np.asarray(labels)
    drawn_positive, drawn_negative = counts[:, labels == 1].astype(float), counts[:, labels == 0]
    won = ((drawn_positive @ wins) * drawn_negative).sum(axis=1)
    compared = ((drawn_positive @ pairs) * drawn_negative).sum(axis=1)
    return np.divide(won, compared, out=np.full(len(counts), np.nan), where=compared > 0)
