import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dinox_hf.metrics.auroc import auroc
from dinox_hf.metrics.stratified_auroc import pair_wins, resampled_area, stratified_auroc


def task(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 80)
    return labels, rng.normal(size=80).round(1) + labels, rng.integers(0, 4, 80)


def test_by_hand():
    labels = np.array([1, 0, 0, 1, 0])
    scores = np.array([2.0, 1.0, 3.0, 0.0, 0.0])
    # Fold a: 2 beats 1 and loses to 3. Fold b: a tie. One and a half of three pairs.
    assert stratified_auroc(labels, scores, np.array(["a", "a", "a", "b", "b"])) == pytest.approx(0.5)


def test_one_stratum_is_the_ordinary_area():
    labels, scores, _ = task()
    assert stratified_auroc(labels, scores, np.zeros(80)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_it_is_the_mean_area_of_the_strata_weighted_by_their_pairs():
    labels, scores, strata = task()
    areas, pairs = [], []
    for stratum in range(4):
        own = strata == stratum
        areas.append(roc_auc_score(labels[own], scores[own]))
        pairs.append(labels[own].sum() * (1 - labels[own]).sum())
    assert stratified_auroc(labels, scores, strata) == pytest.approx(np.average(areas, weights=pairs), abs=1e-12)


def test_a_shift_and_a_scale_of_one_stratum_change_nothing():
    labels, scores, strata = task()
    moved = np.where(strata == 2, 50 + 3 * scores, scores)
    assert stratified_auroc(labels, moved, strata) == stratified_auroc(labels, scores, strata)


def test_counts_are_copies_of_cases():
    labels, scores, strata = task()
    counts = np.random.default_rng(1).integers(0, 4, 80)
    copied = [np.repeat(values, counts) for values in (labels, scores, strata)]
    assert stratified_auroc(labels, scores, strata, counts) == pytest.approx(stratified_auroc(*copied), abs=1e-12)


def test_several_scores_are_averaged_and_resampled_together():
    labels, scores, strata = task()
    both = np.stack([scores, -scores], axis=1)
    assert stratified_auroc(labels, both, strata) == pytest.approx(0.5)
    counts = np.random.default_rng(1).integers(0, 3, (5, 80))
    expected = [stratified_auroc(labels, scores, strata, row) for row in counts]
    wins, pairs = pair_wins(labels, scores[:, None], strata)
    np.testing.assert_allclose(resampled_area(wins, pairs, labels, counts), expected, atol=1e-12)


def test_two_infinite_scores_tie():
    labels, scores = np.array([1, 0, 1, 0]), np.array([np.inf, np.inf, -np.inf, -np.inf])
    assert stratified_auroc(labels, scores, np.zeros(4)) == auroc(labels, scores) == 0.5


def test_strata_of_one_class_each_are_refused():
    with pytest.raises(ValueError, match="found none that holds both"):
        stratified_auroc(np.array([0, 0, 1]), np.arange(3.0), np.array([0, 0, 1]))


def test_nan_scores_and_other_labels_are_refused():
    with pytest.raises(ValueError, match="found 1 NaN"):
        stratified_auroc(np.array([0, 1]), np.array([np.nan, 1.0]), np.zeros(2))
    with pytest.raises(ValueError, match=r"labels of \[1 2\]"):
        stratified_auroc(np.array([1, 2]), np.arange(2.0), np.zeros(2))
