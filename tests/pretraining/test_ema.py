import pytest
import torch

from dinox_hf.pretraining.ema import ema_update_


def test_ema_moves_every_parameter_by_one_minus_momentum_by_hand():
    teacher, student = [torch.tensor([1.0]), torch.zeros(2, 2)], [torch.tensor([2.0]), torch.ones(2, 2)]
    ema_update_(teacher, student, 0.75)
    assert teacher[0].item() == 1.25
    assert (teacher[1] == 0.25).all()
    assert student[0].item() == 2.0


def test_a_skipped_step_leaves_the_teacher_bit_for_bit():
    teacher, student = [torch.randn(50)], [torch.randn(50)]
    before = teacher[0].clone()
    ema_update_(teacher, student, 0.9, torch.tensor(False))
    assert torch.equal(teacher[0], before)


def test_the_flag_of_a_good_step_changes_nothing():
    student, plain = [torch.randn(50), torch.randn(3, 4)], [torch.zeros(50), torch.ones(3, 4)]
    flagged = [tensor.clone() for tensor in plain]
    ema_update_(plain, student, 0.994)
    ema_update_(flagged, student, 0.994, torch.tensor(True))
    for one, other in zip(plain, flagged, strict=True):
        assert torch.equal(one, other)


def test_parameters_that_need_gradients_are_updated_without_recording_it():
    teacher, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    ema_update_(teacher.parameters(), student.parameters(), 0.0)
    assert torch.equal(teacher.weight, student.weight)
    assert teacher.weight.is_leaf and teacher.weight.grad_fn is None


def test_a_student_with_more_parameters_is_refused():
    with pytest.raises(ValueError, match=r"found 1 and 2.*training-only modules"):
        ema_update_([torch.ones(1)], [torch.ones(1), torch.ones(1)], 0.9)
