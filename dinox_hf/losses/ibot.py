"""iBOT loss: from what surrounds a hidden patch, the student says what the teacher sees in it."""

from torch import Tensor

from .cross_entropy import cross_entropy
from .precision import outside_autocast


@outside_autocast
def ibot_loss(
    student_logits: Tensor, teacher_probs: Tensor, masks: Tensor, student_temperature: float = 0.1
) -> Tensor:
    """Cross-entropy on masked patches, each image counting the same however many of its patches are masked.

    iBOT (arXiv:2111.07832), equation 2, with the weights of the released DINOv3 code:

        L = 1 / num_images * sum over masked patches of  cross_entropy(patch) / num_masked(image of the patch)

    Images without any mask count in `num_images`: masking half of the crops halves the loss.

    Args:
        student_logits: (M, K) logits of the masked patches only, row-major: all of image 0, then image 1, ...
        teacher_probs: (M, K) targets of the same patches, seen unmasked, from `sinkhorn_knopp`.
        masks: (num_images, N) bool, True where a patch was masked; M of them.
        student_temperature: softmax temperature of the student.

    Returns:
        () float32, whatever the input dtype; 0 if nothing is masked.

    Raises:
        ValueError: if the rows of student, teacher and masks differ in number (masks: checked on the CPU only, where
            counting does not make a device wait).
    """
    num_masked = int(masks.sum()) if masks.device.type == "cpu" else len(student_logits)
    if student_logits.shape != teacher_probs.shape or num_masked != len(student_logits):
        raise ValueError(
            f"ibot_loss expects one row (K,) per masked patch from student and teacher; found "
            f"{tuple(student_logits.shape)} and {tuple(teacher_probs.shape)} for {num_masked} masked patches. "
            f"Select the rows of both with the same masks: patch_logits[masks]."
        )
    losses = cross_entropy(student_logits[None], teacher_probs[None], student_temperature)[0]
    return (losses * masked_patch_weights(masks, len(losses))).sum() / len(masks)


def masked_patch_weights(masks: Tensor, num_masked: int) -> Tensor:
    """Return for each masked patch one over the number of masked patches of its image.

    Args:
        masks: (num_images, N) bool.
        num_masked: masked patches altogether; given, because counting them would make the device wait.

    Returns:
        (num_masked,) float32, row-major; the weights of an image sum to one.
    """
    counts = masks.sum(dim=1)
    return (1 / counts.clamp_min(1)).repeat_interleave(counts, output_size=num_masked)
