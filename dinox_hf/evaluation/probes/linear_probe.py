"""Linear probe: how well one hyperplane in frozen features answers a yes-or-no question about unseen patients."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...metrics.auroc import auroc
from ..cohorts.splits import patient_folds
from .logistic_regression import fit_many

STRENGTHS = np.array([1e-3, 1e-2, 1e-1, 1.0])  # C of scikit-learn, chosen anew inside every fold

# A matrix (n, D), or a function of the rows used for fitting (n,) bool that returns one, such as a PCA.
Features = np.ndarray | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ProbeScore:
    """Area under the ROC curve of out-of-fold scores, with its spread over patients and over seeds."""

    auc: float  # mean over seeds
    low: float  # 95 % interval, bootstrap by patient
    high: float
    auc_by_seed: tuple[float, ...]
    resampled: np.ndarray = field(repr=False, compare=False)  # (num_resamples,) the bootstrap itself, for differences


def repeated_folds(labels: np.ndarray, patient_ids: np.ndarray, num_seeds: int, num_folds: int = 5) -> np.ndarray:
    """(n, num_seeds) patient-grouped folds, one column a seed."""
    return np.stack([patient_folds(labels, patient_ids, num_folds, seed) for seed in range(num_seeds)], axis=1)


def out_of_fold_scores(features: Features, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Score every case by a logistic regression that saw neither it nor any other case of its fold.

    Nested cross-validation: for each held-out fold the strength C is the one with the smallest log loss on the other
    folds, each scored by a fit without itself and without the held-out one. Features are standardised by the rows of
    each fit.

    Args:
        features: see `Features`; a function is called once for every held-out fold with the other folds' rows.
        labels: (n,) 0 or 1.
        folds: (n, num_seeds) fold numbers, at least three in each column.

    Returns:
        (n, num_seeds) decision values, less their mean over the rows of the fit.

    Raises:
        ValueError: if there are fewer than three folds, or features are not finite.
    """
    fold_counts = [len(np.unique(column)) for column in folds.T]
    if min(fold_counts) < 3:
        raise ValueError(
            f"A nested probe needs at least 3 folds; found {min(fold_counts)}. Use data of more patients."
        )
    held_out = [(seed, fold) for seed, column in enumerate(folds.T) for fold in np.unique(column)]
    scores = np.empty(folds.shape)
    if callable(features):
        for seed, fold in held_out:
            _score_held_out(features(folds[:, seed] != fold), labels, folds, [(seed, fold)], scores)
    else:
        _score_held_out(features, labels, folds, held_out, scores)
    return scores


def score_probe(labels: np.ndarray, scores: np.ndarray, resamples: np.ndarray) -> ProbeScore:
    """AUC of out-of-fold scores with an interval.

    A resample weighs each pair of a positive and a negative case by how often the two were drawn, so one matrix of who
    beats whom, averaged over seeds, serves all resamples.

    Args:
        labels: (n,) 0 or 1.
        scores: (n, num_seeds) out-of-fold scores.
        resamples: (num_resamples, n) counts of `patient_resamples`.
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    first, second = positive[:, None], negative[None]  # compared, not subtracted: two infinities tie
    beats = ((first > second) + 0.5 * (first == second)).mean(axis=2)
    drawn_positive, drawn_negative = resamples[:, labels == 1], resamples[:, labels == 0]
    num_pairs = drawn_positive.sum(axis=1) * drawn_negative.sum(axis=1)
    wins = ((drawn_positive @ beats) * drawn_negative).sum(axis=1)
    resampled = np.divide(wins, num_pairs, out=np.full(len(wins), np.nan), where=num_pairs > 0)
    by_seed = tuple(auroc(labels, column) for column in scores.T)
    return ProbeScore(float(np.mean(by_seed)), *interval(resampled), by_seed, resampled)


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of a bootstrap; resamples without one of the classes are left out."""
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def _score_held_out(features, labels, folds, held_out, scores) -> None:
    """Fill `scores` where a row's fold is held out, for every (seed, fold) of the list."""
    if not np.isfinite(features).all():
        raise ValueError(
            f"A probe needs finite features; found {int((~np.isfinite(features)).sum())} values that are NaN or "
            f"infinite. Look at the checkpoint's training curves: a run that diverged gives such features."
        )
    chosen = _choose_strengths(features, labels, folds, held_out)
    use_row = np.stack([folds[:, seed] != fold for seed, fold in held_out], axis=1)
    fitted = fit_many(features, labels[:, None], use_row, chosen)
    # The intercept follows the share of positives among the fitted rows, which falls when the held-out fold has many:
    # pooled over folds it pushes a useless probe below one half (shuffled labels: 0.46 with it, 0.49 without).
    fitted -= (fitted * use_row).sum(axis=0) / use_row.sum(axis=0)
    for column, (seed, fold) in enumerate(held_out):
        rows = folds[:, seed] == fold
        scores[rows, seed] = fitted[rows, column]


def _choose_strengths(features, labels, folds, held_out) -> np.ndarray:
    """(len(held_out),) the C with the smallest log loss inside the other folds."""
    # A fit without folds a and b validates on b when a is held out, and on a when b is: fit it once.
    others = {(seed, fold): [o for o in np.unique(folds[:, seed]) if o != fold] for seed, fold in held_out}
    pairs = {(seed, *sorted((fold, other))) for (seed, fold), rest in others.items() for other in rest}
    pairs = {pair: position for position, pair in enumerate(sorted(pairs))}
    use_row = np.stack([(folds[:, seed] != a) & (folds[:, seed] != b) for seed, a, b in pairs], axis=1)
    num_strengths = len(STRENGTHS)
    fitted = fit_many(
        features, labels[:, None], np.repeat(use_row, num_strengths, axis=1), np.tile(STRENGTHS, len(pairs))
    ).reshape(len(labels), len(pairs), num_strengths)
    log_loss = np.logaddexp(0, np.where(labels == 1, -1, 1)[:, None, None] * fitted)
    chosen = []
    for seed, fold in held_out:
        loss = np.zeros(num_strengths)
        for other in others[seed, fold]:
            loss += log_loss[folds[:, seed] == other, pairs[(seed, *sorted((fold, other)))]].sum(axis=0)
        chosen.append(STRENGTHS[loss.argmin()])
    return np.array(chosen)
