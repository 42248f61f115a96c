"""Folds and resamples that keep a patient together."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from ...data.leaks import check_no_leak


def patient_folds(labels: np.ndarray, patient_ids: np.ndarray, num_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Deal the cases into folds: all cases of a patient into one fold, both classes as even as patients allow.

    Args:
        labels: (n,) 0 or 1.
        patient_ids: (n,) one patient a case.
        num_folds: how many; fewer where a class has fewer patients.
        seed: of the order in which patients are dealt.

    Returns:
        (n,) int fold number from 0.

    Raises:
        ValueError: if a class has fewer than two patients, so that it cannot be on both sides of a fold.
    """
    labels, patient_ids = np.asarray(labels), np.asarray(patient_ids)
    patients_of_class = [len(np.unique(patient_ids[labels == label])) for label in (0, 1)]
    if min(patients_of_class) < 2:
        raise ValueError(
            f"patient_folds needs both classes in at least 2 patients; found {patients_of_class[0]} with label 0 and "
            f"{patients_of_class[1]} with label 1. Add scans, or choose another label rule."
        )
    splitter = StratifiedGroupKFold(min(num_folds, *patients_of_class), shuffle=True, random_state=seed)
    folds = np.empty(len(labels), dtype=np.int64)
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, patient_ids)):
        folds[held_out] = fold
    check_no_leak(folds, patient_ids, of="these folds")
    return folds


def patient_resamples(patient_ids: np.ndarray, num_resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each case is drawn when patients, not cases, are drawn with replacement.

    Args:
        patient_ids: (n,) one patient a case.
        num_resamples: rows to return.
        seed: of the draws.

    Returns:
        (num_resamples, n) int counts; all cases of a patient share one count.
    """
    patients, patient_of_case = np.unique(patient_ids, return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=num_resamples)
    return draws[:, patient_of_case]
