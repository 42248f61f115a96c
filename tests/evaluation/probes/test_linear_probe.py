import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from dinox_hf.evaluation.cohorts.labels import MALIGNANCY_RULES
from dinox_hf.evaluation.cohorts.splits import patient_resamples
from dinox_hf.evaluation.probes.controls import pixel_components
from dinox_hf.evaluation.probes.linear_probe import out_of_fold_scores, repeated_folds, score_probe


def make_task(num_cases: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    patient_ids = np.array([f"P{i // 2}" for i in range(num_cases)])
    labels = rng.integers(0, 2, num_cases)
    features = rng.normal(size=(num_cases, 6))
    features[:, 2] += 1.5 * labels
    return features, labels, patient_ids


def test_a_fold_is_scored_without_its_own_labels():
    features, labels, patient_ids = make_task()
    folds = repeated_folds(labels, patient_ids, num_seeds=1)
    held_out = folds[:, 0] == 2
    flipped = np.where(held_out, 1 - labels, labels)
    before, after = out_of_fold_scores(features, labels, folds), out_of_fold_scores(features, flipped, folds)
    np.testing.assert_allclose(before[held_out], after[held_out], atol=1e-3)
    assert np.abs(before[~held_out] - after[~held_out]).max() > 0.1


def test_a_function_of_the_fitted_rows_never_sees_the_held_out_fold():
    features, labels, patient_ids = make_task()
    folds = repeated_folds(labels, patient_ids, num_seeds=2)
    seen = []

    def remember(rows):
        seen.append(rows)
        return features

    scores = out_of_fold_scores(remember, labels, folds)
    np.testing.assert_allclose(scores, out_of_fold_scores(features, labels, folds), atol=1e-3)
    expected = [folds[:, seed] != fold for seed in range(2) for fold in range(5)]
    np.testing.assert_array_equal(seen, expected)


def test_resampled_areas_are_those_of_weighted_cases():
    features, labels, patient_ids = make_task()
    folds = repeated_folds(labels, patient_ids, num_seeds=2)
    scores = out_of_fold_scores(features, labels, folds)
    resamples = patient_resamples(patient_ids, num_resamples=3)
    score = score_probe(labels, scores, resamples)
    expected = [np.mean([roc_auc_score(labels, s, sample_weight=counts) for s in scores.T]) for counts in resamples]
    np.testing.assert_allclose(score.resampled, expected, atol=1e-12)
    assert score.low < score.auc < score.high


def test_pixel_components_are_those_of_a_pca_of_the_fitted_rows():
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(30, 50)) @ rng.normal(size=(50, 50)) - 600
    rows = np.arange(30) < 20
    components = pixel_components(pixels, num_components=4)(rows)
    expected = PCA(4, svd_solver="full").fit(pixels[rows]).transform(pixels)
    np.testing.assert_allclose(np.abs(components), np.abs(expected), rtol=1e-6, atol=1e-6)


def test_features_without_information_score_one_half():
    areas = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels, patient_ids = rng.integers(0, 2, 100), np.arange(100) // 4
        folds = repeated_folds(labels, patient_ids, num_seeds=1)
        scores = out_of_fold_scores(rng.normal(size=(100, 30)), labels, folds)
        areas.append(roc_auc_score(labels, scores[:, 0]))
    assert np.mean(areas) == pytest.approx(0.5, abs=0.04)


def test_two_folds_are_too_few_to_choose_a_strength_in():
    features, labels, patient_ids = make_task()
    with pytest.raises(ValueError, match="at least 3 folds; found 2"):
        out_of_fold_scores(features, labels, repeated_folds(labels, patient_ids, num_seeds=1, num_folds=2))


@pytest.mark.real_data
def test_size_alone_separates_the_malignancy_of_real_nodules_at_0904(real_data):
    with np.load(real_data / "nodules" / "lidc_maxslice_71px_otherpatients.npz") as file:
        ratings, patients, diameter_mm = file["ratings_malignancy"], file["patient_id"], file["equiv_diameter_mm"]
    labels = [MALIGNANCY_RULES[0].label([rating for rating in row if rating > 0]) for row in ratings]
    kept = np.array([label is not None for label in labels])
    labels = np.array([label for label in labels if label is not None])
    assert (len(labels), labels.sum()) == (304, 95)
    folds = repeated_folds(labels, patients[kept], num_seeds=2)
    scores = out_of_fold_scores(diameter_mm[kept, None], labels, folds)
    score = score_probe(labels, scores, patient_resamples(patients[kept]))
    assert score.auc == pytest.approx(0.904, abs=0.005)
    assert 0.85 < score.low < score.high < 0.95


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_of_a_diverged_network_are_refused_with_their_count(value):
    features, labels, patient_ids = make_task()
    features[3, 1] = value
    with pytest.raises(ValueError, match=r"finite features; found 1 values .*diverged"):
        out_of_fold_scores(features, labels, repeated_folds(labels, patient_ids, num_seeds=1))


def test_one_class_only_is_refused_before_any_fit():
    _, labels, patient_ids = make_task()
    with pytest.raises(ValueError, match=r"both classes in at least 2 patients; found 60 with label 0 and 0 with"):
        repeated_folds(np.zeros_like(labels), patient_ids, num_seeds=1)
