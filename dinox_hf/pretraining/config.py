"""A pretraining run in words and numbers: nested frozen dataclasses, YAML for what a run changes, `--a.b=c` on top."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.crops import CropsConfig
from ..data.expectation import expect
from ..data.intensity.ct import IntensityConfig
from ..data.masking import MaskingConfig
from ..model.configuration_dinov3_ct import Dinov3CTConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which built set is read, and how."""

    folder: str = "outputs/quickstart/dataset"  # a folder written by dataset_scripts/build_*.py
    split: str = "train"
    num_workers: int = 2  # processes that cut crops; changes speed, never a number

    def __post_init__(self) -> None:
        expect(self.num_workers >= 0, "data.num_workers", ">= 0", self.num_workers, "0 cuts crops in the main one")


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """One step is one update from exactly `accumulate` micro-batches of `size` slices on every process."""

    size: int = 32  # slices in one micro-batch on one process
    accumulate: int = 1  # micro-batches of one update

    def __post_init__(self) -> None:
        expect(self.size >= 2, "batch.size", ">= 2", self.size, "KoLeo and Sinkhorn compare images with each other")
        expect(self.accumulate >= 1, "batch.accumulate", ">= 1", self.accumulate, "1 means no accumulation")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone: a preset of `Dinov3CTConfig`, and the fields in which the run differs from it."""

    preset: str = "vits16"
    overrides: dict[str, Any] = field(default_factory=dict)  # fields of Dinov3CTConfig, such as patch_size
    gradient_checkpointing: bool = False  # recompute each block in the backward pass: slower, far less memory
    # The 7B recipe gives the CLS and register tokens of local crops a norm of their own, in training only.
    untie_local_cls_norm: bool = True

    def __post_init__(self) -> None:
        self.backbone()

    def backbone(self) -> Dinov3CTConfig:
        """The architecture; ValueError for an unknown preset or field."""
        return Dinov3CTConfig.preset(self.preset, **self.overrides)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A projection head: three linear layers, an L2-normalised bottleneck, then one logit for each prototype."""

    num_prototypes: int = 65536
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    num_layers: int = 3

    def __post_init__(self) -> None:
        expect(self.num_prototypes >= 2, "num_prototypes", ">= 2", self.num_prototypes, "1 prototype tells nothing")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms; the weights that move with the step live in `Schedule`."""

    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1
    koleo_topk: int = 1  # nearest neighbours that are pushed apart
    student_temperature: float = 0.1
    local: float = 1.0  # factor of the local crops' share of the DINO term …
    local_end: float = 1.0  # … reached linearly over gram.ramp_steps once Gram anchoring begins
    global_ignore_diagonal: bool = True  # a global crop is not compared with itself


@dataclass(frozen=True, kw_only=True)
class GramConfig:
    """Gram anchoring: keep patch similarities close to those of an earlier teacher (DINOv3, arXiv:2508.10104)."""

    first_step: int | None = None  # the teacher is copied into the gram teacher here; null: no anchoring
    teacher: Literal["snapshot", "ema"] = "snapshot"  # a frozen copy, or the moving teacher itself
    weight: float = 2.0
    ramp_steps: int = 1000  # the weight rises linearly from 0 over so many steps
    refresh_every: int = 10_000  # steps between copies of the teacher into the gram teacher
    max_refreshes: int = 3
    tokens: Literal["all", "masked", "unmasked"] = "all"
    image_level: bool = True  # compare patches within one image, not across the batch
    remove_neg: bool = False  # clamp both similarities at 0
    remove_only_teacher_neg: bool = False
    resize_antialias: bool = False  # of the bicubic step from the gram teacher's patch grid to the student's

    def __post_init__(self) -> None:
        expect(self.ramp_steps >= 1, "gram.ramp_steps", ">= 1", self.ramp_steps, "1 means the full weight at once")
        expect(self.refresh_every >= 1, "gram.refresh_every", ">= 1", self.refresh_every, "max_refreshes: 0 is never")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The teacher is a moving average of the student; its temperature decides how sharp the targets are."""

    momentum: float = 0.992
    momentum_end: float = 1.0  # cosine from momentum over the whole run
    temperature: float = 0.07
    temperature_start: float = 0.04
    temperature_warmup_steps: int = 30_000  # linear

    def __post_init__(self) -> None:
        for name in ("momentum", "momentum_end"):
            value = getattr(self, name)
            expect(0 <= value <= 1, f"teacher.{name}", "between 0 and 1", value, "0.992 keeps 99.2 % of the teacher")
        for name in ("temperature", "temperature_start"):
            value = getattr(self, name)
            expect(value > 0, f"teacher.{name}", "> 0", value, "the recipe uses 0.04 rising to 0.07")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with layer-wise decay; every value that moves is a linear warm-up followed by a half cosine."""

    lr: float = 1e-3  # peak, before the factor of `lr_scaling`
    lr_end: float = 1e-6
    lr_scaling: Literal["none", "sqrt_wrt_1024"] = "sqrt_wrt_1024"  # 4 * sqrt(images in one step / 1024)
    warmup_steps: int = 1000
    weight_decay: float = 0.04
    weight_decay_end: float = 0.4
    beta1: float = 0.9
    beta2: float = 0.999
    layerwise_decay: float = 0.9  # each layer below the top learns so much slower
    patch_embed_lr_multiplier: float = 0.2
    max_grad_norm: float = 3.0  # of backbone, DINO head and iBOT head, each on its own
    freeze_last_layer_steps: int = 0  # the prototypes rest for so many steps

    def __post_init__(self) -> None:
        expect(self.lr > 0, "optimizer.lr", "> 0", self.lr, "1e-3 suits ViT-S with a batch of some hundreds")
        expect(self.max_grad_norm > 0, "optimizer.max_grad_norm", "> 0", self.max_grad_norm, "1e9 never clips")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run: everything that decides its numbers, and where it writes."""

    output: str = "outputs/pretrain"  # the run folder
    steps: int = 100_000  # updates of the student
    seed: int = 0
    precision: Literal["auto", "no", "bf16"] = "auto"  # auto: bf16 where the accelerator has it
    log_every: int = 10
    save_every: int = 1000
    keep_checkpoints: int = 2  # the newest ones; older ones are deleted once a newer one is complete
    picture_every: int = 1000
    trackers: tuple[str, ...] = ("tensorboard",)

    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    intensity: IntensityConfig = field(default_factory=IntensityConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    dino_head: HeadConfig = field(default_factory=HeadConfig)
    ibot_head: HeadConfig = field(default_factory=HeadConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    gram: GramConfig = field(default_factory=GramConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "keep_checkpoints", "picture_every"):
            expect(getattr(self, name) >= 1, name, ">= 1", getattr(self, name), "it counts steps or checkpoints")
