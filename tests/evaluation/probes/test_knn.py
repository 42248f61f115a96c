import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dinox_hf.evaluation.probes.knn import cosine_similarity, knn_scores, size_similarity, smallest_gallery


def task() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    return rng.normal(size=(60, 5)) + labels[:, None], labels, np.arange(60)[:, None] % 3


def test_the_vote_is_that_of_scikit_learn_with_the_same_weights():
    features, labels, folds = task()
    scores = knn_scores(cosine_similarity(features), labels, folds, num_neighbours=7, temperature=0.1)[:, 0]
    centred = features - features.mean(axis=0)
    for fold in range(3):
        held_out = folds[:, 0] == fold
        model = KNeighborsClassifier(7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
        model.fit(centred[~held_out], labels[~held_out])
        np.testing.assert_allclose(scores[held_out], model.predict_proba(centred[held_out])[:, 1], atol=1e-9)


def test_the_own_fold_never_votes():
    features, labels, folds = task()
    similarity = cosine_similarity(features)
    flipped = np.where(folds[:, 0] == 1, 1 - labels, labels)
    own = folds[:, 0] == 1
    np.testing.assert_array_equal(
        knn_scores(similarity, labels, folds)[own], knn_scores(similarity, flipped, folds)[own]
    )


def test_a_common_offset_of_all_features_changes_nothing():
    features, _, _ = task()
    np.testing.assert_allclose(cosine_similarity(features + 1e3), cosine_similarity(features), atol=1e-9)


def test_equal_ratios_of_diameters_are_equally_alike():
    similarity = size_similarity(np.array([5.0, 10.0, 20.0]))
    assert similarity[0, 1] == pytest.approx(similarity[1, 2]) == pytest.approx(-np.log(2))


def test_too_few_neighbours_and_nan_features_are_refused():
    features, labels, folds = task()
    assert smallest_gallery(folds) == 40
    with pytest.raises(ValueError, match="41 neighbours are asked for; found 40"):
        knn_scores(cosine_similarity(features), labels, folds, num_neighbours=41)
    with pytest.raises(ValueError, match="found 5 values that are NaN"):
        cosine_similarity(np.where(np.arange(60)[:, None] == 3, np.nan, features))
