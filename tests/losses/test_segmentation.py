import math

import pytest
import torch

from dinox_hf.losses.segmentation import dice_loss, segmentation_loss


def certain(classes: torch.Tensor, num_classes: int = 2) -> torch.Tensor:
    """Logits that leave no doubt."""
    return 100.0 * torch.nn.functional.one_hot(classes, num_classes).movedim(-1, 1).float()


def test_the_right_shape_costs_nothing_and_no_overlap_nearly_everything():
    truth = torch.zeros(1, 8, 8, dtype=torch.long)
    truth[:, :4] = 1
    assert dice_loss(certain(truth), truth).item() == pytest.approx(0, abs=1e-6)
    # No common pixel, 32 in each: 1 - 1 / 65.
    assert dice_loss(certain(1 - truth), truth).item() == pytest.approx(1 - 1 / 65)


def test_half_of_the_shape_by_hand():
    truth, half = torch.zeros(1, 4, 4, dtype=torch.long), torch.zeros(1, 4, 4, dtype=torch.long)
    truth[:, :2], half[:, :1] = 1, 1
    # 2 * 4 + 1 over 4 + 8 + 1.
    assert dice_loss(certain(half), truth).item() == pytest.approx(1 - 9 / 13)


def test_an_image_without_the_class_is_right_when_nothing_is_found():
    empty = torch.zeros(2, 4, 4, dtype=torch.long)
    assert dice_loss(certain(empty), empty).item() == pytest.approx(0, abs=1e-6)


def test_the_sum_is_four_tenths_cross_entropy_and_six_tenths_dice():
    torch.manual_seed(0)
    logits, truth = torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
    # A guess: log 2 for every pixel; Dice 1 - (16 + 1) / (4 + 16 + 1).
    assert segmentation_loss(logits, truth).item() == pytest.approx(0.4 * math.log(2) + 0.6 * (1 - 17 / 21))


def test_several_classes_are_averaged_without_the_background():
    truth = torch.tensor([[[0, 1], [2, 2]]])
    only_two = torch.tensor([[[0, 0], [2, 2]]])
    # Class 1 is missed, 1 - 1 / 2; class 2 is right.
    assert dice_loss(certain(only_two, 3), truth).item() == pytest.approx(0.25)


def test_it_is_float32_under_bfloat16_autocast():
    logits, truth = torch.randn(1, 2, 4, 4), torch.ones(1, 4, 4, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        assert segmentation_loss(logits.bfloat16(), truth).dtype == torch.float32


def test_a_mask_of_another_size_or_type_is_refused():
    logits = torch.zeros(1, 2, 4, 4)
    for truth in (torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, 4, 4)):
        with pytest.raises(ValueError, match="int64 targets"):
            segmentation_loss(logits, truth)
