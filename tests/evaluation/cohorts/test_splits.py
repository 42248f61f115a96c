import numpy as np
import pytest

from dinox_hf.evaluation.cohorts.splits import patient_folds, patient_resamples


def patients_and_labels(num_patients: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patient_ids = np.repeat([f"P{i:02d}" for i in range(num_patients)], rng.integers(1, 6, num_patients))
    return patient_ids, rng.integers(0, 2, len(patient_ids))


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_both_sides_of_any_fold(seed):
    patient_ids, labels = patients_and_labels(seed=seed)
    folds = patient_folds(labels, patient_ids, seed=seed)
    for fold in range(5):
        assert not set(patient_ids[folds == fold]) & set(patient_ids[folds != fold])
    assert sorted(set(folds)) == [0, 1, 2, 3, 4]


def test_other_seeds_give_other_folds():
    patient_ids, labels = patients_and_labels()
    assert (patient_folds(labels, patient_ids, seed=0) != patient_folds(labels, patient_ids, seed=1)).any()


def test_a_class_of_one_patient_is_refused():
    with pytest.raises(ValueError, match="found 2 with label 0 and 1 with label 1"):
        patient_folds(np.array([0, 0, 1, 1]), np.array(["a", "b", "c", "c"]))


def test_a_resample_draws_whole_patients():
    patient_ids = np.array(["a", "b", "a", "c", "b"])
    counts = patient_resamples(patient_ids, num_resamples=200)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all()
