import dataclasses
import math

import numpy as np
import pytest
import torch

from dinox_hf.evaluation.cohorts.labelled_nodules import CohortConfig, deal_cohort
from dinox_hf.evaluation.cohorts.nodules import read_nodules
from dinox_hf.evaluation.heads.head_config import HeadTrainingConfig, class_weights, lr_share
from dinox_hf.evaluation.heads.head_scores import HEAD, SIZE, log_loss, refuse_not_finite, score_test


@pytest.fixture(scope="module")
def cohort(tiny_set):
    return deal_cohort(read_nodules(tiny_set), CohortConfig(test="fold", num_folds=3))


def test_only_the_test_part_is_scored(cohort):
    perfect = cohort.labels.astype(float)
    # Wrong everywhere but in the test part: a score that looked elsewhere would not be 1.
    perfect[cohort.parts != "test"] *= -1
    everything, _ = score_test(cohort, {HEAD: perfect, "size only": -perfect})
    assert everything["num_nodules"] == (cohort.parts == "test").sum() == 8
    assert [score["auc"] for score in everything["scores"]] == [1.0, 0.0]
    assert everything["scores"][1]["head_gain"] == 1.0


def test_a_range_of_sizes_with_too_few_nodules_says_so(cohort):
    _, matched = score_test(cohort, {HEAD: cohort.labels.astype(float)})
    assert matched["name"] == "6–14 mm"
    assert "nodules of one class" in matched["not_measured"] and matched["scores"] == []


def test_intervals_need_ten_nodules_of_five_patients_of_each_class(cohort):
    few, _ = score_test(cohort, {HEAD: cohort.labels.astype(float), SIZE: np.arange(24.0)})
    assert few["no_interval"].startswith("label 1 has 4 nodules of 4 patients")
    assert few["scores"][0]["interval"] is None and few["scores"][1]["head_gain_interval"] is None
    all_tested = dataclasses.replace(cohort, parts=np.full(24, "test"))
    enough, _ = score_test(all_tested, {HEAD: cohort.labels.astype(float), SIZE: np.arange(24.0)})
    assert enough["no_interval"] is None and enough["scores"][0]["interval"] == [1.0, 1.0]
    low, high = enough["scores"][1]["head_gain_interval"]
    assert low < enough["scores"][1]["head_gain"] < high


def test_features_that_are_no_numbers_are_refused_with_their_count():
    features = np.ones((5, 3))
    features[1, 2], features[4] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"for 2 of 5 nodules.*Take an earlier"):
        refuse_not_finite(features)


def test_a_guess_costs_log_two():
    assert log_loss(np.array([0, 1]), np.zeros(2)) == pytest.approx(math.log(2))
    assert log_loss(np.array([0, 1]), np.array([-50.0, 50.0])) == pytest.approx(0, abs=1e-9)


def test_balanced_weights_let_both_classes_count_the_same():
    labels = np.array([0, 0, 0, 1])
    torch.testing.assert_close(class_weights(labels, "balanced"), torch.tensor([4 / 6, 2.0]))
    torch.testing.assert_close(class_weights(labels, "none"), torch.ones(2))


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    training = HeadTrainingConfig(epochs=11, warmup_epochs=1.0)
    shares = [lr_share(epochs, training) for epochs in (0.5, 1.0, 6.0, 11.0)]
    assert shares == pytest.approx([0.5, 1.0, 0.5, 0.0])
