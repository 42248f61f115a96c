"""Spearman's rank correlation."""

import numpy as np
from scipy.stats import rankdata


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
    ranks = [rankdata(values) - (len(first) + 1) / 2 for values in (first, second)]
    spread = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / spread) if spread > 0 else float("nan")
