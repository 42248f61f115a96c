"""A few fixed slices, undistorted: what teacher and student say of them tells of the networks and not of the crops."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.crops import draw_field
from ..data.crops_config import CropsConfig
from ..data.slices import SliceExample
from ..metrics.effective_rank import effective_rank
from ..metrics.entropy import entropy
from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from .config import PretrainConfig
from .self_distillation import SelfDistillation

_RANK_TOKENS = 512  # patch tokens of all slices over which the rank is taken
_MOST_PATCHES = 64  # of one slice whose similarities are compared: 64 x 64 cosines a slice keep checkpoints small
_SNAPSHOTS = 10  # a run without a gram teacher compares its patches with those at the last tenth of its steps


class ProbeBatch:
    """The fixed slices, and what the networks make of them when it is asked: at every log, never inside a step.

    Entropies and divergence are of softmax(logits / temperature), before Sinkhorn-Knopp, each network with its own
    temperature. See docs/monitor.md for every number.

    Args:
        pixel_values: (P, 3, S, S) normalised slices, from `probe_inputs`.
        config: of the run.
        device: where the networks live.
        spacing_mm: (P, 2) mm per pixel, for a network with metric coordinates.
    """

    def __init__(
        self, pixel_values: Tensor, config: PretrainConfig, device: torch.device, spacing_mm: Tensor | None = None
    ) -> None:
        self.config = config
        self.pixel_values = pixel_values.to(device)
        self.spacing_mm = None if spacing_mm is None else spacing_mm.to(device)
        self.contrast = smallest_contrast(pixel_values)
        self.similarities: Tensor | None = None  # (P, n, n) of the teacher's patches at the last snapshot
        self.snapshot = torch.full((), -1, dtype=torch.int64)

    @torch.no_grad()
    def report(self, model: SelfDistillation, step: int, teacher_temperature: float) -> dict[str, float]:
        """All numbers after update `step`, as plain floats."""
        model.eval()  # stochastic depth and the jitter of coordinates would make two looks at one network differ
        teacher_cls, teacher_patches = self._tokens(model.teacher)
        student_cls, _ = self._tokens(model.student)
        teacher = _log_probs(model.teacher.dino_head(teacher_cls), teacher_temperature)
        student = _log_probs(model.student.dino_head(student_cls), self.config.losses.student_temperature)
        similarities = patch_similarities(teacher_patches)
        drift = (similarities - self._reference(model, step, similarities)).abs().mean()
        model.train()
        return {
            "probe/teacher_entropy": entropy(teacher.exp()).mean().item(),
            "probe/student_entropy": entropy(student.exp()).mean().item(),
            "probe/kl": F.kl_div(student, teacher, reduction="batchmean", log_target=True).item(),
            "probe/cls_rank": _rank(teacher_cls),
            "probe/patch_rank": _rank(_spread(teacher_patches.flatten(0, 1), _RANK_TOKENS)),
            "probe/cls_norm": teacher_cls.norm(dim=-1).mean().item(),
            "probe/patch_norm": teacher_patches.norm(dim=-1).mean().item(),
            "probe/gram_drift": drift.item(),
            "probe/contrast": self.contrast,
        }

    def is_anchored(self, step: int) -> bool:
        """Whether Gram anchoring pulls with its whole weight towards a frozen teacher at this step."""
        gram = self.config.gram
        return self._has_gram_teacher(step) and step >= gram.first_step + gram.ramp_steps

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs to report the same numbers."""
        similarities = {} if self.similarities is None else {"probe.similarities": self.similarities}
        return {"probe.snapshot": self.snapshot, **similarities}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`; with another number of slices a new snapshot begins."""
        similarities = tensors.get("probe.similarities")
        if similarities is not None and len(similarities) == len(self.pixel_values):
            self.snapshot = tensors["probe.snapshot"]
            self.similarities = similarities.to(self.pixel_values.device)

    def _tokens(self, network: nn.Module) -> tuple[Tensor, Tensor]:
        parts = [network.global_tokens(pixels, None, spacing_mm) for pixels, spacing_mm in self._parts()]
        cls, patches = (torch.cat(tokens).float() for tokens in zip(*parts, strict=True))
        return cls, patches

    def _parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """Pixels and spacing, no more at once than training takes: where a step fits into the memory, so does this."""
        pixels = self.pixel_values.split(2 * self.config.batch.size)
        if self.spacing_mm is None:
            return [(part, None) for part in pixels]
        return list(zip(pixels, self.spacing_mm.split(2 * self.config.batch.size), strict=True))

    def _has_gram_teacher(self, step: int) -> bool:
        gram = self.config.gram
        return gram.teacher == "snapshot" and gram.first_step is not None and step >= gram.first_step

    def _reference(self, model: SelfDistillation, step: int, now: Tensor) -> Tensor:
        """Similarities to compare with: those of the gram teacher once it anchors, else those at the last snapshot."""
        if self._has_gram_teacher(step):
            prefix = model.student.num_prefix_tokens
            tokens = [
                model.gram_teacher.forward_tokens(pixels, None, spacing_mm) for pixels, spacing_mm in self._parts()
            ]
            return patch_similarities(model.gram_teacher.norm(torch.cat(tokens))[:, prefix:].float())
        before, due = self.similarities, (step + 1) * _SNAPSHOTS // self.config.steps
        if due > int(self.snapshot):
            self.similarities, self.snapshot = now, torch.tensor(due)
        return now if before is None else before


def probe_inputs(
    examples: list[SliceExample], processor: Dinov3CTImageProcessor, crops: CropsConfig
) -> tuple[Tensor, Tensor]:
    """What training takes its crops from, undistorted: the slice, or a field of `crops.field_mm`.

    Returns:
        pixel_values (P, 3, S, S) and spacing_mm (P, 2).
    """
    size = {"height": crops.global_size, "width": crops.global_size}
    prepared = []
    for number, example in enumerate(examples):
        slices_hu = np.stack(list(example.slices_hu))
        rng = np.random.default_rng(number)
        field = draw_field(rng, slices_hu[len(slices_hu) // 2], crops, example.spacing_yx_mm, example.padding_hu)
        rows = slice(round(field.top), round(field.top + field.height))
        columns = slice(round(field.left), round(field.left + field.width))
        image = np.ascontiguousarray(slices_hu[:, rows, columns])
        image = image if processor.channels == "neighbours" else image[0]
        given = {"spacing_mm": example.spacing_yx_mm, "padding_hu": example.padding_hu}
        prepared.append(processor(image, size=size, return_tensors="pt", **given))
    return tuple(torch.cat([each[name] for each in prepared]) for name in ("pixel_values", "spacing_mm"))


def smallest_contrast(pixel_values: Tensor) -> float:
    """How much slices differ from each other, or within themselves if that is less, in normalised units.

    Args:
        pixel_values: (P, 3, S, S); with one slice only what lies within it counts.
    """
    within = pixel_values.std(dim=(2, 3)).mean().item()
    between = pixel_values.std(dim=0).mean().item() if len(pixel_values) > 1 else math.inf
    return min(within, between)


def patch_similarities(patches: Tensor) -> Tensor:
    """(P, N, D) patch tokens -> (P, n, n) cosines between n of them, the same places in every slice; n <= 64."""
    chosen = F.normalize(_spread(patches.transpose(0, 1), _MOST_PATCHES).transpose(0, 1), dim=-1)
    return chosen @ chosen.mT


def _spread(rows: Tensor, most: int) -> Tensor:
    """At most so many rows, spread evenly over all."""
    count = len(rows)
    return rows if count <= most else rows[torch.linspace(0, count - 1, most, device=rows.device).round().long()]


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).log_softmax(-1)


def _rank(tokens: Tensor) -> float:
    return effective_rank(tokens.cpu()) if tokens.isfinite().all() else math.nan
