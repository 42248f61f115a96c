import numpy as np
import pytest

from dinox_hf.evaluation.cohorts.labels import MALIGNANCY_RULES
from dinox_hf.evaluation.cohorts.splits import patient_resamples
from dinox_hf.evaluation.probes.reader_agreement import (
    gather_opinions,
    probe_probabilities,
    reader_agreement,
    score_against_readers,
    score_readers,
)
from dinox_hf.metrics.auroc import auroc
from dinox_hf.metrics.spearman import spearman

RULE = MALIGNANCY_RULES[0]


@pytest.fixture(scope="module")
def cohort():
    """Ninety nodules of 45 patients with 1 to 4 readers around a hidden truth."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 5, 90)
    ratings = [
        np.clip(np.round(value + rng.normal(0, 0.7, rng.integers(1, 5))), 1, 5).astype(int).tolist() for value in truth
    ]
    ratings[5].append(None)  # a reader who drew it and gave no rating
    patient_ids = np.array([f"P{number // 2:02d}" for number in range(90)])
    return truth, ratings, patient_ids


def test_opinions_by_hand():
    opinions, rows = gather_opinions([[5, 3, 1], [4], [4, 5], [2, None, 4]], np.array(list("abcd")), RULE)
    np.testing.assert_array_equal(rows, [0, 2, 3])
    np.testing.assert_allclose(opinions.mean, [3, 4.5, 3])
    np.testing.assert_allclose(opinions.share, [0.5, 1, 0.5])
    np.testing.assert_array_equal(opinions.labels, [np.nan, 1, np.nan])
    # Two others must remain, so only the first nodule leaves readers out.
    np.testing.assert_array_equal(opinions.pair_nodule, [0, 0, 0])
    np.testing.assert_array_equal(opinions.pair_rating, [5, 3, 1])
    np.testing.assert_allclose(opinions.pair_mean, [2, 3, 4])
    np.testing.assert_array_equal(opinions.pair_label, [0, np.nan, 1])


def test_the_order_of_the_readers_changes_nothing(cohort):
    _, ratings, patient_ids = cohort
    turned = [list(reversed(each)) for each in ratings]
    resamples = patient_resamples(gather_opinions(ratings, patient_ids, RULE)[0].patient_ids, 20)
    found = [score_readers(gather_opinions(each, patient_ids, RULE)[0], resamples) for each in (ratings, turned)]
    for name in ("spearman_others", "auc_others"):
        assert found[0][name]["value"] == pytest.approx(found[1][name]["value"], abs=1e-12)
        np.testing.assert_allclose(found[0][name]["interval"], found[1][name]["interval"], atol=1e-12)


def test_numbers_are_those_of_the_plain_metrics(cohort):
    truth, ratings, patient_ids = cohort
    opinions, rows = gather_opinions(ratings, patient_ids, RULE)
    resamples = patient_resamples(opinions.patient_ids, 20)
    p = ((truth[rows] - 1) / 4)[:, None]
    found = score_against_readers(p, opinions, resamples)
    assert found["spearman_mean"]["value"] == pytest.approx(spearman(p[:, 0], opinions.mean))
    assert found["spearman_spread"]["value"] == pytest.approx(spearman((p * (1 - p))[:, 0], opinions.sd))
    of_pairs, known = p[opinions.pair_nodule, 0], ~np.isnan(opinions.pair_label)
    assert found["spearman_others"]["value"] == pytest.approx(spearman(of_pairs, opinions.pair_mean))
    assert found["auc_others"]["value"] == pytest.approx(auroc(opinions.pair_label[known], of_pairs[known]))
    low, high = found["spearman_mean"]["interval"]
    assert low < found["spearman_mean"]["value"] < high and found["calibration_share"]["interval"] is None
    # Who knows the hidden truth agrees with the others better than a reader, who adds an error of their own.
    assert found["spearman_others"]["value"] > score_readers(opinions, resamples)["spearman_others"]["value"] > 0.5


def test_a_probability_is_made_without_the_labels_of_its_fold_and_without_those_left_out(cohort):
    truth, ratings, patient_ids = cohort
    opinions, rows = gather_opinions(ratings, patient_ids, RULE)
    p = probe_probabilities([truth[rows][:, None]], opinions, num_seeds=2)
    assert p.shape == (len(rows), 2) and ((p > 0) & (p < 1)).all()
    assert spearman(p[:, 0], opinions.mean) > 0.8
    noise = np.random.default_rng(1).normal(size=(len(rows), 1))
    assert abs(spearman(probe_probabilities([noise], opinions, num_seeds=1)[:, 0], opinions.mean)) < 0.35


def test_a_set_with_two_readers_has_no_reader_to_leave_out():
    rng = np.random.default_rng(0)
    ratings = [[1, 2] if number % 2 else [4, 5] for number in range(40)]
    patient_ids = np.arange(40).astype(str)
    features = {("noise", "–"): [rng.normal(size=(40, 2))]}
    record = reader_agreement(ratings, patient_ids, RULE, features, num_seeds=1)
    assert record["readers"] is None and record["num_left_out"] == 0
    assert "auc_others" not in record["scores"][0]
    assert record["scores"][0]["spearman_spread"] is None  # all readers lie equally far apart


def test_features_that_are_no_numbers_are_refused(cohort):
    _, ratings, patient_ids = cohort
    features = {("bad", "–"): [np.full((90, 1), np.nan)]}
    with pytest.raises(ValueError, match="NaN or infinite"):
        reader_agreement(ratings, patient_ids, RULE, features, num_seeds=1)
