"""Student, teacher and gram teacher as ONE module, because Accelerate shards one module under FSDP2."""

from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.batches import PretrainBatch
from ..losses.dino import dino_loss
from ..losses.gram import gram_loss, resize_patch_grid
from ..losses.ibot import ibot_loss
from ..losses.koleo import known_loss, koleo_loss
from ..losses.sinkhorn import sinkhorn_knopp
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.modeling_dinov3_ct import Dinov3CTModel
from .config import HeadConfig, PretrainConfig
from .ema import ema_update_
from .projection_head import ProjectionHead
from .recomputation import recompute
from .schedules import StepValues

NUM_GLOBAL_CROPS = 2


@dataclass
class StudentOutput:
    """What the student says of one micro-batch of B slices."""

    global_cls: Tensor  # (2, B, D) CLS tokens of the masked global crops after the final norm, before the head
    global_logits: Tensor  # (2, B, K)
    local_logits: Tensor  # (L, B, K)
    patches: Tensor  # (2B, N, D) patch tokens of the masked global crops after the final norm
    masked_logits: Tensor  # (M, K') one row for each masked patch, row-major over (2B, N)


@dataclass
class TeacherTargets:
    """What the student should say of one micro-batch; no gradient flows into it."""

    cls_probs: Tensor  # (2, B, K), rows sum to 1
    masked_probs: Tensor  # (M, K'), rows sum to 1
    cls: Tensor  # (2, B, D) CLS tokens of the clean global crops, for the collapse monitor
    marginal: Tensor  # (K,) mean over the 2B crops of softmax(logits / temperature), before Sinkhorn evens it out
    patches: Tensor | None  # (2B, N, D), kept only where the teacher itself anchors the Gram matrix


@dataclass
class StepSpread:
    """KoLeo over all slices of a step, and one micro-batch's part in it, from a first look at all of them."""

    loss: Tensor  # () of the whole step, summed over the global crops; the same for every micro-batch
    gradient: Tensor  # (2, B, D) for this micro-batch's CLS tokens, times the number of micro-batches
    seed: int  # of stochastic depth in the first look; the second has to drop the same slices


