"""k nearest neighbours: whether nodules that a backbone finds alike share an answer, without fitting anything."""

import numpy as np

NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07


def cosine_similarity(features: np.ndarray) -> np.ndarray:
    """(n, n) cosine of the angle between features (n, D), each taken from their mean over all n.

    The mean is taken off for all features alike: tokens of random weights and raw pixels share a large one, beside
    which no two of them would differ. It needs no labels.

    Raises:
        ValueError: if a feature is not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if not np.isfinite(features).all():
        raise ValueError(
            f"Neighbours need finite features; found {int((~np.isfinite(features)).sum())} values that are NaN or "
            f"infinite. Look at the checkpoint's training curves: a run that diverged gives such features."
        )
    centred = features - features.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return unit @ unit.T


def size_similarity(diameter_mm: np.ndarray) -> np.ndarray:
    """(n, n) how alike two diameters are: minus the size of the logarithm of their ratio."""
    logarithm = np.log(np.asarray(diameter_mm, dtype=np.float64))
    return -np.abs(logarithm[:, None] - logarithm[None])


def knn_scores(
    similarity: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    num_neighbours: int = NUM_NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Score every case by the labels of its nearest neighbours in the other folds.

    As DINO evaluates frozen features (arXiv:2104.14294, section 4.1, after arXiv:1805.01978): the 20 nearest vote,
    each with the weight exp(similarity / 0.07). Neither number is chosen here.

    Args:
        similarity: (n, n), higher is more alike.
        labels: (n,) 0 or 1.
        folds: (n, num_seeds) patient-grouped, so that no neighbour is of the same patient.
        num_neighbours: who vote.
        temperature: smaller lets the nearest decide.

    Returns:
        (n, num_seeds) weighted share of the neighbours with label 1.

    Raises:
        ValueError: if there are fewer cases outside a fold than neighbours.
    """
    scores = np.empty(folds.shape)
    for seed, column in enumerate(folds.T):
        for fold in np.unique(column):
            held_out, others = np.flatnonzero(column == fold), np.flatnonzero(column != fold)
            if len(others) < num_neighbours:
                raise ValueError(
                    f"{num_neighbours} neighbours are asked for; found {len(others)} cases outside a fold. Use a set "
                    f"of more nodules, or a smaller num_neighbours."
                )
            to_others = similarity[np.ix_(held_out, others)]
            nearest = np.argsort(-to_others, axis=1, kind="stable")[:, :num_neighbours]
            alike = np.take_along_axis(to_others, nearest, axis=1)
            weights = np.exp((alike - alike[:, :1]) / temperature)
            scores[held_out, seed] = (weights * labels[others][nearest]).sum(axis=1) / weights.sum(axis=1)
    return scores


def smallest_gallery(folds: np.ndarray) -> int:
    """The fewest cases outside any fold."""
    return min(len(column) - int(np.bincount(column).max()) for column in folds.T)
