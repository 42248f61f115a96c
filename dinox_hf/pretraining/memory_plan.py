"""How much memory a run needs at its worst moment, and how a step has to be cut to fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..data.crops import CropsConfig
from .config import PretrainConfig
from .footprint import (
    FLOAT32,
    Arithmetic,
    Crops,
    Segment,
    Sizes,
    block_segment,
    crops_of,
    embedding_segment,
    gram_segment,
    head_segment,
    inference_bytes,
    loss_bytes,
    num_masked,
    sizes_of,
)
from .recomputation import Policy

POLICIES: tuple[Policy, ...] = ("none", "selective", "block")  # from the fastest to the smallest
GB = 1e9  # 96 GB are 96 x 10^9 bytes; a device that counts in 2^30 has 7 % more
# What a device cannot give to tensors: its context, workspaces of kernels, gaps between tensors. An allowance.
RESERVED = 0.08


@dataclass(frozen=True)
class Plan:
    """One way to cut a step, and what is in memory at its worst moment."""

    policy: Policy
    size: int  # slices in a micro-batch
    accumulate: int
    parts: dict[str, int]  # bytes by what they hold
    moment: str  # where in the step
    kept: int  # bytes of a micro-batch that wait for its backward pass …
    copies: int  # … and of bfloat16 copies of weights

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return sum(self.parts.values())

    @property
    def kept_per_slice(self) -> float:
        """Activations of one slice, all its crops."""
        return self.kept / self.size

    def fits(self, device_bytes: float) -> bool:
        """Whether the peak leaves what a device keeps for itself."""
        return self.peak <= (1 - RESERVED) * device_bytes

    @property
    def arguments(self) -> str:
        """What to add to a command for this plan."""
        return f"--model.checkpointing={self.policy} --batch.size={self.size} --batch.accumulate={self.accumulate}"


def plan_run(
    config: PretrainConfig,
    how: Arithmetic,
    policy: Policy,
    size: int,
    accumulate: int,
    sizes: Sizes | None = None,
    num_processes: int = 1,
) -> Plan:
    """Predict the memory of one process, which holds whole networks (one device, or DDP).

    Args:
        config: of the run; its own policy and batch do not count.
        how: numbers are kept.
        policy: what blocks keep.
        size: slices in a micro-batch.
        accumulate: micro-batches of a step.
        sizes: of `sizes_of(config)`, where known.
        num_processes: several keep a second copy of the gradients, to send them.
    """
    sizes = sizes or sizes_of(config)
    plans = [
        _plan_sizes(config, crops, sizes, how, policy, size, accumulate, num_processes)
        for crops in config.crops.variants
    ]
    return max(plans, key=lambda plan: plan.peak)


def largest_plan(
    config: PretrainConfig, how: Arithmetic, policy: Policy, device_bytes: float, sizes: Sizes
) -> Plan | None:
    """The largest micro-batch that fits and divides the step that the configuration wants; None if none does."""
    wanted = config.batch.size * config.batch.accumulate
    for size in _divisors(wanted):
        plan = plan_run(config, how, policy, size, wanted // size, sizes)
        if plan.fits(device_bytes):
            return plan
    return None


def nearest_plan(config: PretrainConfig, how: Arithmetic, device_bytes: float, sizes: Sizes) -> Plan | None:
    """The plan that changes least: as large a step, then as large a micro-batch, then as little computed again.

    A step is halved only where no micro-batch of it fits: the targets of all its slices exist at once.
    """
    wanted, size = config.batch.size * config.batch.accumulate, config.batch.size
    while wanted >= 2:
        for smaller in (divisor for divisor in _divisors(wanted) if divisor <= size):
            for policy in POLICIES:
                plan = plan_run(config, how, policy, smaller, wanted // smaller, sizes)
                if plan.fits(device_bytes):
                    return plan
        wanted //= 2
    return None


def _divisors(wanted: int) -> Iterator[int]:
    """Micro-batches that a step of `wanted` slices can be cut into, largest first; 2 at least."""
    return (size for size in range(wanted, 1, -1) if wanted % size == 0)


def _plan_sizes(
    config: PretrainConfig,
    crop_sizes: CropsConfig,
    sizes: Sizes,
    how: Arithmetic,
    policy: Policy,
    size: int,
    accumulate: int,
    num_processes: int,
) -> Plan:
    backbone = config.model.backbone()
    crops = crops_of(config, crop_sizes, size)
    has_snapshot = config.gram.first_step is not None and config.gram.teacher == "snapshot"
    still = {
        "student, float32": FLOAT32 * sizes.student,
        "teacher": FLOAT32 * sizes.student,
        "gram teacher": FLOAT32 * sizes.backbone if has_snapshot else 0,
        "optimizer, two moments": 2 * FLOAT32 * sizes.trained,
        "crops of the step": accumulate * sum(each.pixels for each in crops if each),
    }
    gradients = FLOAT32 * sizes.trained
    masked = num_masked(config, crops[0])
    targets = (
        accumulate
        * FLOAT32
        * (crops[0].num * config.dino_head.num_prototypes + masked * config.ibot_head.num_prototypes)
    )
    segments = _segments(config, sizes, crops, policy, how)
    sent = gradients if num_processes > 1 else 0  # DDP's buckets
    worst, moment = _worst_moment(segments, gradients if accumulate > 1 else 0)
    worst |= {"gradients": worst["gradients"] + sent, "targets of the step": targets}
    # Before: the teacher looks at one micro-batch after the other, and no gradient exists. Its logits become targets
    # in place, but for those that are cast or joined with others.
    is_copied = accumulate > 1 or how.is_cast
    copied = how.product * masked * config.ibot_head.num_prototypes if is_copied else 0
    looking = inference_bytes(backbone, crops[0], how) + copied
    teacher = {"gradients": sent, "targets of the step": targets, "in use": looking}
    after = {"gradients": gradients + sent, "targets of the step": targets}
    moments = {moment: worst, "targets": teacher, "update": after}
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    kept, copies = (sum(getattr(segment, name) for segment in segments) for name in ("kept", "copies"))
    return Plan(policy, size, accumulate, still | moments[moment], moment, kept, copies)


def _segments(
    config: PretrainConfig, sizes: Sizes, crops: tuple[Crops, Crops, Crops | None], policy: Policy, how: Arithmetic
) -> list[Segment]:
    """The student's pass over one micro-batch, in the order of its forward pass."""
    backbone, width = config.model.backbone(), config.model.backbone().hidden_size
    seen, local, gram = crops
    segments = []
    for each, is_first in ((seen, False), (local, True)):  # gradients come from the last pass first
        if not each.num:
            continue
        segments.append(embedding_segment(backbone, each, how))
        blocks = [
            block_segment(backbone, sizes, each, rate, policy, how, is_first) for rate in backbone.drop_path_rates
        ]
        # With LoRA a block's gradients are those of its adapters, next to nothing.
        segments += [replace(block, made=0, ended=0) for block in blocks] if config.lora else blocks
        stream = FLOAT32 * width * each.tokens
        tokens = stream if each is seen else FLOAT32 * width * each.num  # of local crops the CLS token alone
        segments.append(Segment("norm", kept=stream + tokens, backward=2 * stream))
    rows, masked = seen.num + local.num, num_masked(config, seen)
    heads = ((config.dino_head, sizes.dino_head, rows, 2), (config.ibot_head, sizes.ibot_head, masked, 1))
    logits = [(num, head.num_prototypes) for head, _, num, _ in heads]
    for name, (head, parameters, num, parts) in zip(("DINO head", "iBOT head"), heads, strict=True):
        segments.append(head_segment(name, head, parameters, width, num, how, parts))
    segments.append(Segment("losses", backward=loss_bytes(logits, how)))
    if config.gram.first_step is not None:
        looked_at = gram or seen
        teacher = inference_bytes(backbone, looked_at, how) if config.gram.teacher == "snapshot" else 0
        segments.append(Segment("gram teacher", forward=teacher))
        segments.append(gram_segment(width, seen))
    return segments


