"""A pretraining run in words and numbers: nested frozen dataclasses, YAML for what a run changes, `--a.b=c` on top."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from ..data.crops_config import CropsConfig
from ..data.expectation import expect
from ..data.intensity.ct import IntensityConfig
from ..data.masking import MaskingConfig
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from .data_config import BatchConfig, DataConfig
from .hub_config import HubConfig
from .low_rank import LowRankConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone: a preset of `Dinov3CTConfig`, and the fields in which the run differs from it."""

    preset: str = "vits16"
    overrides: dict[str, Any] = field(default_factory=dict)  # fields of Dinov3CTConfig, such as patch_size
    # What the backward pass computes again: nothing, all but matrix products and attention, or whole blocks. The same
    # gradients, slower and with less memory; auto takes the first of them that fits the device: see docs/memory.md.
    checkpointing: Literal["none", "selective", "block", "auto"] = "none"
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

    def check(self, name: str) -> None:
        """Refuse what cannot be built; `name` is the head's own in the configuration, of which there are two."""
        found = self.num_prototypes
        expect(found >= 2, f"{name}.num_prototypes", ">= 2", found, "1 prototype tells nothing")
        hint = "the recipe has 3 layers, 2048 wide, and a bottleneck of 256"
        for field_name in ("hidden_dim", "bottleneck_dim", "num_layers"):
            value = getattr(self, field_name)
            expect(value >= 1, f"{name}.{field_name}", ">= 1", value, hint)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms; the weights that move with the step live in `Schedule`."""

    dino: float = 1.0
    ibot: float = 1.0
    koleo: float = 0.1
    koleo_topk: int = 1  # nearest neighbours that are pushed apart
    # Slices among which neighbours are looked for. `process`: one micro-batch, as in the recipe, whose processes hold
    # 16 to 64 images; choose `step`, all slices of the update, where batch.size is smaller than that. With
    # accumulation `step` costs one more forward pass of the global crops, about a tenth of a step (docs/clusters.md).
    koleo_scope: Literal["process", "step"] = "process"
    # With `process`: so many processes look together; the recipe's high-resolution stage has 2.
    koleo_ranks_per_group: int = 1
    student_temperature: float = 0.1
    local: float = 1.0  # factor of the local crops' share of the DINO term …
    local_end: float = 1.0  # … reached with gram.weight, over gram.ramp_steps once Gram anchoring begins
    global_ignore_diagonal: bool = True  # a global crop is not compared with itself

    def __post_init__(self) -> None:
        for name in ("dino", "ibot", "koleo", "local", "local_end"):
            value = getattr(self, name)
            expect(0 <= value < math.inf, f"losses.{name}", ">= 0", value, "0 switches the term off")
        terms = (self.dino, self.ibot, self.koleo)
        expect(max(terms) > 0, "one of losses.dino, ibot, koleo", "> 0", terms, "there is nothing to learn otherwise")
        value = self.student_temperature
        expect(0 < value < math.inf, "losses.student_temperature", "> 0", value, "the recipe uses 0.1")
        expect(self.koleo_topk >= 1, "losses.koleo_topk", ">= 1", self.koleo_topk, "losses.koleo: 0 switches it off")
        name, ranks = "losses.koleo_ranks_per_group", self.koleo_ranks_per_group
        if self.koleo_scope == "step":
            expect(ranks == 1, name, "1 with koleo_scope: step", ranks, "`step` already spans every process")
        expect(ranks >= 1, name, ">= 1", ranks, "1 looks for neighbours on each process alone")


@dataclass(frozen=True, kw_only=True)
class GramConfig:
    """Gram anchoring: keep patch similarities close to those of an earlier teacher (DINOv3, arXiv:2508.10104)."""

    first_step: int | None = None  # the teacher is copied into the gram teacher here; null: no anchoring
    teacher: Literal["snapshot", "ema"] = "snapshot"  # a frozen copy, or the moving teacher itself
    weight: float = 2.0
    ramp_steps: int = 1000  # the weight rises from 0 on half a cosine over so many steps; 0: all of it at once
    refresh_every: int = 10_000  # steps between copies of the teacher into the gram teacher
    max_refreshes: int = 3
    tokens: Literal["all", "masked", "unmasked"] = "all"
    image_level: bool = True  # compare patches within one image, not across the batch
    remove_neg: bool = False  # clamp both similarities at 0
    remove_only_teacher_neg: bool = False
    resize_antialias: bool = False  # of the bicubic step from the gram teacher's patch grid to the student's

    def __post_init__(self) -> None:
        hint = "gram.first_step: null is no anchoring"
        expect(0 <= self.weight < math.inf, "gram.weight", ">= 0", self.weight, hint)
        if self.first_step is not None:
            expect(self.first_step >= 0, "gram.first_step", ">= 0", self.first_step, hint)
        expect(self.ramp_steps >= 0, "gram.ramp_steps", ">= 0", self.ramp_steps, "0 means the full weight at once")
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
            expect(0 < value < math.inf, f"teacher.{name}", "> 0", value, "the recipe uses 0.04 rising to 0.07")
        name, value = "teacher.temperature_warmup_steps", self.temperature_warmup_steps
        expect(value >= 0, name, ">= 0", value, "0 starts at teacher.temperature")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with layer-wise decay, and how its learning rate moves.

    The recipe's ImageNet run swings down on a cosine; its long runs stay on their peak, so that they can go on for as
    long as they improve. Weight decay has no warm-up; with `weight_decay_end` equal to `weight_decay` it is constant.
    """

    lr: float = 1e-3  # peak, before the factor of `lr_scaling`
    lr_end: float = 1e-6  # of the cosine; without effect where the schedule is constant
    lr_scaling: Literal["none", "sqrt_wrt_1024"] = "sqrt_wrt_1024"  # 4 * sqrt(images in one step / 1024)
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up
    warmup: Literal["linear", "cosine"] = "linear"  # the climb from 0; cosine: the recipe's high-resolution stage
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
        hint = "1e-3 suits ViT-S with a batch of some hundreds"
        expect(0 < self.lr < math.inf, "optimizer.lr", "> 0", self.lr, hint)
        for name in ("lr_end", "warmup_steps", "weight_decay", "weight_decay_end", "freeze_last_layer_steps"):
            value = getattr(self, name)
            expect(0 <= value < math.inf, f"optimizer.{name}", ">= 0", value, "0 does without")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            expect(0 <= value < 1, f"optimizer.{name}", ">= 0 and < 1", value, "the recipe uses 0.9 and 0.999")
        name, value = "optimizer.layerwise_decay", self.layerwise_decay
        expect(0 < value <= 1, name, "> 0 and <= 1", value, "1 lets all layers learn alike")
        name, value = "optimizer.patch_embed_lr_multiplier", self.patch_embed_lr_multiplier
        expect(0 < value < math.inf, name, "> 0", value, "1 lets the patch embedding learn like its layer")
        expect(self.max_grad_norm > 0, "optimizer.max_grad_norm", "> 0", self.max_grad_norm, "1e9 never clips")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What the weights start from; by default from a random draw.

    `init: NAME`, or `--init NAME`, is short for `init: {weights: NAME}`.
    """

    SHORT_FOR = "weights"  # no field, having no type

    # A backbone: an id on the Hub, a folder of transformers, a checkpoint of ours, a file in Meta's layout. Student,
    # teacher and gram teacher start from it; the heads are drawn anew, because nobody releases any.
    weights: str | None = None
    from_run: str | None = None  # folder of the run before: backbone and heads of its last checkpoint
    step: int | None = None  # … or of the checkpoint after so many updates
    # teacher: the student too starts as that run's teacher, with a fresh optimizer. everything: student, teacher and
    # AdamW's moments go on as they were, as where the recipe resumes; the steps are counted from 0 again.
    take: Literal["teacher", "everything"] = "teacher"
    gram_step: int | None = None  # updates after which that run's teacher is taken as gram teacher; null: as `step`

    def __post_init__(self) -> None:
        hint = "start from a run, whose heads come along, or from weights without heads"
        expect(None in (self.weights, self.from_run), "init.weights", "null with init.from_run", self.weights, hint)
        for name in ("step", "gram_step"):
            value = getattr(self, name)
            if value is not None:
                expect(self.from_run is not None, f"init.{name}", "null", value, "it names a checkpoint of from_run")
        if self.take == "everything":
            hint = "weights bring no moments; leave init.take out"
            expect(self.from_run is not None, "init.from_run", "a run with init.take: everything", None, hint)


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """What is watched beside the losses (docs/monitor.md), and when a run gives up."""

    probe_slices: int = 32  # fixed slices that teacher and student look at whenever numbers are logged
    stop_on_alarm: int | None = None  # stop once an alarm has sounded at so many logs in a row; null: only say so
    max_skipped_steps: int = 10  # stop after so many steps in a row without a finite gradient

    def __post_init__(self) -> None:
        expect(self.probe_slices >= 2, "monitor.probe_slices", ">= 2", self.probe_slices, "slices are compared")
        if self.stop_on_alarm is not None:
            expect(self.stop_on_alarm >= 1, "monitor.stop_on_alarm", ">= 1", self.stop_on_alarm, "null never stops")
        expect(self.max_skipped_steps >= 1, "monitor.max_skipped_steps", ">= 1", self.max_skipped_steps, "10 is usual")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run: everything that decides its numbers, and where it writes."""

    output: str = "outputs/pretrain"  # the run folder
    steps: int = 100_000  # updates of the student
    seed: int = 0
    precision: Literal["auto", "no", "bf16"] = "auto"  # auto: bf16 where the accelerator has it
    device_gb: float | None = None  # memory of one device in 10^9 bytes; null: what the device itself says
    log_every: int = 10
    save_every: int = 1000
    keep_checkpoints: int = 2  # the newest ones; older ones are deleted once a newer one is complete
    keep_every: int | None = None  # those after every so many steps stay for good: see init.gram_step
    picture_every: int = 1000
    trackers: tuple[str, ...] = ("tensorboard",)

    init: InitConfig = field(default_factory=InitConfig)
    lora: LowRankConfig | None = (
        None  # adapters learn in place of the backbone that `init` names; null: all of it learns
    )
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
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "keep_checkpoints", "picture_every"):
            expect(getattr(self, name) >= 1, name, ">= 1", getattr(self, name), "it counts steps or checkpoints")
        expect(self.seed >= 0, "seed", ">= 0", self.seed, "any whole number from 0 on")
        self.dino_head.check("dino_head")
        self.ibot_head.check("ibot_head")
        if self.keep_every is not None:
            is_met = self.keep_every >= 1 and self.keep_every % self.save_every == 0
            wanted = f"a multiple of save_every, which is {self.save_every}"
            expect(is_met, "keep_every", wanted, self.keep_every, "null keeps the newest ones only")
        is_met = self.hub.repo is None or self.hub.every_steps % self.save_every == 0
        wanted = f"a multiple of save_every, which is {self.save_every}"
        expect(is_met, "hub.every_steps", wanted, self.hub.every_steps, "what is pushed is a checkpoint")
        is_used = self.data.neighbour_mm is None or self.intensity.channels == "neighbours"
        hint = "set intensity.channels: neighbours, or leave data.neighbour_mm out"
        expect(is_used, "data.neighbour_mm", "null with intensity.channels: windows", self.data.neighbour_mm, hint)
