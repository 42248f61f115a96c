"""A training step as one usually writes it around transformers' `DINOv3ViTModel`: the measure of our own.

Weights, losses, heads on masked rows, parameter groups and attention (SDPA) are the same; the techniques are not.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from dinox_hf.data.batches import PretrainBatch
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.pretraining.optimizer import parameter_groups, set_step_values
from dinox_hf.pretraining.schedules import StepValues
from dinox_hf.pretraining.self_distillation import DistillationNetwork, SelfDistillation

FIELDS = (
    *("patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("layer_norm_eps", "layerscale_value", "drop_path_rate", "num_register_tokens", "rope_theta", "key_bias"),
    *("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"),
)


def stock_backbone(ours: Dinov3CTModel) -> DINOv3ViTModel:
    """The network of transformers with our weights."""
    config = DINOv3ViTConfig(**{name: getattr(ours.config, name) for name in FIELDS})
    stock = DINOv3ViTModel(config).train(ours.training)
    stock.load_state_dict(ours.state_dict())
    return stock


class StockTokens(nn.Module):
    """transformers' network under the names by which our step calls a backbone: all else stays ours."""

    def __init__(self, ours: Dinov3CTModel) -> None:
        super().__init__()
        self.stock, self.norm, self.config = stock_backbone(ours), nn.Identity(), ours.config

    def forward_tokens(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, spacing_mm: None = None
    ) -> Tensor:
        """(B, T, D), after the final norm; transformers knows no spacing."""
        return self.stock(pixel_values, bool_masked_pos).last_hidden_state


class StockNetwork(nn.Module):
    """Backbone and heads, called with a list of crops."""

    def __init__(self, ours: DistillationNetwork) -> None:
        super().__init__()
        self.backbone = stock_backbone(ours.backbone)
        self.dino_head, self.ibot_head = deepcopy(ours.dino_head), deepcopy(ours.ibot_head)
        self.num_prefix_tokens = ours.num_prefix_tokens

    def forward(self, crops: list[Tensor], masks: list[Tensor], are_masked: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Call backbone and heads once for each of the tensors in `crops`.

        Args:
            crops: each (n, 3, S, S), the global ones first.
            masks: (n, N) bool for each tensor of global crops.
            are_masked: hide the masked patches, as from the student.

        Returns:
            CLS tokens, their logits, and the logits of the masked patches.
        """
        cls, logits, masked_logits = [], [], []
        for place, crop in enumerate(crops):
            mask = masks[place] if place < len(masks) else None
            tokens = self.backbone(crop, mask if are_masked else None).last_hidden_state
            cls.append(tokens[:, 0])
            logits.append(self.dino_head(tokens[:, 0]))
            if mask is not None:
                masked_logits.append(self.ibot_head(tokens[:, self.num_prefix_tokens :][mask]))
        return torch.cat(cls), torch.cat(logits), torch.cat(masked_logits)


class StockStep:
    """Call it with a batch and take a step of the recipe.

    Args:
        ours: the weights to start from; koleo_topk 1, no Gram anchoring.
        is_per_crop: call the network once for each crop, else once for each resolution.
    """

    def __init__(self, ours: SelfDistillation, is_per_crop: bool) -> None:
        self.student, self.teacher = StockNetwork(ours.student), StockNetwork(ours.teacher).eval()
        self.teacher.requires_grad_(False)
        device = next(ours.parameters()).device
        self.student.to(device), self.teacher.to(device)
        depth = ours.student.backbone.config.num_hidden_layers
        self.optimizer = AdamW(parameter_groups(self.student.named_parameters(), depth=depth), lr=0.0)
        self.weights, self.is_per_crop = ours.weights, is_per_crop

    def __call__(self, batch: PretrainBatch, values: StepValues) -> Tensor:
        """One update of the student, then of the teacher; returns the loss."""
        size = len(batch.rows)
        crops = [*batch.global_crops.split(size), *batch.local_crops.split(size)]
        masks = [*batch.masks.split(size)]
        if not self.is_per_crop:
            crops, masks = [batch.global_crops, batch.local_crops], [batch.masks]
        with torch.no_grad():
            _, logits, masked = self.teacher(crops[: len(masks)], masks, are_masked=False)
            cls_probs = sinkhorn(logits.float(), values.teacher_temperature).chunk(2)
            masked_probs = sinkhorn(masked.float(), values.teacher_temperature)
        cls, logits, masked = self.student(crops, masks, are_masked=True)
        loss = dino(logits.float().split(size), cls_probs, self.weights.student_temperature)
        loss = loss + ibot(masked.float(), masked_probs, batch.masks, self.weights.student_temperature)
        loss = loss + self.weights.koleo * sum(koleo(crop.float()) for crop in cls.split(size)[:2])

        set_step_values(self.optimizer, lr=values.lr, weight_decay=values.weight_decay)
        self.optimizer.zero_grad()
        loss.backward()
        for part in (self.student.backbone, self.student.dino_head, self.student.ibot_head):
            nn.utils.clip_grad_norm_(part.parameters(), values.max_grad_norm)
        self.optimizer.step()
        ema(self.teacher, self.student, values.ema_momentum)
        return loss.detach()


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, num_iterations: int = 3) -> Tensor:
    """SwAV's way: the whole matrix is divided by its sums again and again, in place as there."""
    plan = torch.exp(logits / temperature).T  # (K, M)
    num_prototypes, num_rows = plan.shape
    plan /= plan.sum()
    for _ in range(num_iterations):
        plan /= plan.sum(dim=1, keepdim=True)
        plan /= num_prototypes
        plan /= plan.sum(dim=0, keepdim=True)
        plan /= num_rows
    plan *= num_rows
    return plan.T


def dino(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], temperature: float) -> Tensor:
    """DINO's way: a loop over pairs of crops, those of one crop with itself left out."""
    total, num_pairs = 0, 0
    for place, probs in enumerate(teacher):
        for other, logits in enumerate(student):
            if place != other:
                total = total - (probs * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1).mean()
                num_pairs += 1
    return total / num_pairs


def ibot(student: Tensor, teacher: Tensor, masks: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of masked patches; each image counts the same."""
    weights = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
    return -((teacher * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1) * weights).sum() / len(masks)


def koleo(cls: Tensor) -> Tensor:
    """Minus the log distance to the nearest neighbour."""
    cls = F.normalize(cls, dim=-1)
    with torch.no_grad():
        similarity = cls @ cls.T
        similarity.fill_diagonal_(-1)
        nearest = similarity.argmax(dim=1)
    return -torch.log(F.pairwise_distance(cls, cls[nearest], eps=1e-8) + 1e-8).mean()


@torch.no_grad()
def ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """One parameter after the other."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.mul_(momentum).add_(new, alpha=1 - momentum)
