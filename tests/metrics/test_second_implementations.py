"""Every metric against another implementation, to 1e-6: ties, ragged sizes and empty classes included."""

import numpy as np
import pytest
import torch
from scipy.linalg import svdvals
from scipy.stats import entropy as scipy_entropy
from scipy.stats import mannwhitneyu
from sklearn.metrics import auc, average_precision_score, f1_score, jaccard_score, roc_auc_score, roc_curve

from dinox_hf.metrics.auroc import auroc
from dinox_hf.metrics.effective_rank import effective_rank
from dinox_hf.metrics.entropy import entropy
from dinox_hf.metrics.localisation import above_chance, score_maps
from dinox_hf.metrics.overlap import dice, iou

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_auroc(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation([0, 1, *rng.integers(0, 2, rng.integers(1, 300))])
    scores = rng.normal(size=len(labels)) if seed % 2 else rng.integers(0, 6, len(labels)) / 7
    found = auroc(labels, scores)
    assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    pairs = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert found == pytest.approx(pairs / ((labels == 1).sum() * (labels == 0).sum()), abs=1e-6)
    assert found == pytest.approx(auc(*roc_curve(labels, scores)[:2]), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_overlap(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.random((2, 9, 13)) < rng.uniform(0.02, 0.9)
    assert dice(predicted, truth) == pytest.approx(f1_score(truth.ravel(), predicted.ravel()), abs=1e-6)
    assert iou(predicted, truth) == pytest.approx(jaccard_score(truth.ravel(), predicted.ravel()), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_localisation(seed):
    """Precision-recall by scikit-learn; the brightest 60 % and the pointing game threshold by threshold."""
    rng = np.random.default_rng(seed)
    heat = rng.random((7, 9)) ** 4 if seed % 2 else rng.integers(0, 5, (7, 9)).astype(float)
    mask = rng.random((7, 9)) < 0.25
    mask[rng.integers(7), rng.integers(9)] = True
    found = score_maps(heat[None], mask[None])
    assert found.auprc[0] == pytest.approx(average_precision_score(mask.ravel(), heat.ravel()), abs=1e-6)
    held = {level: heat[heat >= level].sum() / heat.sum() for level in np.unique(heat)}
    bright = heat >= max(level for level, share in held.items() if share >= 0.6 - 1e-12)
    assert found.iou[0] == pytest.approx(jaccard_score(mask.ravel(), bright.ravel()), abs=1e-6)
    assert found.dice[0] == pytest.approx(f1_score(mask.ravel(), bright.ravel()), abs=1e-6)
    assert found.hit[0] == pytest.approx(mask[heat == heat.max()].mean(), abs=1e-6)
    hit, chance = rng.random((2, 8))
    expected = 1 - (1 - hit).sum() / (1 - chance).sum()
    assert above_chance(hit, chance) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_effective_rank_and_entropy(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rng.integers(2, 40), rng.integers(2, 20))) * rng.uniform(0.01, 100)
    for centre in (False, True):
        values = svdvals(features - features.mean(axis=0) * centre)
        assert effective_rank(features, centre) == pytest.approx(np.exp(scipy_entropy(values)), abs=1e-6)
    shares = rng.dirichlet(np.full(11, 0.2), size=3)
    shares[0] = np.eye(11)[0]
    np.testing.assert_allclose(entropy(torch.from_numpy(shares)), scipy_entropy(shares, axis=-1), atol=1e-6)
