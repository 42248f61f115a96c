"""The training of a segmentation head in words and numbers."""

from dataclasses import dataclass, field
from typing import Literal

from ...tasks.adaptation import AdaptationConfig
from ...tasks.segmentation import DecoderConfig
from ..cohorts.labelled_nodules import CropConfig
from ..cohorts.nodule_masks import MaskCohortConfig
from .head_config import USUAL_LR, HeadTrainingConfig


@dataclass(frozen=True, kw_only=True)
class MaskCropConfig(CropConfig):
    """A wider square, in which the nodule lies anywhere within 8 mm of the middle along both axes, in the test too."""

    field_mm: float = 48.0
    shift_mm: float = 8.0


@dataclass(frozen=True, kw_only=True)
class MaskAdaptationConfig(AdaptationConfig):
    """The backbone stays frozen, unless adapters are asked for: the head is saved beside an unchanged backbone."""

    mode: Literal["frozen", "lora", "dora"] = "frozen"


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """Everything that a segmentation head depends on, beside the backbone's weights and the pixels."""

    backbone: str = ""  # a run, a published folder, an id on the Hub, released DINOv3 weights
    output: str = "outputs/segmentation"
    seed: int = 0
    data: MaskCohortConfig = field(default_factory=MaskCohortConfig)
    crops: MaskCropConfig = field(default_factory=MaskCropConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    adaptation: MaskAdaptationConfig = field(default_factory=MaskAdaptationConfig)
    training: HeadTrainingConfig = field(default_factory=HeadTrainingConfig)  # its class weights play no part

    @property
    def lr(self) -> float:
        """Of the adapted weights."""
        return USUAL_LR[self.adaptation.mode] if self.training.lr is None else self.training.lr
