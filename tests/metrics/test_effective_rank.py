import pytest
import torch

from dinox_hf.metrics.effective_rank import effective_rank


def test_orthogonal_features_of_equal_length_have_full_rank():
    assert effective_rank(torch.eye(6)).item() == pytest.approx(6)


def test_identical_features_have_rank_one():
    assert effective_rank(torch.ones(8, 4)).item() == pytest.approx(1, abs=1e-6)


def test_singular_values_three_and_one_give_the_entropy_worked_by_hand():
    # shares 3/4 and 1/4: exp(0.75 ln(4/3) + 0.25 ln 4) = 4 / 3^0.75
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))).item() == pytest.approx(4 / 3**0.75)


def test_a_common_offset_counts_only_when_the_mean_is_kept():
    torch.manual_seed(0)
    spread = torch.randn(200, 8)
    offset = spread + 1000 * torch.ones(8)
    assert effective_rank(offset).item() < 1.5
    torch.testing.assert_close(
        effective_rank(offset, centre=True), effective_rank(spread, centre=True), rtol=1e-4, atol=0
    )


def test_all_zero_features_have_rank_zero():
    assert effective_rank(torch.zeros(3, 2)).item() == 0


def test_non_finite_features_are_refused_with_their_count():
    with pytest.raises(ValueError, match="1 non-finite"):
        effective_rank(torch.tensor([[1.0, float("nan")]]))
