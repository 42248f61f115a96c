"""A probe that is given few labels: draws of patients, and fits on exactly the nodules of a draw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.leaks import check_no_leak
from ..cohorts.splits import patient_folds
from .linear_probe import STRENGTHS
from .logistic_regression import fit_many

SHARES = (0.01, 0.05, 0.10, 0.25, 1.0)  # of the training patients
NUM_DRAWS = 10
_INNER_FOLDS = 4  # in which the strength is chosen
_MIN_PATIENTS = 3  # of each class, for a choice
_STRENGTH = 0.01  # where there are too few to choose


@dataclass(frozen=True)
class LabelDraw:
    """The nodules whose labels a fit may see, of patients outside the fold that it is tested on."""

    share: float  # of the training patients, as asked for
    number: int  # which draw
    fold: int  # held out
    rows: np.ndarray  # (k,) int, sorted
    num_patients: int


def deal_labels(
    labels: np.ndarray,
    patient_ids: np.ndarray,
    folds: np.ndarray,
    shares: Sequence[float] = SHARES,
    num_draws: int = NUM_DRAWS,
) -> list[LabelDraw]:
    """Draw shares of the training patients of every fold, with all their nodules; the folds stay as they are.

    Patients with a positive nodule and patients without are drawn apart, in the same share, at least one of each, so
    that every draw holds both classes. A small share of few patients is therefore larger than asked for: 1 % of 150
    patients is 2 of them. A draw's small share lies within its larger ones.

    Args:
        labels: (n,) 0 or 1.
        patient_ids: (n,).
        folds: (n,) patient-grouped, as of `patient_folds`.
        shares: from above 0 to 1.
        num_draws: of every share and fold; at share 1 they hold the same patients.

    Raises:
        ValueError: if a patient stands in two folds, a share is no share, or the folds but one lack a class or a
            patient without a positive nodule.
    """
    check_no_leak(folds, patient_ids, of="these folds")
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"Shares should lie above 0 and be at most 1; found {list(shares)}. 0.05 is 5 %.")
    draws = []
    for fold in np.unique(folds):
        has_positive = np.unique(patient_ids[(folds != fold) & (labels == 1)])
        without = np.setdiff1d(patient_ids[folds != fold], has_positive)
        if not len(has_positive) or not len(without):
            raise ValueError(
                f"A draw of labels needs patients with and patients without a positive nodule outside every fold; "
                f"found {len(has_positive)} and {len(without)} outside fold {fold}. Use a set of more patients, or "
                f"another label rule."
            )
        for number in range(num_draws):
            rng = np.random.default_rng([number, int(fold)])
            orders = [rng.permutation(has_positive), rng.permutation(without)]
            for share in shares:
                kept = [order[: max(1, round(share * len(order)))] for order in orders]
                rows = np.flatnonzero(np.isin(patient_ids, np.concatenate(kept)))
                draws.append(LabelDraw(share, number, int(fold), rows, sum(map(len, kept))))
                held_out = np.flatnonzero(folds == fold)
                check_no_leak(
                    np.repeat(["drawn", "held out"], [len(rows), len(held_out)]),
                    patient_ids[np.concatenate([rows, held_out])],
                    of="a draw of labels",
                )
    return draws


def fit_draws(
    features: np.ndarray, labels: np.ndarray, patient_ids: np.ndarray, folds: np.ndarray, draws: Sequence[LabelDraw]
) -> np.ndarray:
    """One logistic regression a draw, on frozen features of the drawn nodules alone.

    Features are standardised by all nodules outside the held-out fold, labelled or not: images are there, labels are
    what is scarce. The strength C has the smallest log loss in folds of the drawn patients; where a class has fewer
    than three of them, or an inner fold would be fitted to one class, it is 0.01.

    Args:
        features: (n, D).
        labels: (n,) 0 or 1.
        patient_ids: (n,).
        folds: (n,) those of the draws.
        draws: P of them.

    Returns:
        (n, P) decision values of all nodules; those of a draw's held-out fold are its scores.

    Raises:
        ValueError: if a feature is not finite.
    """
    if not np.isfinite(features).all():
        raise ValueError(
            f"A probe needs finite features; found {int((~np.isfinite(features)).sum())} values that are NaN or "
            f"infinite. Look at the checkpoint's training curves: a run that diverged gives such features."
        )
    use_row = np.zeros((len(labels), len(draws)), dtype=bool)
    for column, draw in enumerate(draws):
        use_row[draw.rows, column] = True
    is_outside = np.stack([folds != draw.fold for draw in draws], axis=1)
    strengths = _choose_strengths(features, labels, patient_ids, draws, is_outside)
    return fit_many(features, labels[:, None], use_row, strengths, standardise_by=is_outside)


def _choose_strengths(features, labels, patient_ids, draws, is_outside) -> np.ndarray:
    """(P,) the C with the smallest log loss in folds of each draw's patients."""
    fitted_rows, judged = [], []  # of every inner fold: the rows fitted to; the draw and the rows that judge
    for number, draw in enumerate(draws):
        inner = _inner_folds(labels[draw.rows], patient_ids[draw.rows])
        for fold in np.unique(inner):
            fitted_rows.append(draw.rows[inner != fold])
            judged.append((number, draw.rows[inner == fold]))
    loss = np.zeros((len(draws), len(STRENGTHS)))
    loss[:, STRENGTHS == _STRENGTH] = -1e-9  # decides where nothing was judged
    if judged:
        use_row = np.zeros((len(labels), len(judged)), dtype=bool)
        for column, rows in enumerate(fitted_rows):
            use_row[rows, column] = True
        standardise_by = is_outside[:, [number for number, _ in judged]]
        signs = np.where(labels == 1, -1, 1)
        for position, strength in enumerate(STRENGTHS):
            strengths = np.full(len(judged), strength)
            scores = fit_many(features, labels[:, None], use_row, strengths, standardise_by=standardise_by)
            for column, (number, rows) in enumerate(judged):
                loss[number, position] += np.logaddexp(0, signs[rows] * scores[rows, column]).sum()
    return STRENGTHS[loss.argmin(axis=1)]


def _inner_folds(labels: np.ndarray, patient_ids: np.ndarray) -> np.ndarray:
    """(k,) folds of one draw, each fitted to both classes; none of them, (0,), where there are too few patients."""
    num_patients = [len(np.unique(patient_ids[labels == value])) for value in (0, 1)]
    if min(num_patients) < _MIN_PATIENTS:
        return np.empty(0, dtype=int)
    inner = patient_folds(labels, patient_ids, _INNER_FOLDS)
    both = all(len(np.unique(labels[inner != fold])) == 2 for fold in np.unique(inner))
    return inner if both else np.empty(0, dtype=int)
