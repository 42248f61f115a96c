"""Gram loss: long training blurs patch tokens; an earlier teacher remembers which patches were alike."""

import torch.nn.functional as F
from torch import Tensor

from .precision import outside_autocast


@outside_autocast
def gram_loss(
    student_patches: Tensor,
    gram_patches: Tensor,
    *,
    image_level: bool = True,
    normalized: bool = True,
    remove_neg: bool = False,
    remove_only_teacher_neg: bool = False,
) -> Tensor:
    """Gram anchoring: keep the student's patch similarities close to the gram teacher's.

    DINOv3 (arXiv:2508.10104), section "Gram anchoring", on L2-normalised patch tokens:

        L = mean over images and patch pairs of (X_S X_S^T - X_G X_G^T)^2

    The paper writes the squared Frobenius norm; like the released code we take the mean over the N x N pairs,
    so the loss weight does not depend on crop size. The options are those of the released code, the defaults those
    of its shipped stages.

    Args:
        student_patches: (B, N, D) patch tokens of the global crops, without CLS and register tokens.
        gram_patches: (B, N, D) the same crops through the gram teacher, resampled to the same N patches.
        image_level: compare patches within an image; False compares all B x N patches of the batch.
        normalized: compare directions only; False compares plain dot products.
        remove_neg: set negative similarities of both to 0, so that unlike patches may drift apart.
        remove_only_teacher_neg: set those of the gram teacher alone to 0. The released code means to spare student
            entries too, but looks for negative teacher entries after it has removed them; we follow what it does.

    Returns:
        () float32, whatever the input dtype.

    Raises:
        ValueError: if the two patch grids differ.
    """
    if student_patches.shape != gram_patches.shape:
        raise ValueError(
            f"gram_loss expects student and gram teacher patches of one shape (B, N, D); "
            f"found {tuple(student_patches.shape)} and {tuple(gram_patches.shape)}. "
            f"With crops.gram_size > crops.global_size, bring the gram teacher's patch grid to the "
            f"student's with resize_patch_grid() first."
        )
    # bf16 keeps 8 significant bits: near-identical patches would all look equal. Compare in float32.
    student, gram = student_patches.float(), gram_patches.float()
    if normalized:
        student, gram = F.normalize(student, dim=-1), F.normalize(gram, dim=-1)
    if not image_level:
        student, gram = student.flatten(end_dim=1), gram.flatten(end_dim=1)
    student_similarity, gram_similarity = student @ student.mT, gram @ gram.mT
    if remove_neg:
        student_similarity = student_similarity.clamp_min(0)
    if remove_neg or remove_only_teacher_neg:
        gram_similarity = gram_similarity.clamp_min(0)
    return F.mse_loss(student_similarity, gram_similarity)


@outside_autocast
def resize_patch_grid(
    patches: Tensor,
    grid: tuple[int, int],
    new_grid: tuple[int, int],
    *,
    antialias: bool = False,
    mode: str = "bicubic",
) -> Tensor:
    """Resample patch tokens as if they were a small picture, to compare a larger crop with a smaller one.

    DINOv3 (arXiv:2508.10104), section "Leveraging higher-resolution features": bicubic without antialiasing, and
    before the tokens are normalised.

    Args:
        patches: (B, N, D) tokens in row-major order.
        grid: (rows, columns) of `patches`, N = rows x columns.
        new_grid: (rows, columns) of the result.
        antialias: average over the source patches when the grid shrinks.
        mode: "bicubic" or "bilinear".

    Returns:
        (B, new rows x new columns, D) float32.

    Raises:
        ValueError: if `grid` does not hold N patches.
    """
    if grid[0] * grid[1] != patches.shape[1]:
        raise ValueError(
            f"resize_patch_grid expects rows x columns patches; found grid {tuple(grid)} for "
            f"{patches.shape[1]} tokens of shape {tuple(patches.shape)}. "
            f"Pass patch tokens only, without CLS and register tokens."
        )
    if tuple(grid) == tuple(new_grid):
        return patches.float()
    picture = patches.float().mT.unflatten(-1, grid)  # (B, D, rows, columns)
    resized = F.interpolate(picture, size=tuple(new_grid), mode=mode, antialias=antialias, align_corners=False)
    return resized.flatten(start_dim=-2).mT
