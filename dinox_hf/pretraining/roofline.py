"""How long a run takes at the very least: python -m dinox_hf.pretraining.roofline [--write docs/roofline.md].

A step can be no faster than its arithmetic at the device's peak, nor than its bytes through the device's memory. Both
are counted from the same shapes as the memory plan; the page says what follows for three devices.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from ..model.configuration_dinov3_ct import PRESETS
from .config import PretrainConfig
from .config_file import load_config
from .footprint import FLOAT32, Arithmetic, Crops, Sizes, crops_of, forward_flops, head_flops, num_masked, sizes_of
from .memory_plan import GB, POLICIES, Plan, largest_plan, plan_run

BF16 = Arithmetic(2)
STEPS, SLICES = 100_000, 256  # stage 1 of LIDC: training/configs/stages/pretrain.yaml
SHARE = 0.4  # of the roof, for the second column of days: an assumption, not a measurement


@dataclass(frozen=True)
class Device:
    """What a data sheet promises."""

    name: str
    tflops: float  # dense bfloat16 products, summed in float32
    gb_per_s: float
    memory_gb: float
    source: str

    @property
    def intensity(self) -> float:
        """FLOPs for each byte at which arithmetic and memory are both at their limit."""
        return self.tflops * 1e12 / (self.gb_per_s * 1e9)


DEVICES = (
    Device(
        "Strix Halo", 59.4, 256, 96, "40 CU x 512 FLOP x 2.9 GHz (Radeon 8060S); 256 bit of LPDDR5X-8000; 96 of 128 GB"
    ),
    Device("RTX 4090", 165.2, 1008, 24, "NVIDIA Ada white paper: BF16 with FP32 sums, without sparsity"),
    Device("H200", 989, 4800, 141, "NVIDIA H200 (SXM) data sheet: half of the figure with sparsity"),
)
CROP_SETS = {
    "pretraining": {"global_size": 224, "local_size": 96, "gram_size": None},
    "Gram": {"global_size": 224, "local_size": 96, "gram_size": 448},
    "high resolution": {"global_size": 512, "local_size": 112, "gram_size": 768},
}
DROP_PATH = {"vits16": 0.1, "vitb16": 0.2, "vitl16": 0.3, "vitg16": 0.4}  # of training/configs/*_pretrain.yaml


@dataclass(frozen=True)
class Work:
    """What one slice, all its crops, costs in training."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """FLOPs for each byte."""
        return self.flops / self.bytes

    def seconds(self, device: Device) -> float:
        """At the roof."""
        return max(self.flops / (device.tflops * 1e12), self.bytes / (device.gb_per_s * 1e9))


def work_of(config: PretrainConfig, plan: Plan, sizes: Sizes) -> Work:
    """Count one slice of a step that is cut as `plan` says, on the first size of crops."""
    crops = crops_of(config, config.crops.variants[0], plan.size)
    return Work(_flops(config, plan, sizes, crops) / plan.size, _bytes(config, plan, sizes, crops) / plan.size)


def _flops(config: PretrainConfig, plan: Plan, sizes: Sizes, crops: tuple[Crops, Crops, Crops | None]) -> float:
    backbone, (seen, local, gram) = config.model.backbone(), crops
    student = sum(forward_flops(backbone, sizes, each, in_training=True) for each in (seen, local) if each.num)
    masked = num_masked(config, seen)
    heads = head_flops(sizes.dino_head, seen.num + local.num) + head_flops(sizes.ibot_head, masked)
    teacher = forward_flops(backbone, sizes, seen, in_training=False)
    teacher += head_flops(sizes.dino_head, seen.num) + head_flops(sizes.ibot_head, masked)
    again = student if plan.policy == "block" else 0  # selective repeats no product
    # Backward: one product for the gradient of the input, one for that of the weight.
    total = 3 * (student + heads) + again + teacher
    if config.gram.first_step is not None:
        total += forward_flops(backbone, sizes, gram or seen, in_training=False)
        total += 4 * 2 * seen.num * seen.num_patches**2 * backbone.hidden_size  # two similarities, one gradient
    return total


def _bytes(config: PretrainConfig, plan: Plan, sizes: Sizes, crops: tuple[Crops, Crops, Crops | None]) -> float:
    """Every activation written and read once, likewise its gradient; weights once for each product with them."""
    kept = plan_run(config, BF16, "none", plan.size, plan.accumulate, sizes).kept
    again = {"none": 0, "selective": 0.5, "block": 1}[plan.policy]  # about half of a block's bytes are products
    looked_at = [crops[0]] if config.gram.first_step is None else [crops[0], crops[2] or crops[0]]
    share = sum(each.tokens for each in looked_at) / (crops[0].tokens + crops[1].tokens)
    activations = 2 * kept * (2 + again + share)
    copies = (FLOAT32 + 2 + 3 * 2) * sizes.student + (FLOAT32 + 2 + 2) * sizes.student * len(looked_at)
    # Gradients are added up in each micro-batch; AdamW, clipping and the teacher's average once in a step.
    update = (12 * FLOAT32 + 3 * FLOAT32) * sizes.student / plan.accumulate
    return activations + copies + 2 * FLOAT32 * sizes.student + update


def config_of(preset: str, crop_set: str) -> PretrainConfig:
    """A stage's configuration as far as it decides FLOPs and bytes."""
    crops = ", ".join(f"{name}: {'null' if px is None else px}" for name, px in CROP_SETS[crop_set].items())
    settings = [
        f"--model={{preset: {preset}, overrides: {{drop_path_rate: {DROP_PATH.get(preset, 0.4)}}}}}",
        f"--crops={{{crops}}}",
        f"--batch={{size: 16, accumulate: {SLICES // 16}}}",
    ]
    return load_config(PretrainConfig, None, settings + (["--gram.first_step=0"] if crop_set != "pretraining" else []))