class DistillationNetwork(nn.Module):
    """A backbone with its DINO head on the CLS token and its iBOT head on patch tokens."""

    def __init__(self, config: PretrainConfig, backbone: Dinov3CTConfig) -> None:
        super().__init__()
        self.backbone = Dinov3CTModel(backbone)
        # Local crops see little of the slice; their CLS and register tokens get a norm of their own, in training only,
        # so that the published backbone keeps the one norm that stock transformers knows.
        self.local_cls_norm = deepcopy(self.backbone.norm) if config.model.untie_local_cls_norm else None
        self.dino_head = _head(backbone.hidden_size, config.dino_head)
        self.ibot_head = _head(backbone.hidden_size, config.ibot_head)
        self.num_prefix_tokens = 1 + backbone.num_register_tokens

    def forward(
        self,
        global_crops: Tensor,
        local_crops: Tensor,
        masks: Tensor,
        masked_places: Tensor,
        global_spacing_mm: Tensor | None = None,
        local_spacing_mm: Tensor | None = None,
    ) -> StudentOutput:
        """Masked global crops and clean local crops; one call of the backbone per resolution, never per crop.

        Args:
            global_crops: (2B, 3, S, S) crop-major: crop 0 of all slices, then crop 1.
            local_crops: (L*B, 3, s, s) crop-major.
            masks: (2B, N) bool, True where the patch is hidden from the student.
            masked_places: (M,) int64, where the flattened masks are True.
            global_spacing_mm: (2B, 2) mm per pixel; a backbone without metric coordinates does not look at it.
            local_spacing_mm: (L*B, 2).
        """
        batch_size = global_crops.shape[0] // NUM_GLOBAL_CROPS
        cls, patches = self.global_tokens(global_crops, masks, global_spacing_mm)
        local_tokens = self.backbone.forward_tokens(local_crops, spacing_mm=local_spacing_mm)
        local_cls = (self.local_cls_norm or self.backbone.norm)(local_tokens[:, 0])
        # One pass through the head for all CLS tokens: its last layer is the widest matrix of the step.
        logits = self.dino_head(torch.cat([cls, local_cls])).split([len(cls), len(local_cls)])
        global_logits, local_logits = (rows.unflatten(0, (-1, batch_size)) for rows in logits)
        return StudentOutput(
            global_cls=cls.unflatten(0, (NUM_GLOBAL_CROPS, batch_size)),
            global_logits=global_logits,
            local_logits=local_logits,
            patches=patches,
            masked_logits=self.ibot_head(patches_at(masked_places, patches)),
        )

    def global_tokens(
        self, crops: Tensor, masks: Tensor | None = None, spacing_mm: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """CLS (2B, D) and patch tokens (2B, N, D) after the final norm."""
        tokens = self.backbone.norm(self.backbone.forward_tokens(crops, masks, spacing_mm))
        return tokens[:, 0], tokens[:, self.num_prefix_tokens :]


class SelfDistillation(nn.Module):
    """DINOv3 self-distillation (arXiv:2508.10104): the student predicts what an average of itself says of other views.

    Teacher and gram teacher never receive gradients and stay in eval mode. Entered through `__call__`, because DDP and
    FSDP2 act there; `teacher_targets` and `update_teachers` run without gradients and need no reduction.
    """

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        backbone = config.model.backbone()
        self.weights = config.losses
        self.gram = config.gram
        self.student = DistillationNetwork(config, backbone)
        recompute(self.student.backbone, config.model.checkpointing)
        self.teacher = DistillationNetwork(config, backbone)
        has_snapshot = config.gram.first_step is not None and config.gram.teacher == "snapshot"
        self.gram_teacher = Dinov3CTModel(backbone) if has_snapshot else None
        self.teacher.load_state_dict(self.student.state_dict())
        self.refresh_gram_teacher()
        for frozen in self.frozen_modules():
            frozen.requires_grad_(False)
        self.train()

    def frozen_modules(self) -> list[nn.Module]:
        """Teacher and, where it exists, gram teacher."""
        return [self.teacher] if self.gram_teacher is None else [self.teacher, self.gram_teacher]

    def student_parts(self) -> dict[str, nn.Module]:
        """The parts whose gradients are clipped each on its own; together all parameters of the student."""
        heads = {"dino_head": self.student.dino_head, "ibot_head": self.student.ibot_head}
        norms = [] if self.student.local_cls_norm is None else [self.student.local_cls_norm]
        return {"backbone": nn.ModuleList([self.student.backbone, *norms]), **heads}

    def train(self, mode: bool = True) -> "SelfDistillation":
        """The teachers stay in eval mode: no stochastic depth, no coordinate augmentation."""
        super().train(mode)
        for frozen in self.frozen_modules():
            frozen.eval()
        return self

    @torch.no_grad()
    def teacher_targets(self, micro_batches: list[PretrainBatch], temperature: float) -> list[TeacherTargets]:
        """Targets for all micro-batches of a step at once.

        Sinkhorn-Knopp evens out prototypes over the whole step: over 4 x 64 slices it is not four times Sinkhorn over
        64, so accumulation keeps the statistics of the batch that it stands for.
        """
        all_cls, all_masked, all_patches = [], [], []
        for batch in micro_batches:
            cls, patches = self.teacher.global_tokens(batch.global_crops, spacing_mm=batch.global_spacing_mm)
            all_cls.append(cls.contiguous())  # a view would keep the tokens of all patches for as long as the step
            all_masked.append(patches_at(batch.masked_places, patches))
            all_patches.append(patches if self.gram.teacher == "ema" else None)
        cls_logits = _joint_logits(self.teacher.dino_head, all_cls)
        num_cls, num_masked = ([len(rows) for rows in each] for each in (all_cls, all_masked))
        marginals = [(logits / temperature).softmax(-1).mean(0) for logits in cls_logits.split(num_cls)]
        masked_logits = _joint_logits(self.teacher.ibot_head, all_masked)
        cls_probs = sinkhorn_knopp(cls_logits, temperature, out=cls_logits).split(num_cls)
        masked_probs = sinkhorn_knopp(masked_logits, temperature, out=masked_logits).split(num_masked)
        return [
            TeacherTargets(
                cls_probs=cls_probs[i].unflatten(0, (NUM_GLOBAL_CROPS, -1)),
                masked_probs=masked_probs[i],
                cls=all_cls[i].unflatten(0, (NUM_GLOBAL_CROPS, -1)),
                marginal=marginals[i],
                patches=all_patches[i],
            )
            for i in range(len(micro_batches))
        ]

    @torch.no_grad()
    def student_spread(self, micro_batches: list[PretrainBatch]) -> list[StepSpread | None]:
        """KoLeo of each micro-batch's tokens against those of the whole step, where `losses.koleo_scope` asks for it.

        The student looks at the global crops twice: here at all of them, keeping nothing but CLS tokens, and in
        `forward` with gradients. The gradient is that of the joint batch, for the price of a forward pass.
        """
        if self.weights.koleo_scope != "step" or len(micro_batches) == 1:
            return [None] * len(micro_batches)
        seeds = torch.randint(2**62, (len(micro_batches),)).tolist()
        looks = []
        for batch, seed in zip(micro_batches, seeds, strict=True):
            torch.manual_seed(seed)
            cls, _ = self.student.global_tokens(batch.global_crops, batch.masks, batch.global_spacing_mm)
            looks.append(cls.float().unflatten(0, (NUM_GLOBAL_CROPS, -1)))
        cls = torch.cat(looks, dim=1)  # (2, slices of the step on this process, D)
        with torch.enable_grad():
            loss = self.koleo(cls.requires_grad_())
        (gradient,) = torch.autograd.grad(loss, cls)
        # The step averages over its micro-batches; the loss is already that of all of them.
        shares = (len(micro_batches) * gradient).split([look.shape[1] for look in looks], dim=1)
        return [StepSpread(loss.detach(), share, seed) for share, seed in zip(shares, seeds, strict=True)]

    def koleo(self, cls: Tensor, spread: StepSpread | None = None) -> Tensor:
        """KoLeo of (2, B, D) CLS tokens: the sum over the global crops, each crop's slices among themselves."""
        if spread is not None:
            return known_loss(cls, spread.loss, spread.gradient)
        ranks = self.weights.koleo_ranks_per_group
        if self.weights.koleo_scope == "step":
            ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        return sum(koleo_loss(crop, self.weights.koleo_topk, ranks) for crop in cls)

    def forward(
        self, batch: PretrainBatch, target: TeacherTargets, values: StepValues, spread: StepSpread | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted terms of the loss, to be summed, and what else is worth watching, detached."""
        if spread is not None:
            torch.manual_seed(spread.seed)
        student = self.student(
            batch.global_crops,
            batch.local_crops,
            batch.masks,
            batch.masked_places,
            batch.global_spacing_mm,
            batch.local_spacing_mm,
        )
        global_share, local_share = self.pair_shares(student.local_logits.shape[0])
        dino_global = dino_loss(
            student.global_logits,
            target.cls_probs,
            self.weights.student_temperature,
            ignore_diagonal=self.weights.global_ignore_diagonal,
        )
        dino_local = dino_loss(student.local_logits, target.cls_probs, self.weights.student_temperature)
        losses = {
            "dino_global": self.weights.dino * global_share * dino_global,
            "dino_local": self.weights.dino * local_share * values.local_weight * dino_local,
            "ibot": self.weights.ibot
            * ibot_loss(student.masked_logits, target.masked_probs, batch.masks, self.weights.student_temperature),
            "koleo": self.weights.koleo * self.koleo(student.global_cls, spread),
        }
        if values.gram_weight > 0:
            losses["gram"] = values.gram_weight * self.gram_anchoring(batch, student, target)
        observed = {"cls_loss": (global_share * dino_global + local_share * dino_local).detach()}
        return losses, observed

    def pair_shares(self, num_local: int) -> tuple[float, float]:
        """Share of student-teacher crop pairs that are global-global and local-global."""
        global_pairs = NUM_GLOBAL_CROPS * (NUM_GLOBAL_CROPS - self.weights.global_ignore_diagonal)
        local_pairs = NUM_GLOBAL_CROPS * num_local
        return global_pairs / (global_pairs + local_pairs), local_pairs / (global_pairs + local_pairs)

    def gram_anchoring(self, batch: PretrainBatch, student: StudentOutput, target: TeacherTargets) -> Tensor:
        """Gram loss of the student's patches against those of the gram teacher on the clean crops."""
        anchor = self.gram_patches(batch, target, num_patches=student.patches.shape[1])
        patches = student.patches
        if self.gram.tokens != "all":
            chosen = batch.masked_places if self.gram.tokens == "masked" else unmasked_places(batch)
            # Images hide different numbers of patches, so a chosen subset is compared across the batch.
            patches, anchor = patches_at(chosen, patches)[None], patches_at(chosen, anchor)[None]
        return gram_loss(
            patches,
            anchor,
            image_level=self.gram.image_level,
            remove_neg=self.gram.remove_neg,
            remove_only_teacher_neg=self.gram.remove_only_teacher_neg,
        )

    @torch.no_grad()
    def gram_patches(self, batch: PretrainBatch, target: TeacherTargets, num_patches: int) -> Tensor:
        """(2B, num_patches, D) patch tokens of the gram teacher, brought to the student's patch grid."""
        if target.patches is not None:
            return target.patches
        crops, spacing_mm = batch.gram_crops, batch.gram_spacing_mm
        if crops is None:
            crops, spacing_mm = batch.global_crops, batch.global_spacing_mm
        prefix = self.student.num_prefix_tokens
        patches = self.gram_teacher.norm(self.gram_teacher.forward_tokens(crops, spacing_mm=spacing_mm))[:, prefix:]
        grid, student_grid = (round(n**0.5) for n in (patches.shape[1], num_patches))
        if grid == student_grid:
            return patches
        return resize_patch_grid(
            patches, (grid, grid), (student_grid, student_grid), antialias=self.gram.resize_antialias
        )

    @torch.no_grad()
    def update_teachers(self, values: StepValues, is_finite: Tensor) -> None:
        """Teacher: moving average of the student's parameters. Gram teacher: a copy of the teacher when it is due."""
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        # With LoRA the rest is frozen, and the same in both.
        trained = [(teacher, student) for teacher, student in pairs if student.requires_grad]
        ema_update_(*zip(*trained, strict=True), values.ema_momentum, is_finite)
        if values.refresh_gram_teacher:
            self.refresh_gram_teacher()

    def refresh_gram_teacher(self) -> None:
        """Copy the teacher's backbone into the gram teacher, where there is one."""
        if self.gram_teacher is not None:
            self.gram_teacher.load_state_dict(self.teacher.backbone.state_dict())


def patches_at(places: Tensor, patches: Tensor) -> Tensor:
    """(M, D) rows of (2B, N, D) patches, by where they stand among all 2B * N."""
    return patches.flatten(0, 1).index_select(0, places)


def unmasked_places(batch: PretrainBatch) -> Tensor:
    """(2B * N - M,) int64, in order; a stable sort puts False first, and its length is known without counting."""
    num_unmasked = batch.masks.numel() - len(batch.masked_places)
    return batch.masks.flatten().to(torch.uint8).argsort(stable=True)[:num_unmasked]


def _head(in_dim: int, config: HeadConfig) -> ProjectionHead:
    return ProjectionHead(in_dim, config.hidden_dim, config.bottleneck_dim, config.num_prototypes, config.num_layers)


def _joint_logits(head: ProjectionHead, tokens: list[Tensor]) -> Tensor:
    """(M, K) float32 logits of the tokens of all micro-batches, written to the place where they stay.

    A step's masked patches times its prototypes make the largest matrix there is: gigabytes, of which one is enough.
    """
    if len(tokens) == 1:
        return head(tokens[0]).float()
    num_rows = [len(rows) for rows in tokens]
    logits = torch.empty(sum(num_rows), head.prototypes.out_features, dtype=torch.float32, device=tokens[0].device)
    for place, rows in zip(logits.split(num_rows), tokens, strict=True):
        place.copy_(head(rows))
    return logits
