"""Precision of the first k answers of a search by similarity."""

from collections.abc import Sequence

import numpy as np


def precision_at_k(
    similarity: np.ndarray, is_relevant: np.ndarray, may_answer: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> np.ndarray:
    """Of the k most similar cases that may answer, the share that is relevant, for every query.

    Where cases tie for the last places, they share them: the precision is its mean over all orders of the tied ones.

    Args:
        similarity: (Q, G) of queries and gallery, higher is more alike.
        is_relevant: (Q, G) bool, as two nodules of one class are.
        may_answer: (Q, G) bool; False for the query itself and for other cases of its patient.
        ks: how many answers are looked at.

    Returns:
        (Q, len(ks)) from 0 to 1.

    Raises:
        ValueError: if shapes differ, a similarity is NaN, or a query has fewer than k cases that may answer.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    if not similarity.shape == is_relevant.shape == may_answer.shape or similarity.ndim != 2:
        raise ValueError(
            f"precision_at_k expects three arrays of one shape (queries, gallery); found {similarity.shape}, "
            f"{is_relevant.shape} and {may_answer.shape}. Pass one value a pair."
        )
    if np.isnan(similarity).any():
        raise ValueError(
            f"precision_at_k expects similarities that are numbers; found {int(np.isnan(similarity).sum())} NaN. "
            f"Look at the features that produced them."
        )
    fewest = int(may_answer.sum(axis=1).min()) if len(may_answer) else 0
    if fewest < max(ks):
        raise ValueError(
            f"precision_at_k expects at least {max(ks)} cases that may answer each query; found {fewest}. "
            f"Ask for a smaller k, or add cases of other patients."
        )
    ranked = np.where(may_answer, similarity, -np.inf)
    precision = np.empty((len(similarity), len(ks)))
    for column, k in enumerate(ks):
        last = -np.partition(-ranked, k - 1, axis=1)[:, k - 1 : k]  # similarity of the k-th answer
        above, tied = may_answer & (ranked > last), may_answer & (ranked == last)
        open_places = k - above.sum(axis=1)
        from_ties = (tied & is_relevant).sum(axis=1) / tied.sum(axis=1)
        precision[:, column] = ((above & is_relevant).sum(axis=1) + open_places * from_ties) / k
    return precision
