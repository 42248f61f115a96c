"""What is evaluated: a backbone, its starting weights and random twins, its run, and the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .features import Backbone, load_backbone, random_backbone, random_twin
from .learning import latest_checkpoint, read_metrics, read_run
from .pretraining_patients import PretrainingPatients, pretraining_patients
from .starting_weights import StartingWeights, starting_weights

RANDOM_PREFIX = "random:"  # before the name of a preset: random weights as the subject
_SEED_OF_RANDOM_SUBJECT = 1000  # its twins draw from 0 on


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What may be chosen; everything else follows from backbone and data."""

    field_mm: float = 32.0  # side of the square around a nodule
    size_px: int | None = None  # its side in pixels; None: that of the run's global crops
    num_seeds: int = 5  # repetitions of the folds
    num_random: int = 3  # random twins of the backbone
    num_draws: int = 10  # of patients with labels, for every share of them
    max_slices: int = 512  # of the collapse test
    unseen_only: bool = False  # leave out patients whose images pretraining saw

    def __post_init__(self) -> None:
        for name in ("field_mm", "size_px", "num_seeds", "num_random", "num_draws", "max_slices"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be > 0; found {value}. Leave it out for the default.")


@dataclass(frozen=True)
class Subject:
    """A backbone with everything known about it."""

    source: str
    checkpoint: str | None  # name of the checkpoint's folder; None for a model that is no run
    backbone: Backbone
    twins: list[Backbone]  # the same architecture with random weights, seeds 0, 1, …
    start: StartingWeights | None  # what its run started from; None for a random draw
    config: dict[str, Any] | None  # run.yaml
    records: list[dict[str, float]]  # metrics.jsonl

    @property
    def channels(self) -> str:
        """How a slice becomes three channels: "windows" or "neighbours"."""
        return self.backbone.processor.channels

    def data_folder(self, data: str | None) -> Path:
        """The set to evaluate on: the one named, or the one the run was trained on.

        Raises:
            ValueError: if neither is known.
        """
        if data is None and self.config is None:
            raise ValueError(
                f"Expected a run folder with run.yaml, or --data; found neither for {self.source}. "
                f"Name a built set of labelled nodules with --data=FOLDER, or an npz of nodule patches."
            )
        return Path(data if data is not None else self.config["data"]["folder"])

    def out_folder(self, out: str | None, data: str | None = None) -> Path:
        """Where the report goes: the folder named, or one in the run folder.

        That is `evaluation/` for the set of the run, and `evaluation/on_NAME/` for another one, since a model card
        quotes the former.

        Raises:
            ValueError: if the subject is no run and no folder is named.
        """
        if out is not None:
            return Path(out)
        if self.checkpoint is None:
            raise ValueError(
                f"Expected --out for a model that is no run folder; found none for {self.source}. "
                f"Name the folder to write with --out=FOLDER."
            )
        folder = Path(self.source) / "evaluation"
        is_own = data is None or (
            self.config and Path(data).resolve() == Path(self.config["data"]["folder"]).resolve()
        )
        return folder if is_own else folder / f"on_{Path(data).stem}"

    def size_px(self, settings: EvaluationSettings) -> int:
        """Side of a field in pixels, as chosen or as trained.

        Raises:
            ValueError: if it is no multiple of the patch size.
        """
        size = settings.size_px
        if size is None:
            size = self.config["crops"]["global_size"] if self.config else self.backbone.processor.size["height"]
        patch_size = self.backbone.patch_size
        if size % patch_size:
            raise ValueError(
                f"--size must be a multiple of the patch size {patch_size}; found {size}. "
                f"Take {max(1, round(size / patch_size)) * patch_size}."
            )
        return size

    def seen(self) -> PretrainingPatients | None:
        """Patients whose images pretraining saw; None where nothing is known of it."""
        if self.source.startswith(RANDOM_PREFIX):
            return PretrainingPatients(frozenset(), ())
        return pretraining_patients(Path(self.source), self.config) if self.config else None

    def seen_record(self, patient_ids: np.ndarray) -> dict[str, Any] | None:
        """How many of these patients pretraining saw; None where nothing is known of it."""
        seen = self.seen()
        return None if seen is None else seen.record(patient_ids)


def load_subject(source: str, num_random: int, step: int | None = None) -> Subject:
    """Open a run folder at its latest checkpoint, a transformers folder or Hub id, or `random:PRESET`.

    Args:
        source: what to open.
        num_random: how many random twins to draw.
        step: of a run, the checkpoint to open instead of the latest; what was logged later is then left out.

    Raises:
        ValueError: if a run has no complete checkpoint, a folder holds no model, or there is no such preset.
    """
    if source.startswith(RANDOM_PREFIX):
        backbone = random_backbone(source.removeprefix(RANDOM_PREFIX), _SEED_OF_RANDOM_SUBJECT)
        twins = [random_twin(backbone, seed) for seed in range(num_random)]
        return Subject(source, None, backbone, twins, start=None, config=None, records=[])
    folder = Path(source)
    config = read_run(folder)
    checkpoint = latest_checkpoint(folder) if config or (folder / "checkpoints").is_dir() else None
    records = read_metrics(folder)
    if step is not None:
        checkpoint = folder / "checkpoints" / f"step_{step:08d}"
        records = [record for record in records if record["step"] <= step]
    backbone = load_backbone(checkpoint / "backbone" if checkpoint else source)
    twins = [random_twin(backbone, seed) for seed in range(num_random)]
    start, name = starting_weights(backbone, config), checkpoint.name if checkpoint else None
    return Subject(source, name, backbone, twins, start, config, records)
