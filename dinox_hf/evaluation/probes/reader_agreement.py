"""A probe against every single reader: does it agree with them as well as they agree with one another?

A rule makes one label of up to four opinions and hides how far they lie apart. Here the score stands beside the mean
rating, beside the spread of the readers, and beside each reader left out in turn, judged by the others.

The columns of LIDC-IDRI are no persons: who read as first or second changes from scan to scan. So readers are taken as
exchangeable, and every reader left out counts alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from ...metrics.calibration_error import expected_calibration_error
from ...metrics.spearman import resampled_spearman
from ...metrics.stratified_auroc import pair_wins, resampled_area
from ..cohorts.labels import MIN_READERS, LabelRule
from ..cohorts.splits import patient_folds, patient_resamples
from .few_labels import LabelDraw, fit_draws
from .linear_probe import interval

READER = "one reader, judged by the others"
NUM_BINS = 10
_MIDDLE_RATING = 3


@dataclass(frozen=True)
class Opinions:
    """What the readers said about each of n nodules that at least two of them rated."""

    mean: np.ndarray  # (n,) of the ratings
    sd: np.ndarray  # (n,) of the ratings
    share: np.ndarray  # (n,) of the readers who rated above 3; one who rated 3 counts one half
    labels: np.ndarray  # (n,) by the rule, NaN where it leaves a nodule out
    patient_ids: np.ndarray  # (n,)
    # Readers left out one at a time, of nodules that at least two others rated:
    pair_nodule: np.ndarray  # (P,) int
    pair_rating: np.ndarray  # (P,) of the reader left out
    pair_mean: np.ndarray  # (P,) of the others
    pair_label: np.ndarray  # (P,) of the others by the rule, NaN where it leaves them out


def gather_opinions(
    ratings: Sequence[Sequence[int | None]], patient_ids: np.ndarray, rule: LabelRule
) -> tuple[Opinions, np.ndarray]:
    """Opinions on the nodules with enough readers, and (n,) int which nodules these are."""
    given = [[rating for rating in each if rating is not None] for each in ratings]
    rows = np.array([index for index, each in enumerate(given) if len(each) >= MIN_READERS], dtype=int)
    given = [given[row] for row in rows]
    pairs = [
        (nodule, rating, [*each[:left_out], *each[left_out + 1 :]])
        for nodule, each in enumerate(given)
        if len(each) > MIN_READERS
        for left_out, rating in enumerate(each)
    ]
    above = [[(rating > _MIDDLE_RATING) + 0.5 * (rating == _MIDDLE_RATING) for rating in each] for each in given]
    opinions = Opinions(
        mean=np.array([np.mean(each) for each in given]),
        sd=np.array([np.std(each) for each in given]),
        share=np.array([np.mean(each) for each in above]),
        labels=_labels(given, rule),
        patient_ids=np.asarray(patient_ids)[rows],
        pair_nodule=np.array([nodule for nodule, _, _ in pairs], dtype=int),
        pair_rating=np.array([rating for _, rating, _ in pairs], dtype=float),
        pair_mean=np.array([np.mean(others) for _, _, others in pairs]),
        pair_label=_labels([others for _, _, others in pairs], rule),
    )
    return opinions, rows


def probe_probabilities(features: Sequence[np.ndarray], opinions: Opinions, num_seeds: int) -> np.ndarray:
    """Out-of-fold probability of the positive label for all n nodules, those included that the rule leaves out.

    The probe is fitted to the nodules that the rule labels, outside the fold.

    Args:
        features: one or more (n, D); seeds take them in turn, as those of random networks.
        opinions: on the nodules.
        num_seeds: repetitions of the folds.

    Returns:
        (n, num_seeds) from 0 to 1.

    Raises:
        ValueError: if classes or patients are too few for folds, or a feature is not finite.
    """
    is_labelled = ~np.isnan(opinions.labels)
    labels = np.where(is_labelled, opinions.labels, 0).astype(int)
    probabilities = np.empty((len(labels), num_seeds))
    for seed in range(num_seeds):
        folds = patient_folds(opinions.mean > _MIDDLE_RATING, opinions.patient_ids, seed=seed)
        draws = []
        for fold in np.unique(folds):
            rows = np.flatnonzero((folds != fold) & is_labelled)
            draws.append(LabelDraw(1.0, seed, int(fold), rows, len(np.unique(opinions.patient_ids[rows]))))
        fitted = fit_draws(features[seed % len(features)], labels, opinions.patient_ids, folds, draws)
        for column, draw in enumerate(draws):
            probabilities[folds == draw.fold, seed] = expit(fitted[folds == draw.fold, column])
    return probabilities


def score_against_readers(probabilities: np.ndarray, opinions: Opinions, resamples: np.ndarray) -> dict[str, Any]:
    """How a probe's probabilities lie beside the readers' opinions, with 95 % intervals by patient.

    Args:
        probabilities: (n, num_seeds); numbers are means over seeds.
        opinions: on the n nodules.
        resamples: (R, n) of `patient_resamples`.

    Returns:
        `spearman_mean` with the mean rating, `calibration_labels` and `calibration_share` as expected calibration
        error by the rule's labels and by the share of readers, `spearman_spread` of p (1 - p) with the readers'
        standard deviation, and, on readers left out, `spearman_others` and `auc_others`; None for a correlation with
        what is constant. Calibration errors come without an interval: drawing fewer different cases raises them, so
        a bootstrap lies beside the number.
    """
    is_labelled = ~np.isnan(opinions.labels)
    seeds = list(probabilities.T)
    pairs = resamples[:, opinions.pair_nodule]
    found = {
        "spearman_mean": [_spearman(p, opinions.mean, resamples) for p in seeds],
        "calibration_labels": [_calibration(opinions.labels[is_labelled], p[is_labelled]) for p in seeds],
        "calibration_share": [_calibration(opinions.share, p) for p in seeds],
        "spearman_spread": [_spearman(p * (1 - p), opinions.sd, resamples) for p in seeds],
    }
    if len(opinions.pair_nodule):
        of_pairs = [p[opinions.pair_nodule] for p in seeds]
        found |= {
            "spearman_others": [_spearman(p, opinions.pair_mean, pairs) for p in of_pairs],
            "auc_others": [_area(p, opinions.pair_label, pairs) for p in of_pairs],
        }
    return {name: _mean(values) for name, values in found.items()}


def score_readers(opinions: Opinions, resamples: np.ndarray) -> dict[str, Any] | None:
    """Each reader left out against the others, as `score_against_readers` gives them; None without such readers."""
    if not len(opinions.pair_nodule):
        return None
    pairs = resamples[:, opinions.pair_nodule]
    return {
        "spearman_others": _mean([_spearman(opinions.pair_rating, opinions.pair_mean, pairs)]),
        "auc_others": _mean([_area(opinions.pair_rating, opinions.pair_label, pairs)]),
    }


def reader_agreement(
    ratings: Sequence[Sequence[int | None]],
    patient_ids: np.ndarray,
    rule: LabelRule,
    features: dict[tuple[str, str], Sequence[np.ndarray]],
    num_seeds: int,
) -> dict[str, Any]:
    """Every features' probe, and the readers themselves, on the same nodules; plain numbers.

    Args:
        ratings: of all N nodules.
        patient_ids: (N,).
        rule: that the probes are fitted to.
        features: by name and pooling, one or more (N, D).
        num_seeds: repetitions of the folds.

    Raises:
        ValueError: as `probe_probabilities`.
    """
    opinions, rows = gather_opinions(ratings, patient_ids, rule)
    resamples = patient_resamples(opinions.patient_ids)
    scores = []
    for (name, pooling), networks in features.items():
        probabilities = probe_probabilities([network[rows] for network in networks], opinions, num_seeds)
        scores.append(
            {"features": name, "pooling": pooling} | score_against_readers(probabilities, opinions, resamples)
        )
    return {
        "num_nodules": len(rows),
        "num_labelled": int((~np.isnan(opinions.labels)).sum()),
        "num_patients": len(np.unique(opinions.patient_ids)),
        "num_left_out": len(opinions.pair_nodule),
        "num_left_out_nodules": len(np.unique(opinions.pair_nodule)),
        "num_left_out_labelled": int((~np.isnan(opinions.pair_label)).sum()),
        "scores": scores,
        "readers": score_readers(opinions, resamples),
    }


def _labels(ratings: Sequence[Sequence[int]], rule: LabelRule) -> np.ndarray:
    found = [rule.label(each) for each in ratings]
    return np.array([np.nan if label is None else label for label in found], dtype=float)


# Each returns the number itself and, resample by resample, the bootstrap.
def _spearman(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return resampled_spearman(first, second, _once(counts))


def _area(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    known = ~np.isnan(labels)
    labels = labels[known].astype(int)
    wins, pairs = pair_wins(labels, scores[known][:, None], np.zeros(len(labels)))
    return resampled_area(wins, pairs, labels, _once(counts[:, known]))


def _calibration(outcomes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.array([expected_calibration_error(outcomes, probabilities, NUM_BINS)])


def _once(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((1, counts.shape[1]), dtype=counts.dtype), counts])


def _mean(values: list[np.ndarray]) -> dict[str, Any] | None:
    """Mean over seeds; None where there is no such number, as no correlation with what is constant."""
    mean = np.mean(values, axis=0)
    if np.isnan(mean[0]):
        return None
    return {"value": float(mean[0]), "interval": list(interval(mean[1:])) if len(mean) > 1 else None}
