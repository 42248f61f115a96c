import numpy as np
import pytest
from scipy.stats import spearmanr

from dinox_hf.metrics.spearman import resampled_spearman, spearman


def test_it_is_that_of_scipy_with_ties():
    rng = np.random.default_rng(0)
    first = rng.integers(1, 6, 60)
    second = first + rng.normal(size=60).round(0)
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_any_rising_function_changes_nothing():
    values = np.random.default_rng(0).normal(size=20)
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -(values**3)) == pytest.approx(-1)


def test_counts_are_copies_of_cases():
    rng = np.random.default_rng(0)
    first, second = rng.integers(1, 6, 40), rng.normal(size=40).round(1)
    counts = rng.integers(0, 4, (6, 40))
    expected = [spearman(np.repeat(first, row), np.repeat(second, row)) for row in counts]
    np.testing.assert_allclose(resampled_spearman(first, second, counts), expected, atol=1e-12)


def test_a_constant_has_no_correlation():
    assert np.isnan(spearman(np.ones(4), np.arange(4)))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"found \(3,\) and \(2,\)"):
        spearman(np.arange(3), np.arange(2))
    with pytest.raises(ValueError, match="found 1 that are not among 6"):
        spearman(np.array([0, 1, np.nan]), np.arange(3))
