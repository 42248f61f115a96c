"""Find the fastest settings for a run: python training/tune_throughput.py [CONFIG.yaml] [--workers=2,8] [--a.b=c …].

Short trials of training/pretrain.py with the run's own configuration, each in a fresh process, over micro-batch,
loader workers and pinned memory. Nothing is kept of them. What is no option of this command goes to the run.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

from dinox_hf.console import run_command
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.trial import Setting, Trial, try_setting
from dinox_hf.pretraining.tuning import (
    HEADER,
    best,
    default_batch_sizes,
    default_workers,
    row,
    search,
    settings,
    verdict,
)

PRETRAIN = Path(__file__).with_name("pretrain.py")
PHANTOM_PRESET = PRETRAIN.parent / "configs" / "quickstart.yaml"


def main() -> None:
    """Try all combinations, print each as it ends, then the best as arguments."""
    options, arguments = read_arguments()
    files = [argument for argument in arguments if not argument.startswith("--")] or [str(PHANTOM_PRESET)]
    overrides = [argument for argument in arguments if argument.startswith("--")]
    config = load_config(PretrainConfig, files[0], overrides)
    program = [sys.executable, str(PRETRAIN), *files, *overrides]
    pins = options.pin or ([True, False] if torch.cuda.is_available() else [None])  # a CPU has nothing to pin for
    workers = options.workers or default_workers(config.data.num_workers, os.cpu_count() or 1)
    candidates = settings(config, options.micro_batches or default_batch_sizes(config.batch), workers, pins)

    def measure(setting: Setting) -> Trial:
        with tempfile.TemporaryDirectory() as folder:
            return try_setting(setting, config, program, Path(folder), options.steps_per_trial, options.timeout)

    print(f"{len(candidates)} trials of {2 * options.steps_per_trial} steps each\n{HEADER}", flush=True)
    trials = []
    for trial in search(candidates, measure):
        trials.append(trial)
        print(row(trial), flush=True)
    images_per_step = config.batch.size * config.batch.accumulate
    print(f"\n{verdict(best(trials, images_per_step), images_per_step)}")


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Options of this command, and what goes to the run: its configuration and overrides."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--micro-batches", type=numbers, help="default: half to four times the run's, same update")
    parser.add_argument("--workers", type=numbers, help="default: the run's, a quarter and half of the cores")
    parser.add_argument("--pin", type=switches, help="yes, no or yes,no (default: both on a GPU)")
    parser.add_argument(
        "--steps-per-trial", type=int, default=8, help="steps that are timed, after as many to warm up"
    )
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one trial")
    return parser.parse_known_args()


def numbers(text: str) -> list[int]:
    """`2,8` as whole numbers."""
    return [int(part) for part in text.split(",")]


def switches(text: str) -> list[bool]:
    """`yes,no` as truth values."""
    return [{"yes": True, "no": False}[part] for part in text.split(",")]


if __name__ == "__main__":
    run_command(main)
