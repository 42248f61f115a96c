from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dinox_hf.evaluation.cohorts.splits import patient_folds
from dinox_hf.evaluation.probes.few_labels import SHARES, deal_labels, fit_draws


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    patient_ids = np.array([f"P{number // 2:03d}" for number in range(160)])
    labels = rng.integers(0, 2, 160)
    features = rng.normal(size=(160, 5)) + 1.2 * labels[:, None] * [1, 0, 0, 0, 0]
    return features, labels, patient_ids, patient_folds(labels, patient_ids)


@pytest.fixture(scope="module")
def draws(task):
    _, labels, patient_ids, folds = task
    return deal_labels(labels, patient_ids, folds, num_draws=3)


def test_a_draw_holds_both_classes_and_no_patient_of_its_fold(task, draws):
    _, labels, patient_ids, folds = task
    assert len(draws) == 5 * 3 * len(SHARES)
    for draw in draws:
        assert set(labels[draw.rows]) == {0, 1}
        assert not set(patient_ids[draw.rows]) & set(patient_ids[folds == draw.fold])
        assert len(set(patient_ids[draw.rows])) == draw.num_patients


def test_a_drawn_patient_brings_all_nodules(task, draws):
    patient_ids = task[2]
    for draw in draws:
        np.testing.assert_array_equal(draw.rows, np.flatnonzero(np.isin(patient_ids, patient_ids[draw.rows])))


def test_shares_are_of_the_training_patients_and_nested(task, draws):
    _, _, patient_ids, folds = task
    by_draw = {}
    for draw in draws:
        by_draw.setdefault((draw.number, draw.fold), []).append(draw)
    for (_, fold), own in by_draw.items():
        num = len(set(patient_ids[folds != fold]))
        assert [draw.num_patients for draw in own] == pytest.approx([2, 0.05 * num, 0.1 * num, 0.25 * num, num], abs=1)
        assert own[0].num_patients == 2 and own[-1].num_patients == num
        for smaller, larger in pairwise(own):
            assert set(smaller.rows) < set(larger.rows)
    assert len({tuple(draw.rows) for draw in draws if draw.share == 0.25}) == 15


def test_a_fit_sees_the_labels_of_its_draw_alone(task, draws):
    features, labels, patient_ids, folds = task
    for draw in draws[:5]:
        is_hidden = ~np.isin(np.arange(160), draw.rows)
        changed = np.where(is_hidden, 1 - labels, labels)
        before, after = (fit_draws(features, each, patient_ids, folds, [draw]) for each in (labels, changed))
        np.testing.assert_array_equal(after, before)


def test_a_fit_is_that_of_scikit_learn_on_features_standardised_outside_the_fold(task, draws):
    features, labels, patient_ids, folds = task
    few = next(draw for draw in draws if draw.share == 0.01)  # too few patients to choose a strength: 0.01
    outside = features[folds != few.fold]
    standard = (features - outside.mean(axis=0)) / outside.std(axis=0)
    model = LogisticRegression(C=0.01, tol=1e-8).fit(standard[few.rows], labels[few.rows])
    found = fit_draws(features, labels, patient_ids, folds, [few])[:, 0]
    np.testing.assert_allclose(found, model.decision_function(standard), atol=1e-3)


def test_features_that_are_no_numbers_are_refused(task, draws):
    features, labels, patient_ids, folds = task
    with pytest.raises(ValueError, match="found 5 values that are NaN"):
        fit_draws(np.where(np.arange(160)[:, None] == 3, np.nan, features), labels, patient_ids, folds, draws)


def test_a_set_without_negative_patients_and_shares_that_are_none_are_refused(task):
    _, labels, patient_ids, folds = task
    with pytest.raises(ValueError, match="patients without a positive nodule outside every fold; found 64 and 0"):
        deal_labels(np.ones_like(labels), patient_ids, folds)
    with pytest.raises(ValueError, match=r"found \[0.5, 5\]"):
        deal_labels(labels, patient_ids, folds, shares=(0.5, 5))
