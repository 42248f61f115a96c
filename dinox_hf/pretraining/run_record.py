"""run.yaml: what a run depended on, and what may not change when it is resumed."""

import platform
from pathlib import Path
from typing import Literal

import torch
import yaml
from accelerate import Accelerator

from ..data.durable_files import write_text_whole
from ..data.loader import PretrainLoader
from ..data.stream_loader import StreamLoader
from ..source_commit import source_commit
from .checkpoint import latest_checkpoint
from .checkpoint_folders import newest_whole
from .config import PretrainConfig
from .config_file import flat, to_dict
from .low_rank import num_parameters
from .tracking import say_once

Resume = Literal["never", "always", "auto"]

# Fields that may change when a run is resumed: none of them touches a number of the training. A set may move to
# another folder; its fingerprint tells whether it is the same.
_FREE_TO_CHANGE = {
    *("log_every", "save_every", "keep_checkpoints", "keep_every", "picture_every", "trackers", "output"),
    *("model.checkpointing", "device_gb"),  # the same gradients
    *("data.folder", "data.split", "data.num_workers", "data.pin_memory"),
    *("batch.size", "batch.accumulate"),  # their product with the number of processes may not: `refuse_other_batch`
    *("monitor.probe_slices", "monitor.stop_on_alarm", "monitor.max_skipped_steps"),
}


def prepare_folder(config: PretrainConfig, resume: Resume = "never") -> Path | None:
    """Check the run folder before anything costs time; returns the checkpoint to continue from, if any.

    That is the newest one whose files are as they were written. One that is damaged is passed over, and said.

    Raises:
        ValueError: `output` is a file or in one; the folder holds a run and `resume` is "never", or holds none and it
            is "always"; or the run there was made with another configuration.
        RuntimeError: its checkpoints are all damaged, or its run.yaml is.
    """
    folder = Path(config.output)
    _refuse_files_in_the_way(folder)
    if resume == "never":
        if earlier := latest_checkpoint(folder):
            raise ValueError(
                f"Expected a new run folder; found {earlier.name} of an earlier run in {folder}. Continue it with "
                f"--resume, or write elsewhere with --output=…."
            )
        return None
    checkpoint = newest_whole(folder, say_once)
    if checkpoint is not None:
        _refuse_other_configuration(config, folder / "run.yaml")
    elif resume == "always":
        raise ValueError(
            f"--resume expects a complete checkpoint under {folder / 'checkpoints'}; found none. Start the run "
            f"without --resume, or name its folder with --output=…."
        )
    return checkpoint


def write_run_yaml(
    folder: Path,
    config: PretrainConfig,
    accelerator: Accelerator,
    backbone: torch.nn.Module,
    loader: PretrainLoader | StreamLoader,
    origin: dict[str, object] | None = None,
) -> None:
    """Write the whole configuration and the lineage: code, machine, data, and what the first weights came from."""
    lineage = {
        "dinox_hf_commit": source_commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": str(accelerator.device.type),
        "precision": {"no": "float32"}.get(accelerator.mixed_precision, accelerator.mixed_precision),
        "num_processes": accelerator.num_processes,
        "images_per_step": loader.settings.images_per_step,
        "backbone_parameters": num_parameters(backbone),
        "data_fingerprint": loader.fingerprint,
        "data_num_slices": loader.num_slices,
        # What the first weights came from, for their licence; null: a random draw.
        "origin": origin,
    }
    record = to_dict(config) | {"lineage": lineage}
    write_text_whole(folder / "run.yaml", yaml.safe_dump(record, sort_keys=False))


def refuse_other_data(folder: Path, loader: PretrainLoader | StreamLoader) -> None:
    """The folder of the data may move; what lies in it may not change under a run: ValueError if it did."""
    before = _read(folder / "run.yaml")["lineage"].get("data_fingerprint")
    if before != loader.fingerprint:
        raise ValueError(
            f"--resume expects the slices with fingerprint {before} that {folder / 'run.yaml'} records; found "
            f"{loader.fingerprint} in {loader.source}. Name the run's own data with --data.folder=…, or "
            f"start a new run with --output=…."
        )


def refuse_other_batch(folder: Path, loader: PretrainLoader | StreamLoader) -> str | None:
    """A step may be spread over other processes or micro-batches; how many slices it sees may not change.

    Returns:
        What is different then, for the user; None if the run goes on with as many processes as before.

    Raises:
        ValueError: if a step would see more or fewer slices than before.
    """
    before = _read(folder / "run.yaml")["lineage"]
    how = loader.settings
    found = f"batch.size {how.batch_size} x batch.accumulate {how.accumulate} x {how.world_size} processes"
    if how.images_per_step != before["images_per_step"]:
        raise ValueError(
            f"--resume expects steps of {before['images_per_step']} slices, to which learning rates and statistics "
            f"belong; found {found} = {how.images_per_step}. Choose batch.size and batch.accumulate so that the "
            f"product stays, or start a new run with --output=…."
        )
    if how.world_size == before["num_processes"]:
        return None
    return (
        f"This run goes on with {how.world_size} processes after {before['num_processes']}: as many slices in a "
        f"step, but other masks and other draws, so not bit for bit the run that it would have been."
    )


def _refuse_files_in_the_way(folder: Path) -> None:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(
            f"Expected a folder to write the run into, new or there already; found that {nearest} is a file. Name "
            f"another with --output=…."
        )


def _refuse_other_configuration(config: PretrainConfig, run_yaml: Path) -> None:
    before, now = _fixed(_read(run_yaml)), _fixed(to_dict(config))
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        shown = "; ".join(f"{name}: {before.get(name)} became {now[name]}" for name in changed)
        raise ValueError(
            f"--resume expects the configuration in {run_yaml}; found a change in {shown}. Give the same file and "
            f"overrides as at the start, or start a new run with --output=…."
        )


def _read(run_yaml: Path) -> dict[str, object]:
    """What a run wrote down when it began."""
    try:
        record = yaml.safe_load(run_yaml.read_text())
    except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict) or "lineage" not in record:
        raise RuntimeError(
            f"--resume expects {run_yaml}, which says what the checkpoints beside it depend on; found none, or one "
            f"that is damaged. Bring it back from a copy, or start a new run with --output=…."
        )
    return record


def _fixed(values: dict[str, object]) -> dict[str, object]:
    """The values that a resumed run may not change, by dotted name; of several sets that is their weights."""
    found = {name: value for name, value in flat(values).items() if name not in _FREE_TO_CHANGE}
    return found | {"data.folders": [entry["weight"] for entry in found.get("data.folders", ())]}
