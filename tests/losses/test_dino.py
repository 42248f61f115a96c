import math

import pytest
import torch

from dinox_hf.losses.dino import dino_loss


def test_a_student_without_opinion_pays_log_k():
    teacher = torch.softmax(torch.randn(2, 3, 8), dim=-1)
    assert dino_loss(torch.zeros(5, 3, 8), teacher).item() == pytest.approx(math.log(8))


def test_all_pairs_and_other_crops_only_by_hand():
    # The student gives crop 0 probabilities (3/4, 1/4), crop 1 (1/2, 1/2); the teacher is sure: crop 0 is prototype 0,
    # crop 1 prototype 1. Pairs (s, t): (0,0) log 4/3, (0,1) log 4, (1,0) and (1,1) log 2.
    student = 0.1 * torch.tensor([[[3.0, 1.0]], [[1.0, 1.0]]]).log()
    teacher = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert dino_loss(student, teacher).item() == pytest.approx((math.log(4 / 3) + math.log(4) + 2 * math.log(2)) / 4)
    ignoring = dino_loss(student, teacher, ignore_diagonal=True)
    assert ignoring.item() == pytest.approx((math.log(4) + math.log(2)) / 2)


@pytest.mark.parametrize(("num_student", "num_teacher"), [(3, 2), (1, 2)])
def test_the_diagonal_is_as_long_as_the_shorter_side(num_student, num_teacher):
    teacher = torch.softmax(torch.randn(num_teacher, 3, 8), dim=-1)
    loss = dino_loss(torch.zeros(num_student, 3, 8), teacher, ignore_diagonal=True)
    assert loss.item() == pytest.approx(math.log(8))


def test_the_student_temperature_sharpens_its_prediction():
    student, teacher = torch.tensor([[[3.0, 1.0]]]).log(), torch.tensor([[[1.0, 0.0]]])
    assert dino_loss(student, teacher, student_temperature=0.5).item() == pytest.approx(math.log(10 / 9))


def test_no_gradient_flows_between_different_images():
    student = torch.randn(2, 3, 4, requires_grad=True)
    teacher = torch.softmax(torch.randn(2, 3, 4), dim=-1)
    teacher[:, 1] = 0  # image 1 has no target
    dino_loss(student, teacher).backward()
    assert (student.grad[:, 1] == 0).all() and (student.grad[:, [0, 2]] != 0).all()


def test_bf16_autocast_does_not_change_the_loss():
    student, teacher = torch.randn(4, 3, 50), torch.softmax(torch.randn(2, 3, 50), dim=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dino_loss(student, teacher)
    torch.testing.assert_close(loss, dino_loss(student, teacher), atol=0, rtol=0)


def test_rows_that_were_not_split_into_crops_are_named_with_the_fix():
    with pytest.raises(ValueError, match=r"\(1, 6, 4\).*\(2, 3, 4\).*unflatten"):
        dino_loss(torch.randn(1, 6, 4), torch.randn(2, 3, 4))


def test_a_single_crop_against_itself_leaves_no_pair():
    with pytest.raises(ValueError, match=r"found 1 student and 1 teacher crops.*ignore_diagonal=False"):
        dino_loss(torch.randn(1, 3, 4), torch.randn(1, 3, 4), ignore_diagonal=True)
