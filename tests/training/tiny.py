"""A run small enough for a test: two noisy series of 64 x 64 slices, a backbone of two layers, six steps."""

from pathlib import Path

from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from tests.data.built_set import noisy_series, series_rows, write_built_set

TINY = [
    "--steps=6",
    "--log_every=1",
    "--save_every=2",
    "--keep_checkpoints=2",
    "--picture_every=6",
    "--trackers=[]",
    "--data.num_workers=0",
    "--batch.size=4",
    "--model.preset=vit_tiny",
    "--model.overrides={patch_size: 8, drop_path_rate: 0.3}",
    "--crops.global_size=32",
    "--crops.local_size=16",
    "--crops.num_local=2",
    "--dino_head={num_prototypes: 16, hidden_dim: 24, bottleneck_dim: 8}",
    "--ibot_head={num_prototypes: 16, hidden_dim: 24, bottleneck_dim: 8}",
    "--gram={first_step: 2, ramp_steps: 2, refresh_every: 2, max_refreshes: 1}",
    "--optimizer.warmup_steps=2",
]


def tiny_set(folder: Path) -> Path:
    rows = series_rows(noisy_series(0, (6, 64, 64)), "P-1") + series_rows(noisy_series(1, (5, 64, 64)), "P-2")
    return write_built_set(folder, {"train-00000-of-00001": rows})


def tiny_config(data: Path, output: Path, *overrides: str) -> PretrainConfig:
    return load_config(PretrainConfig, None, [*TINY, f"--data.folder={data}", f"--output={output}", *overrides])
