import math

import pytest
import torch

from dinox_hf.losses.ibot import ibot_loss, masked_patch_weights

MASKS = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])


def test_each_masked_image_weighs_the_same_and_unmasked_ones_dilute_by_hand():
    # Image 0 has two masked patches, predicted with 1/2 and 1/4; image 2 has one, predicted with 1/8.
    student = 0.1 * torch.tensor([[1.0, 1.0], [1.0, 3.0], [1.0, 7.0]]).log()
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    by_hand = ((math.log(2) + math.log(4)) / 2 + math.log(8)) / 3
    assert ibot_loss(student, teacher, MASKS).item() == pytest.approx(by_hand)


def test_weights_run_through_the_images_in_order_by_hand():
    torch.testing.assert_close(masked_patch_weights(MASKS, 3), torch.tensor([0.5, 0.5, 1.0]))


def test_nothing_masked_costs_nothing_and_still_reaches_the_student():
    student = torch.empty(0, 4, requires_grad=True)
    loss = ibot_loss(student, torch.empty(0, 4), torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and student.grad.shape == (0, 4)


def test_bf16_logits_give_a_float32_loss_near_that_of_float32():
    student, teacher = torch.randn(3, 50), torch.softmax(torch.randn(3, 50), dim=-1)
    loss = ibot_loss(student.bfloat16(), teacher, MASKS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ibot_loss(student.bfloat16().float(), teacher, MASKS), atol=0, rtol=0)


@pytest.mark.parametrize(("num_student", "num_teacher"), [(4, 4), (3, 4)])
def test_rows_that_do_not_fit_the_masks_are_counted_in_the_message(num_student, num_teacher):
    with pytest.raises(ValueError, match=rf"\({num_student}, 5\).*\({num_teacher}, 5\) for 3 masked.*\[masks\]"):
        ibot_loss(torch.randn(num_student, 5), torch.randn(num_teacher, 5), MASKS)
