import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dinox_hf.metrics.auroc import auroc


def test_one_pair_of_four_in_the_wrong_order_gives_three_quarters():
    assert auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])) == pytest.approx(0.75)


def test_equal_scores_give_one_half():
    assert auroc(np.array([0, 1, 1]), np.zeros(3)) == pytest.approx(0.5)


def test_ties_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.integers(0, 12, 200) / 3
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("labels", [[1, 5], [1, 1]])
def test_ratings_and_a_single_class_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels 0 and 1, both of them; found .*Binarise"):
        auroc(np.array(labels), np.array([0.0, 1.0]))


def test_a_nan_score_is_refused_with_its_count():
    with pytest.raises(ValueError, match="found 1 NaN among 2"):
        auroc(np.array([0, 1]), np.array([0.0, np.nan]))
