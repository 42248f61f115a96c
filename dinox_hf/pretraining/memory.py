"""Say what a run needs: dinox plan --config FILE --device-gb 96 [--a.b=c …].

Also python -m dinox_hf.pretraining.memory.

One table: what the networks take, what each way of keeping activations takes for each slice, and the largest
micro-batch that fits. Where the configuration itself does not fit, the answer is no and the nearest plan that does.
Counted for one process with whole networks (one device, or DDP); under FSDP2 a process holds less.
"""

import argparse
import sys

from .config import PretrainConfig
from .config_file import load_config
from .footprint import Arithmetic, Sizes, sizes_of
from .memory_plan import GB, POLICIES, RESERVED, Plan, largest_plan, nearest_plan, plan_run

_MEANING = {
    "none": "everything is kept",
    "selective": "matrix products and attention are kept",
    "block": "only the input of each block is kept",
}


def describe(config: PretrainConfig, device_gb: float, how: Arithmetic) -> str:
    """The whole answer for a configuration on a device, as text."""
    sizes, device = sizes_of(config), device_gb * GB
    batch, preset = config.batch, config.model.preset
    wanted = batch.size * batch.accumulate
    own = own_plan(config, how, device, sizes)
    lines = [
        f"{preset}: {sizes.backbone / 1e6:,.0f} million parameters, {sizes.student / 1e6:,.0f} with both heads; "
        f"{'bfloat16' if how.is_cast else 'float32'} products",
        f"{_crops_in_words(config)}; {wanted} slices in a step",
        f"Device of {device_gb:g} GB, of which {RESERVED:.0%} are left to itself: {(1 - RESERVED) * device_gb:.1f} GB",
        "",
        *largest_table(config, how, device, sizes),
        "",
        f"As configured (--model.checkpointing={config.model.checkpointing}, {batch.size} x {batch.accumulate}):",
        "",
        *parts_table(own),
        "",
        verdict(config, own, how, device, sizes),
    ]
    return "\n".join(lines)


def own_plan(
    config: PretrainConfig, how: Arithmetic, device_bytes: float, sizes: Sizes, num_processes: int = 1
) -> Plan:
    """The plan that a configuration asks for; `auto` takes the fastest policy that fits, or the smallest of all."""
    batch, chosen = config.batch, config.model.checkpointing
    policies = POLICIES if chosen == "auto" else (chosen,)
    plans = [plan_run(config, how, policy, batch.size, batch.accumulate, sizes, num_processes) for policy in policies]
    return next((plan for plan in plans if plan.fits(device_bytes)), plans[-1])


def largest_table(config: PretrainConfig, how: Arithmetic, device_bytes: float, sizes: Sizes) -> list[str]:
    """One line for each policy: activations of a slice and the largest micro-batch."""
    lines = [
        "| checkpointing | what blocks keep | for each slice | largest micro-batch | peak |",
        "|---|---|---|---|---|",
    ]
    for policy in POLICIES:
        plan = largest_plan(config, how, policy, device_bytes, sizes)
        least = plan_run(config, how, policy, config.batch.size, config.batch.accumulate, sizes)
        largest = f"{plan.size} x {plan.accumulate}" if plan else "none fits"
        peak = f"{plan.peak / GB:.1f} GB" if plan else "–"
        kept = (plan or least).kept_per_slice / 1e6
        lines.append(f"| {policy} | {_MEANING[policy]} | {kept:,.0f} MB | {largest} | {peak} |")
    return lines


def parts_table(plan: Plan) -> list[str]:
    """What is in memory at the worst moment of a plan."""
    rows = [f"| {name} | {size / GB:.2f} GB |" for name, size in plan.parts.items() if size]
    return [
        "| in memory at the worst moment | |",
        "|---|---|",
        *rows,
        f"| **together** ({plan.moment}) | **{plan.peak / GB:.2f} GB** |",
    ]


def verdict(config: PretrainConfig, own: Plan, how: Arithmetic, device_bytes: float, sizes: Sizes) -> str:
    """Yes; or no, and the nearest plan that fits as arguments of a command."""
    if own.fits(device_bytes):
        return f"It fits: {own.peak / GB:.1f} GB with checkpointing {own.policy}."
    refusal = (
        f"It does not fit: {own.peak / GB:.1f} GB are needed at the worst moment ({own.moment}), "
        f"{(1 - RESERVED) * device_bytes / GB:.1f} GB are there."
    )
    nearest = nearest_plan(config, how, device_bytes, sizes)
    if nearest is None:
        return f"{refusal} No batch does: take a smaller model.preset or fewer prototypes, or shard with fsdp2.yaml."
    return f"{refusal} The nearest plan that does ({nearest.peak / GB:.1f} GB): {nearest.arguments}"


def main(arguments: list[str]) -> int:
    """Print the answer; 0 if the configuration fits, 1 if it does not, 2 for a mistake."""
    parser = argparse.ArgumentParser(prog="dinox plan", description=__doc__)
    parser.add_argument("--config", help="a file of training/configs; without one, the defaults")
    parser.add_argument("--device-gb", type=float, required=True, help="memory of the device in 10^9 bytes")
    known, overrides = parser.parse_known_args(arguments)
    try:
        config = load_config(PretrainConfig, known.config, overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # A device is planned for, which computes in bfloat16 unless the configuration says no.
    text = describe(config, known.device_gb, Arithmetic(4 if config.precision == "no" else 2))
    print(text)
    return 1 if "It does not fit" in text else 0


def _crops_in_words(config: PretrainConfig) -> str:
    sizes = [
        f"2 x {crops.global_size} + {crops.num_local} x {crops.local_size} px"
        + (f", gram {crops.gram_size}" if crops.gram_size else "")
        for crops in config.crops.variants
    ]
    return "crops " + " or ".join(sizes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
