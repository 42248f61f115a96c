import pytest
import torch

from benchmarks.allocations import AllocationMeter
from dinox_hf.losses import sinkhorn as module
from dinox_hf.losses.sinkhorn import centered_softmax, sinkhorn_knopp, update_center


def test_two_samples_that_prefer_one_prototype_share_both_by_hand():
    # exp(logits) = [[1, 3], [1, 1]]; columns by their sums 2 and 4: [[1/2, 3/4], [1/2, 1/4]]; rows by 5/4 and 3/4.
    logits = torch.tensor([[1.0, 3.0], [1.0, 1.0]]).log()
    expected = torch.tensor([[2 / 5, 3 / 5], [2 / 3, 1 / 3]])
    torch.testing.assert_close(sinkhorn_knopp(logits, 1.0, num_iterations=1), expected)


def test_second_iteration_continues_from_the_first_by_hand():
    # Columns of the matrix above by their sums 16/15 and 14/15: [[3/8, 9/14], [5/8, 5/14]]; rows by 57/56 and 55/56.
    logits = torch.tensor([[1.0, 3.0], [1.0, 1.0]]).log()
    expected = torch.tensor([[21 / 57, 36 / 57], [35 / 55, 20 / 55]])
    torch.testing.assert_close(sinkhorn_knopp(logits, 1.0, num_iterations=2), expected)


def test_temperature_divides_the_logits():
    logits = torch.randn(5, 7)
    torch.testing.assert_close(sinkhorn_knopp(logits, 0.5), sinkhorn_knopp(logits * 2, 1.0))


def test_rows_sum_to_one_and_prototypes_are_used_evenly_after_many_iterations():
    probs = sinkhorn_knopp(torch.randn(12, 4), 1.0, num_iterations=50)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(12))
    torch.testing.assert_close(probs.sum(dim=0), torch.full((4,), 3.0), rtol=1e-4, atol=0)


def test_one_row_gives_the_uniform_target():
    torch.testing.assert_close(sinkhorn_knopp(torch.randn(1, 5) * 10, 0.04), torch.full((1, 5), 0.2))


def test_no_rows_give_no_targets():
    assert sinkhorn_knopp(torch.empty(0, 5), 0.07).shape == (0, 5)


@pytest.mark.parametrize(("size", "tolerance"), [(30.0, 1e-3), (1e3, 2e-2)])
def test_logits_whose_exponential_overflows_or_vanishes_give_the_targets_of_float64(size, tolerance):
    logits = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)) * size
    probs = sinkhorn_knopp(logits, 0.04)
    # The definition, step by step on logarithms in float64; `tolerance` is what float32 leaves of logits / 0.04.
    log_matrix = logits.double() / 0.04
    for _ in range(3):
        log_matrix = log_matrix - log_matrix.logsumexp(dim=0)
        log_matrix = log_matrix - log_matrix.logsumexp(dim=1, keepdim=True)
    torch.testing.assert_close(probs.double(), log_matrix.exp(), atol=tolerance, rtol=0)


def test_micro_batches_joined_differ_from_micro_batches_apart():
    logits = torch.randn(8, 4)
    apart = torch.cat([sinkhorn_knopp(half, 0.1) for half in logits.split(4)])
    assert (sinkhorn_knopp(logits, 0.1) - apart).abs().max() > 0.01


def test_targets_are_float32_without_gradient_also_inside_bf16_autocast():
    logits = torch.randn(6, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probs = sinkhorn_knopp(logits, 0.1)
    assert probs.dtype == torch.float32 and not probs.requires_grad
    torch.testing.assert_close(probs, sinkhorn_knopp(logits, 0.1), atol=0, rtol=0)


def test_no_iteration_at_all_is_refused_with_the_number_and_the_fix():
    with pytest.raises(ValueError, match=r"num_iterations >= 1; found 0.*centered_softmax"):
        sinkhorn_knopp(torch.randn(2, 2), 0.1, num_iterations=0)


def test_centred_softmax_by_hand():
    # (logits - centre) / 2 = [log 4, log 1]
    logits = torch.tensor([[4.0, 1.0]]).log() * 2 + 5
    torch.testing.assert_close(centered_softmax(logits, torch.full((1, 2), 5.0), 2.0), torch.tensor([[0.8, 0.2]]))


def test_centre_moves_a_tenth_of_the_way_to_the_mean_by_hand():
    center = update_center(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 4.0], [4.0, 8.0]]))
    torch.testing.assert_close(center, torch.tensor([[1.2, 0.6]]))


def test_in_place_it_gives_the_same_and_makes_no_second_matrix(monkeypatch):
    logits = torch.randn(60, 1000, generator=torch.Generator().manual_seed(0))
    expected = sinkhorn_knopp(logits, 0.07)
    monkeypatch.setattr(module, "_rows_at_once", lambda _: 7)
    with AllocationMeter() as meter:
        targets = sinkhorn_knopp(logits, 0.07, out=logits)
    assert targets is logits and meter.peak < 0.4 * logits.nbytes
    torch.testing.assert_close(targets, expected, rtol=1e-5, atol=1e-8)


def test_logits_stay_as_they_are_unless_they_are_to_become_the_result():
    logits = torch.randn(4, 6)
    before = logits.clone()
    assert torch.equal(sinkhorn_knopp(logits, 0.07, out=torch.empty(4, 6)), sinkhorn_knopp(logits, 0.07))
    assert torch.equal(logits, before)
