import numpy as np
import pytest

from dinox_hf.evaluation.cohorts.nodules import ScanSet
from dinox_hf.evaluation.probes.collapse import collapse_scores, sample_fields


def test_patients_apart_and_images_together_give_the_ratio_worked_by_hand():
    features = np.array([[0.0, 0], [1, 0], [0, 10], [1, 10]])
    scores = collapse_scores(features, np.array(["a", "a", "b", "b"]))
    assert scores["between_within"] == pytest.approx((10 + np.sqrt(101)) / 2)
    assert scores["std_min"] == pytest.approx(0.5)


def test_a_collapsed_network_has_dead_dimensions_and_rank_one():
    features = np.ones((10, 4))
    features[:, 0] += np.linspace(0, 1e-3, 10)
    scores = collapse_scores(features, np.arange(10) // 2)
    assert scores["num_dead"] == 3
    assert scores["effective_rank"] == pytest.approx(1, abs=0.01)


def test_one_patient_has_no_ratio():
    assert collapse_scores(np.eye(3), np.array(["a"] * 3))["between_within"] is None


def test_slices_are_sampled_evenly_and_the_same_again(tiny_set):
    scans = ScanSet(tiny_set)
    fields_hu, patients, spacing_mm = sample_fields(scans, max_slices=12, field_mm=24, size_px=16, channels="windows")
    again, _, _ = sample_fields(scans, max_slices=12, field_mm=24, size_px=16, channels="windows")
    np.testing.assert_array_equal(fields_hu, again)
    assert fields_hu.shape == (12, 1, 16, 16)
    assert len(set(patients)) == 12
    np.testing.assert_allclose(spacing_mm, np.full((12, 2), 24 / 16))
    # The slices measure 48 x 64 mm: a field of 60 mm is cut short to 48 x 60 and stretched to 16 x 16 pixels.
    _, _, spacing_mm = sample_fields(scans, max_slices=2, field_mm=60, size_px=16, channels="windows")
    np.testing.assert_allclose(spacing_mm, [[3.0, 3.75]] * 2)
