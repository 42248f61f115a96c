import numpy as np
import pytest

from dinox_hf.metrics.effective_rank import effective_rank


def test_orthogonal_features_of_equal_length_have_full_rank():
    assert effective_rank(np.eye(6)) == pytest.approx(6)


def test_identical_features_have_rank_one():
    assert effective_rank(np.ones((8, 4))) == pytest.approx(1, abs=1e-6)


def test_singular_values_three_and_one_give_the_entropy_worked_by_hand():
    # shares 3/4 and 1/4: exp(0.75 ln(4/3) + 0.25 ln 4) = 4 / 3^0.75
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75)


def test_a_common_offset_counts_only_when_the_mean_is_kept():
    spread = np.random.default_rng(0).normal(size=(200, 8))
    assert effective_rank(spread + 1000) < 1.5
    assert effective_rank(spread + 1000, centre=True) == pytest.approx(effective_rank(spread, centre=True))


def test_all_zero_features_have_rank_zero():
    assert effective_rank(np.zeros((3, 2))) == 0


def test_non_finite_features_are_refused_with_their_count():
    with pytest.raises(ValueError, match="1 non-finite"):
        effective_rank(np.array([[1.0, float("nan")]]))
