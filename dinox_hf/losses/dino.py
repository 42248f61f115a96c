"""DINO loss: every crop of a slice, however small, should look to the student as the whole does to the teacher."""

from torch import Tensor

from .cross_entropy import cross_entropy
from .precision import outside_autocast


@outside_autocast
def dino_loss(
    student_logits: Tensor,
    teacher_probs: Tensor,
    student_temperature: float = 0.1,
    ignore_diagonal: bool = False,
) -> Tensor:
    """Cross-entropy of the student's CLS predictions against the teacher's, over pairs of crops of one image.

    DINO (arXiv:2104.14294), equation 3:

        L = mean over images b and crop pairs (s, t) of  - sum_k P_t(b)_k log P_s(b)_k,
        P_t the teacher's targets, P_s = softmax(student logits / student_temperature)

    The equation leaves out the pairs in which both see the same crop; that is `ignore_diagonal`. As in the released
    DINOv3 code the mean is over the pairs that remain.

    Args:
        student_logits: (S, B, K) logits of S crops; with `ignore_diagonal`, crop s is the teacher's crop s.
        teacher_probs: (T, B, K) targets of T global crops, from `sinkhorn_knopp`.
        student_temperature: softmax temperature of the student.
        ignore_diagonal: leave out the pairs s == t.

    Returns:
        () float32, whatever the input dtype.

    Raises:
        ValueError: if images or prototypes differ, or if leaving out the diagonal leaves no pair.
    """
    if student_logits.shape[1:] != teacher_probs.shape[1:]:
        raise ValueError(
            f"dino_loss expects student (S, B, K) and teacher (T, B, K) of the same images and prototypes; found "
            f"{tuple(student_logits.shape)} and {tuple(teacher_probs.shape)}. Crop-major rows (S * B, K) become "
            f"(S, B, K) with unflatten(0, (S, B))."
        )
    (num_student, num_images, _), num_teacher = student_logits.shape, len(teacher_probs)
    num_pairs = num_student * num_teacher - (min(num_student, num_teacher) if ignore_diagonal else 0)
    if num_pairs == 0:
        raise ValueError(
            f"dino_loss with ignore_diagonal expects at least two crops on one side; found {num_student} student and "
            f"{num_teacher} teacher crops. Use two global crops, or ignore_diagonal=False."
        )
    pairs = tuple(tuple(not (ignore_diagonal and s == t) for t in range(num_teacher)) for s in range(num_student))
    return cross_entropy(student_logits, teacher_probs, student_temperature, pairs).sum() / (num_images * num_pairs)
