from itertools import pairwise

import numpy as np
import pytest

from dinox_hf.metrics.calibration_error import expected_calibration_error


def test_by_hand():
    # Bin (0, 0.1]: says 0.1, happens never. Bin (0.7, 0.8]: says 0.8, happens in one of two. (2 * 0.1 + 2 * 0.3) / 4
    error = expected_calibration_error(np.array([0, 0, 1, 0]), np.array([0.1, 0.1, 0.8, 0.8]))
    assert error == pytest.approx(0.2)


def test_it_is_the_plain_sum_over_bins():
    rng = np.random.default_rng(0)
    probabilities, outcomes = rng.uniform(size=300), rng.integers(0, 5, 300) / 4
    edges, expected = np.linspace(0, 1, 11), 0.0
    for low, high in pairwise(edges):
        inside = (probabilities > low) & (probabilities <= high)
        if inside.any():
            expected += inside.mean() * abs(outcomes[inside].mean() - probabilities[inside].mean())
    assert expected_calibration_error(outcomes, probabilities) == pytest.approx(expected, abs=1e-12)


def test_probabilities_of_0_and_1_fall_into_the_outer_bins():
    assert expected_calibration_error(np.array([0, 1]), np.array([0.0, 1.0])) == 0
    assert expected_calibration_error(np.array([1, 0]), np.array([0.0, 1.0])) == 1


def test_decision_values_are_refused():
    with pytest.raises(ValueError, match=r"probabilities from 0 to 1; found -1.0 to 2.0"):
        expected_calibration_error(np.array([0, 1]), np.array([-1.0, 2.0]))
    with pytest.raises(ValueError, match="found nan"):
        expected_calibration_error(np.array([0, 1]), np.array([np.nan, 0.5]))
    with pytest.raises(ValueError, match=r"found \(0,\)"):
        expected_calibration_error(np.empty(0), np.empty(0))
