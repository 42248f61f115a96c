"""Spearman's rank correlation."""

import numpy as np


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Whether two quantities rise together, whatever their scales: Pearson's correlation of the ranks.

    Ties share the mean of their ranks (Spearman, Am J Psychol 1904).

    Args:
        first: (n,) finite.
        second: (n,) finite.

    Returns:
        From -1 to 1; NaN where one of them is constant.

    Raises:
        ValueError: if shapes differ, there are fewer than two cases, or a value is not finite.
    """
    return float(resampled_spearman(first, second, np.ones((1, len(first))))[0])


def resampled_spearman(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R,) the correlation for every row of `counts` (R, n), in which each case counts so often as its copies would.

    Other arguments, NaN and errors as of `spearman`.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"spearman expects two arrays of one shape (n,), n >= 2; found {first.shape} and {second.shape}. "
            f"Pass one value of each a case."
        )
    bad = int((~np.isfinite(first)).sum() + (~np.isfinite(second)).sum())
    if bad:
        raise ValueError(
            f"spearman expects finite values; found {bad} that are not among {2 * len(first)}. Leave these cases out, "
            f"or look at the features that produced them."
        )
    counts = np.asarray(counts, dtype=np.float64)
    middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
    first_ranks, second_ranks = (_ranks(values, counts) - middle for values in (first, second))
    together = (counts * first_ranks * second_ranks).sum(axis=1)
    squares = (counts * first_ranks**2).sum(axis=1) * (counts * second_ranks**2).sum(axis=1)
    return np.divide(together, np.sqrt(squares), out=np.full(len(counts), np.nan), where=squares > 1e-12)


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R, n) mean rank of each case among all copies, from 1."""
    _, group = np.unique(values, return_inverse=True)
    in_group = np.zeros((group.max() + 1, len(counts)))
    np.add.at(in_group, group, counts.T)
    last = in_group.cumsum(axis=0)
    return (last - (in_group - 1) / 2)[group].T
