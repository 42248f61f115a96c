"""Metric classes as a user of `evaluate` loads them: by path, without network, against scikit-learn."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score

FOLDER = Path(__file__).resolve().parents[2] / "dinox_hf" / "evaluation" / "hub_metrics"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    cache = tmp_path_factory.mktemp("evaluate")
    return lambda name: evaluate.load(str(FOLDER / f"{name}.py"), cache_dir=str(cache))


def masks(seed: int, shape: tuple[int, ...] = (5, 12, 9)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.3


def test_auroc_agrees_with_scikit_learn_over_several_batches(load):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    scores = (labels + rng.normal(0, 1, 200)).round(1)  # with ties
    metric = load("auroc")
    for batch in np.split(np.arange(200), 4):
        metric.add_batch(predictions=scores[batch], references=labels[batch])
    assert metric.compute()["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)


def test_dice_and_iou_agree_with_scikit_learn_case_by_case(load):
    predicted, truth = masks(1), masks(2)
    found = load("dice").compute(predictions=predicted, references=truth)
    pairs = [(t.ravel(), p.ravel()) for t, p in zip(truth, predicted, strict=True)]
    np.testing.assert_allclose(found["dice_by_case"], [f1_score(*pair) for pair in pairs], atol=1e-6)
    np.testing.assert_allclose(found["iou_by_case"], [jaccard_score(*pair) for pair in pairs], atol=1e-6)
    assert found["dice"] == pytest.approx(np.mean(found["dice_by_case"]))


def test_localisation_agrees_with_scikit_learn(load):
    truth = masks(3)
    heat = np.random.default_rng(4).random(truth.shape) + truth
    found = load("localisation").compute(predictions=heat, references=truth, mass=0.5)
    pairs = [(t.ravel(), h.ravel()) for t, h in zip(truth, heat, strict=True)]
    assert found["auprc"] == pytest.approx(np.mean([average_precision_score(*pair) for pair in pairs]), abs=1e-6)
    hits = np.mean([t[h.argmax()] for t, h in pairs])
    assert found["pointing"] == pytest.approx(hits)
    assert found["above_chance"] == pytest.approx((hits - truth.mean()) / (1 - truth.mean()))
    bright = []
    for _, values in pairs:
        order = np.argsort(-values)
        num_bright = np.searchsorted(np.cumsum(values[order]) / values.sum(), 0.5) + 1
        bright.append(np.isin(np.arange(values.size), order[:num_bright]))
    expected = [f1_score(t, b) for (t, _), b in zip(pairs, bright, strict=True)]
    assert found["dice"] == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "predictions", "references", "says"),
    [
        ("auroc", [0.1, 0.9], [1, 1], r"labels 0 and 1, both of them; found \[1\]"),
        ("auroc", [0.1, float("nan")], [0, 1], "found 1 NaN among 2"),
        ("dice", masks(0)[:2], masks(0)[:2, :-1], r"two masks of one shape; found \(12, 9\) and \(11, 9\)"),
        ("localisation", masks(0)[:2] + 0.1, masks(0)[:2, 1:], r"found \(2, 12, 9\) and \(2, 11, 9\)"),
        ("localisation", masks(0)[:2] + 0.1, np.zeros((2, 12, 9)), "2 empty masks"),
        ("localisation", [np.ones((2, 2)), np.ones((3, 2))], masks(0, (2, 2, 2)), r"size; found \(2, 2\), \(3, 2\)"),
    ],
)
def test_bad_input_is_refused_with_what_was_found(load, name, predictions, references, says):
    with pytest.raises(ValueError, match=says):
        load(name).compute(predictions=predictions, references=references)
