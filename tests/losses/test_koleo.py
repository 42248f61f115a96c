import math

import pytest
import torch

from dinox_hf.losses.koleo import known_loss, koleo_loss


def test_images_at_right_angles_are_the_square_root_of_two_apart():
    loss = koleo_loss(torch.tensor([[2.0, 0.0], [0.0, 5.0]]))
    assert loss.item() == pytest.approx(-math.log(math.sqrt(2)))


def test_each_image_looks_for_its_own_nearest_neighbour_by_hand():
    # Unit vectors at 0, 60 and 180 degrees: chords are 2 sin(angle / 2), nearest angles 60, 60 and 120 degrees.
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 180.0]))
    tokens = torch.stack([angles.cos(), angles.sin()], dim=1)
    chords = [1.0, 1.0, math.sqrt(3)]
    assert koleo_loss(tokens).item() == pytest.approx(-sum(map(math.log, chords)) / 3, abs=1e-6)
    # With two neighbours each pair counts twice.
    chords = [1.0, math.sqrt(3), 2.0] * 2
    assert koleo_loss(tokens, topk=2).item() == pytest.approx(-sum(map(math.log, chords)) / 6, abs=1e-6)


def test_both_ends_of_a_distance_are_pushed_apart():
    # Image 0 is nearest to image 1, but nobody's nearest itself; image 1 gets gradient from both sides.
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 80.0]))
    tokens = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
    koleo_loss(tokens).backward()
    step = tokens - tokens.grad
    assert koleo_loss(step) < koleo_loss(tokens)
    # d(-log(2 sin(a / 2)) / 3) / da = cot(a / 2) / 6 per unit of arc; 10 degrees count twice, once from each end.
    along = (tokens.grad * torch.stack([-angles.sin(), angles.cos()], dim=1)).sum(dim=1)
    cot_30, cot_10 = 1 / math.tan(math.radians(30)), 1 / math.tan(math.radians(10))
    expected = torch.tensor([cot_30, -cot_30 + 2 * cot_10, -2 * cot_10]) / 6
    torch.testing.assert_close(along.detach(), expected, rtol=1e-4, atol=0)


def test_the_length_of_a_token_does_not_matter():
    tokens = torch.randn(5, 8)
    torch.testing.assert_close(koleo_loss(tokens * torch.rand(5, 1).add(0.5)), koleo_loss(tokens))


def test_equal_images_give_a_large_but_finite_loss():
    loss = koleo_loss(torch.ones(3, 4))
    assert loss.isfinite() and loss > 10


def test_bf16_autocast_does_not_change_the_loss():
    tokens = torch.randn(1, 16) + 1e-3 * torch.randn(32, 16)  # in bf16 all of them have the same neighbours
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = koleo_loss(tokens)
    torch.testing.assert_close(loss, koleo_loss(tokens), atol=0, rtol=0)


@pytest.mark.parametrize(("batch_size", "topk"), [(1, 1), (3, 3)])
def test_too_few_images_name_the_batch_size(batch_size, topk):
    with pytest.raises(ValueError, match=rf"batch size of at least {topk + 1}.*found {batch_size}.*KoLeo weight to 0"):
        koleo_loss(torch.randn(batch_size, 4), topk=topk)


def test_a_group_that_does_not_divide_the_ranks_is_refused():
    with pytest.raises(ValueError, match="ranks_per_group=2 with 1 ranks"):
        koleo_loss(torch.randn(4, 4), ranks_per_group=2)


def test_a_known_loss_pulls_at_its_tokens_as_the_loss_itself_would():
    tokens = torch.randn(6, 4, requires_grad=True)
    loss = koleo_loss(tokens)
    (gradient,) = torch.autograd.grad(loss, tokens)
    half = tokens.detach()[:3].clone().requires_grad_()
    known = known_loss(half, loss.detach(), gradient[:3])
    (2 * known).backward()
    assert torch.equal(known, loss) and torch.equal(half.grad, 2 * gradient[:3])