def _worst_moment(segments: list[Segment], gradients: int) -> tuple[dict[str, int], str]:
    """Walk the pass forward and back; return what is in memory where most is, and where that is.

    Args:
        segments: in the order of the forward pass.
        gradients: bytes of those that earlier micro-batches left, which these are added to; 0 where there is one.
    """
    moments, kept, copies = [], 0, 0
    for segment in segments:
        kept, copies = kept + segment.kept, copies + segment.copies
        moments.append((f"{segment.name}, forward", kept, copies, segment.forward, gradients))
    waiting, adds_up = 0, gradients > 0
    for segment in reversed(segments):
        in_use = segment.backward
        moments.append((f"{segment.name}, backward", kept, copies, in_use, gradients + waiting + segment.made))
        kept, copies = kept - segment.kept, copies - segment.copies
        if segment.ended:
            waiting -= segment.ended
        elif segment.name.startswith("blocks"):
            waiting += segment.made
        if not adds_up and (segment.ended or not segment.name.startswith("blocks")):
            gradients += segment.made
    name, kept, copies, in_use, gradients = max(moments, key=lambda moment: sum(moment[1:]))
    parts = {"kept for the backward pass": kept, "bfloat16 copies of weights": copies, "in use": in_use}
    return {"gradients": gradients, **parts}, name
