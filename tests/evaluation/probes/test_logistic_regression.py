import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dinox_hf.evaluation.probes.logistic_regression import fit_many


@pytest.mark.parametrize("num_features", [1, 20, 150])
def test_every_problem_has_the_answer_of_scikit_learn(num_features):
    rng = np.random.default_rng(0)
    features = 5 + rng.normal(size=(80, num_features)) * rng.uniform(0.01, 100, num_features)
    labels = (features[:, 0] + rng.normal(size=80) * features[:, 0].std() > features[:, 0].mean()).astype(int)
    use_row = rng.random((80, 4)) < 0.7
    strength = np.array([1e-3, 1e-2, 1e-1, 1.0])
    scores = fit_many(features, labels[:, None], use_row, strength, tolerance=1e-7)
    for problem, c in enumerate(strength):
        rows = use_row[:, problem]
        scaler = StandardScaler().fit(features[rows])
        expected = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(
            scaler.transform(features[rows]), labels[rows]
        )
        expected = expected.decision_function(scaler.transform(features))
        np.testing.assert_allclose(scores[:, problem], expected, atol=1e-3)


def test_a_constant_feature_changes_nothing():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(50, 3)), rng.integers(0, 2, 50)[:, None]
    use_row, strength = np.ones((50, 1), dtype=bool), np.array([0.1])
    with_constant = np.concatenate([features, np.full((50, 1), 7.0)], axis=1)
    expected = fit_many(features, labels, use_row, strength)
    np.testing.assert_allclose(fit_many(with_constant, labels, use_row, strength), expected, atol=1e-4)
