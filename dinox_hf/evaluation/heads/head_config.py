"""The training of a head in words and numbers: which backbone, nodules and head, what may change, and how long."""

from dataclasses import dataclass, field
from math import cos, pi
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ...tasks.adaptation import AdaptationConfig, Mode
from ...tasks.classification import HeadConfig
from ..cohorts.labelled_nodules import CohortConfig, CropConfig

# For a few hundred labels: new matrices may move fast, pretrained ones hardly.
USUAL_LR: dict[Mode, float] = {"frozen": 0.0, "lora": 5e-4, "dora": 5e-4, "partial": 3e-5, "full": 1e-5}


@dataclass(frozen=True, kw_only=True)
class HeadTrainingConfig:
    """How long and how fast."""

    epochs: int = 60  # at most
    patience: int = 12  # epochs without a better validation AUC, then training ends
    batch_size: int = 16  # nodules, on every process
    lr: float | None = None  # of the adapted or unfrozen weights; null: as usual for the mode
    head_lr: float = 3e-3
    weight_decay: float = 0.05  # of matrices
    warmup_epochs: float = 1.0  # to the full rate, which then falls to zero along a cosine
    class_weights: Literal["balanced", "none"] = "balanced"  # in the loss: both classes count the same
    max_grad_norm: float = 1.0
    precision: Literal["auto", "no", "bf16"] = "auto"  # auto: bf16 where there is a GPU
    num_workers: int = 0  # processes that cut crops; changes speed, never a number

    def __post_init__(self) -> None:
        rates = (self.lr if self.lr is not None else 1.0, self.head_lr, self.max_grad_norm)
        if min(self.epochs, self.patience, self.batch_size) < 1 or min(rates) <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"training.epochs, patience and batch_size must be >= 1, rates and max_grad_norm > 0, weight_decay "
                f">= 0; found {self}. Leave a field out for its default."
            )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that a head depends on, beside the backbone's weights and the pixels."""

    backbone: str = ""  # a run, a published folder, an id on the Hub, released DINOv3 weights
    output: str = "outputs/malignancy"
    # Name under which the base is, or will be, on the Hub. The adapter then names it; null: where the base lies now.
    base_id: str | None = None
    seed: int = 0
    data: CohortConfig = field(default_factory=CohortConfig)
    crops: CropConfig = field(default_factory=CropConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    training: HeadTrainingConfig = field(default_factory=HeadTrainingConfig)

    @property
    def lr(self) -> float:
        """Of the adapted or unfrozen weights."""
        return USUAL_LR[self.adaptation.mode] if self.training.lr is None else self.training.lr


def lr_share(epochs_done: float, training: HeadTrainingConfig) -> float:
    """The share of the full rate after so many epochs: a line up to 1, then half a cosine down to 0."""
    if epochs_done < training.warmup_epochs:
        return epochs_done / training.warmup_epochs
    rest = max(training.epochs - training.warmup_epochs, 1e-9)
    return (1 + cos(pi * min(1.0, (epochs_done - training.warmup_epochs) / rest))) / 2


def class_weights(labels: np.ndarray, how: str) -> Tensor:
    """(2,) float32 weights of the classes in the loss: with "balanced" both count the same, and 1 on average.

    Args:
        labels: (n,) 0 or 1, both of them.
        how: "balanced" or "none".
    """
    if how == "none":
        return torch.ones(2)
    counts = np.bincount(labels, minlength=2)
    return torch.tensor(len(labels) / (2 * counts), dtype=torch.float32)
