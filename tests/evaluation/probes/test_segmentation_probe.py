import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, f1_score, jaccard_score
from sklearn.preprocessing import StandardScaler

from dinox_hf.evaluation.probes import segmentation_probe
from dinox_hf.evaluation.probes.segmentation_probe import (
    best_threshold,
    patient_deal,
    predict_patches,
    raw_patches,
    score_patches,
    score_record,
)

SIDE, WIDTH = 4, 7


def planted(num_nodules: int = 30, strength: float = 3.0, seed: int = 0):
    """Tokens of which one direction says nodule or not, with other scales and offsets in every dimension."""
    rng = np.random.default_rng(seed)
    truth = rng.random((num_nodules, SIDE, SIDE)) < 0.2
    truth[:, 0, 0] = True
    tokens = rng.normal(0, 1, (num_nodules, SIDE, SIDE, WIDTH))
    tokens[truth] += strength * rng.normal(0, 1, WIDTH)
    patient_ids = np.array([f"P{index // 2}" for index in range(num_nodules)])
    return tokens * np.logspace(-2, 3, WIDTH) + 100, truth, patient_ids


def test_the_fit_is_ridge_regression_on_standardised_tokens():
    tokens, truth, _ = planted()
    rows, labels = tokens.reshape(-1, WIDTH), truth.ravel().astype(float)
    weights = segmentation_probe._sums(tokens, truth).fit()
    scaled = StandardScaler().fit_transform(rows)
    for penalty, column in zip(segmentation_probe.PENALTIES, weights.T, strict=True):
        expected = Ridge(alpha=penalty * len(rows)).fit(scaled, labels).predict(scaled)
        np.testing.assert_allclose(rows @ column[:-1] + column[-1], expected, atol=1e-6)


def test_squared_error_from_sums_is_that_of_the_patches():
    tokens, truth, _ = planted()
    sums = segmentation_probe._sums(tokens, truth)
    weights = sums.fit()
    direct = [((segmentation_probe._apply(tokens, column) - truth) ** 2).sum() for column in weights.T]
    np.testing.assert_allclose(sums.squared_error(weights), direct, rtol=1e-6)


def test_planted_outlines_are_found_and_noise_is_not():
    tokens, truth, patient_ids = planted()
    folds = patient_deal(patient_ids)
    found = score_patches(*predict_patches(tokens, truth, folds), truth)
    assert found.dice.mean() > 0.95 and found.auprc.mean() > 0.98
    noise = predict_patches(np.random.default_rng(1).normal(size=tokens.shape), truth, folds)
    assert score_patches(*noise, truth).auprc.mean() < 0.5
    record = score_record(found, patient_ids)
    assert record["dice_interval"][0] <= record["dice"] <= record["dice_interval"][1]


def test_scores_agree_with_scikit_learn():
    tokens, truth, patient_ids = planted(strength=1.0)
    scores, called = predict_patches(tokens, truth, patient_deal(patient_ids))
    found = score_patches(scores, called, truth)
    for index, (heat, mask, true) in enumerate(zip(scores, called, truth, strict=True)):
        assert found.auprc[index] == pytest.approx(average_precision_score(true.ravel(), heat.ravel()), abs=1e-6)
        assert found.dice[index] == pytest.approx(f1_score(true.ravel(), mask.ravel(), zero_division=0), abs=1e-6)
        assert found.iou[index] == pytest.approx(jaccard_score(true.ravel(), mask.ravel(), zero_division=0), abs=1e-6)


def test_outlines_of_held_out_patients_have_no_part_in_their_prediction():
    tokens, truth, patient_ids = planted(strength=1.0)
    folds = patient_deal(patient_ids)
    before = predict_patches(tokens, truth, folds)
    truth[folds == 0] = np.roll(truth[folds == 0], 1, axis=1)
    after = predict_patches(tokens, truth, folds)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(old[folds == 0], new[folds == 0], atol=1e-9)
    assert np.abs(before[0] - after[0])[folds != 0].max() > 1e-3


def test_the_threshold_has_the_greatest_dice():
    rng = np.random.default_rng(3)
    scores, truth = rng.normal(size=200), rng.random(200) < 0.3
    scores[truth] += 1
    best = f1_score(truth, scores >= best_threshold(scores, truth))
    assert best == max(f1_score(truth, scores >= score) for score in scores)


def test_patients_stay_together_and_too_few_are_refused():
    patient_ids = np.repeat([f"P{n}" for n in range(9)], 3)
    folds = patient_deal(patient_ids)
    assert all(len(set(folds[patient_ids == patient])) == 1 for patient in patient_ids)
    assert set(folds) == set(range(5))
    with pytest.raises(ValueError, match="at least 5 patients, one for each fold; found 4"):
        patient_deal(patient_ids[:12])


def test_raw_patches_hold_the_pixels_of_their_patch():
    field = np.arange(2 * 16).reshape(1, 2, 4, 4).astype(float)
    patches = raw_patches(field, 2)
    assert patches.shape == (1, 2, 2, 8)
    np.testing.assert_array_equal(patches[0, 1, 0], [8, 9, 12, 13, 24, 25, 28, 29])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t, m, f: (t, m[:, :-1], f), r"found \(30, 4, 4, 7\), \(30, 3, 4\)"),
        (lambda t, m, f: (np.where(t == t[3, 0, 0, 0], np.nan, t), m, f), "NaN or infinity in 1 of 30 fields"),
        (lambda t, m, f: (t, m, f % 2), "at least 3 folds; found 2"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(spoil, says):
    tokens, truth, patient_ids = planted()
    with pytest.raises(ValueError, match=says):
        predict_patches(*spoil(tokens, truth, patient_deal(patient_ids)))
