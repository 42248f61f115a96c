import pytest
import torch

from dinox_hf.losses.gram import gram_loss, resize_patch_grid


def test_gram_loss_ignores_a_rotation_of_feature_space():
    patches = torch.randn(2, 9, 16)
    rotation, _ = torch.linalg.qr(torch.randn(16, 16))
    loss = gram_loss(patches @ rotation, patches)
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)


def test_gram_loss_of_orthogonal_against_identical_patches_is_one_half():
    student = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # similarities: the identity
    gram = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])  # similarities: all ones
    assert gram_loss(student, gram).item() == pytest.approx(0.5)


def test_lengths_count_only_without_normalisation():
    student = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])  # dot products [[4, 0], [0, 1]]
    gram = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert gram_loss(student, gram).item() == 0
    assert gram_loss(student, gram, normalized=False).item() == pytest.approx(9 / 4)


def test_patches_of_different_images_meet_only_at_batch_level():
    student = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    gram = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert gram_loss(student, gram).item() == 0
    assert gram_loss(student, gram, image_level=False).item() == pytest.approx(0.5)


def test_negative_similarities_are_removed_from_both_or_from_the_teacher_by_hand():
    # Off-diagonal similarities: student -1, gram teacher -0.6; the diagonal agrees.
    student = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    gram = torch.tensor([[[1.0, 0.0], [-0.6, 0.8]]])
    assert gram_loss(student, gram).item() == pytest.approx(0.4**2 / 2)
    assert gram_loss(student, gram, remove_neg=True).item() == 0
    assert gram_loss(student, gram, remove_only_teacher_neg=True).item() == pytest.approx(1 / 2)


def test_bf16_autocast_does_not_change_the_loss():
    student, gram = torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = gram_loss(student, gram)
    torch.testing.assert_close(loss, gram_loss(student, gram), atol=0, rtol=0)


def test_mismatched_patch_grids_name_both_shapes_and_the_fix():
    with pytest.raises(ValueError, match=r"\(1, 4, 8\).*\(1, 16, 8\).*resize_patch_grid"):
        gram_loss(torch.randn(1, 4, 8), torch.randn(1, 16, 8))


def test_resizing_keeps_rows_rows_and_columns_columns():
    # A ramp along the columns of a 4 x 8 grid becomes a ramp along the columns of a 2 x 4 grid.
    ramp = torch.arange(8.0).repeat(4).reshape(1, 32, 1)
    resized = resize_patch_grid(ramp, (4, 8), (2, 4), mode="bilinear").reshape(2, 4)
    torch.testing.assert_close(resized, torch.tensor([[0.5, 2.5, 4.5, 6.5]] * 2))


def test_antialiasing_averages_over_more_patches():
    spike = torch.zeros(1, 64, 1)
    spike[0, 27] = 1.0
    plain, averaged = (resize_patch_grid(spike, (8, 8), (2, 2), antialias=choice) for choice in (False, True))
    # Sampled between patches 1, 2 and 5, 6 of a row, plain bicubic hardly notices patch 3 of row 3.
    assert averaged.abs().max() > 2 * plain.abs().max()


def test_resizing_to_the_same_grid_changes_nothing():
    patches = torch.randn(2, 6, 3)
    torch.testing.assert_close(resize_patch_grid(patches, (2, 3), (2, 3)), patches, atol=0, rtol=0)


def test_a_grid_that_does_not_hold_the_tokens_suspects_cls_and_registers():
    with pytest.raises(ValueError, match=r"grid \(4, 4\) for 21 tokens.*without CLS and register tokens"):
        resize_patch_grid(torch.randn(1, 21, 8), (4, 4), (2, 2))
