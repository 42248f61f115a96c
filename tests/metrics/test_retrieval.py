import itertools

import numpy as np
import pytest

from dinox_hf.metrics.retrieval import precision_at_k


def test_by_hand():
    similarity = np.array([[1.0, 0.9, 0.8, 0.7]])
    relevant = np.array([[True, False, True, True]])
    may_answer = np.array([[False, True, True, True]])
    np.testing.assert_allclose(precision_at_k(similarity, relevant, may_answer, (1, 2, 3)), [[0, 1 / 2, 2 / 3]])


def test_ties_are_the_mean_over_all_orders():
    rng = np.random.default_rng(0)
    similarity, relevant = rng.integers(0, 3, (4, 6)).astype(float), rng.integers(0, 2, (4, 6)).astype(bool)
    found = precision_at_k(similarity, relevant, np.ones((4, 6), dtype=bool), (3,))[:, 0]
    orders = list(itertools.permutations(range(6)))
    for query in range(4):
        firsts = [sorted(order, key=lambda item: -similarity[query, item])[:3] for order in orders]
        assert found[query] == pytest.approx(np.mean([relevant[query, first].mean() for first in firsts]))


def test_too_small_a_gallery_and_nan_are_refused():
    ones = np.ones((2, 4), dtype=bool)
    with pytest.raises(ValueError, match="at least 5 cases that may answer each query; found 4"):
        precision_at_k(np.zeros((2, 4)), ones, ones, (1, 5))
    with pytest.raises(ValueError, match="found 8 NaN"):
        precision_at_k(np.full((2, 4), np.nan), ones, ones, (1,))