def page() -> str:
    """The whole of docs/roofline.md."""
    parts = (_INTRODUCTION, _work_table(), _BETWEEN, _device_table(), _READING, _days_table(), _END)
    return "\n".join(line for part in parts for line in part) + "\n"


def _work_table() -> list[str]:
    lines = ["| backbone | parameters | crops | TFLOP | GB | FLOP per byte |", "|---|---|---|---|---|---|"]
    for preset in (name for name in PRESETS if name != "vit_tiny"):
        sizes = sizes_of(config_of(preset, "pretraining"))
        for crop_set in CROP_SETS:
            config = config_of(preset, crop_set)
            plan = plan_run(config, BF16, "none", config.batch.size, config.batch.accumulate, sizes)
            work = work_of(config, plan, sizes)
            cells = f"{work.flops / 1e12:.2f} | {work.bytes / GB:.2f} | {work.intensity:,.0f}"
            lines.append(f"| {preset} | {sizes.backbone / 1e6:,.0f} M | {crop_set} | {cells} |")
    return lines


def _device_table() -> list[str]:
    lines = ["| device | bf16, dense | memory | FLOP per byte | from |", "|---|---|---|---|---|"]
    for device in DEVICES:
        speed = f"{device.tflops:g} TFLOP/s | {device.memory_gb:g} GB, {device.gb_per_s:,.0f} GB/s"
        lines.append(f"| {device.name} | {speed} | {device.intensity:.0f} | {device.source} |")
    return lines


def _days_table() -> list[str]:
    names = [device.name for device in DEVICES]
    lines = ["| backbone | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for preset in DROP_PATH:
        config = config_of(preset, "pretraining")
        sizes = sizes_of(config)
        lines.append(f"| {preset} | " + " | ".join(_days(config, sizes, device) for device in DEVICES) + " |")
    return lines


def _days(config: PretrainConfig, sizes: Sizes, device: Device) -> str:
    plans = [largest_plan(config, BF16, policy, device.memory_gb * GB, sizes) for policy in POLICIES]
    works = [(work_of(config, plan, sizes), plan) for plan in plans if plan]
    if not works:
        return "does not fit"
    work, plan = min(works, key=lambda pair: pair[0].seconds(device))
    days = STEPS * SLICES * work.seconds(device) / 86400
    limit = "arithmetic" if work.intensity > device.intensity else "memory"
    return f"{_round(days)} ({_round(days / SHARE)}) days, {limit}; {plan.policy}, {plan.size} x {plan.accumulate}"


def _round(days: float) -> str:
    return f"{days:.1f}" if days < 10 else f"{days:.0f}"


_INTRODUCTION = [
    "# How long a run takes at the very least",
    "",
    "Written by `python -m dinox_hf.pretraining.roofline --write docs/roofline.md`, from the same shapes as",
    "`dinox_hf.pretraining.memory`; a test holds this page against the command. **Not measured on a GPU.** FLOPs are",
    "checked against PyTorch's own counter. Bytes are a lower bound: every activation and its gradient written and",
    "read once, weights once for each product. Kernels that are not fused move more.",
    "",
    "## One slice",
    "",
    "All crops of one slice through student (forward, backward), teacher and, where it looks, gram teacher, with",
    f"heads of 65536 prototypes, in bf16; {SLICES} slices in a step, 16 at a time, nothing computed again.",
    "",
]
_BETWEEN = [
    "",
    "## Three devices",
    "",
    "Where a slice has more FLOP per byte than the device, arithmetic is the limit; else memory is.",
    "",
]
_READING = [
    "",
    "## LIDC-IDRI",
    "",
    f"{STEPS:,} steps of {SLICES} slices (stage 1): days at the roof, and in brackets at {SHARE:.0%} of it, which is",
    "an assumption. Then what limits, and the fastest plan that fits: checkpointing, micro-batch x accumulation.",
    "",
]
_END = [
    "",
    "Loading is not in it: see [data](data.md). What a device really reaches: `images_per_second` in a run's",
    "`metrics.jsonl`, times the FLOPs above.",
]


def main(arguments: list[str]) -> int:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(prog="python -m dinox_hf.pretraining.roofline", description=__doc__)
    parser.add_argument("--write", type=Path, help="a file to write instead of printing")
    file = parser.parse_args(arguments).write
    if file is None:
        print(page())
    else:
        file.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
