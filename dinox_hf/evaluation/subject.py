"""What is evaluated: a backbone, its starting weights and random twins, its run, and the settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .features import Backbone, load_backbone, random_twin
from .learning import latest_checkpoint, read_metrics, read_run, sets_of
from .starting_weights import StartingWeights, starting_weights


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What may be chosen; everything else follows from backbone and data."""

    field_mm: float = 32.0  # side of the square around a nodule
    size_px: int | None = None  # its side in pixels; None: that of the run's global crops
    num_seeds: int = 5  # repetitions of the folds
    num_random: int = 3  # random twins of the backbone
    max_slices: int = 512  # of the collapse test

    def __post_init__(self) -> None:
        for name in ("field_mm", "size_px", "num_seeds", "num_random", "max_slices"):
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
                f"Name a built set of labelled nodules with --data=FOLDER."
            )
        return Path(data if data is not None else self.config["data"]["folder"])

    def out_folder(self, out: str | None) -> Path:
        """Where the report goes: the folder named, or `evaluation/` in the run folder.

        Raises:
            ValueError: if the subject is no run and no folder is named.
        """
        if out is None and self.checkpoint is None:
            raise ValueError(
                f"Expected --out for a model that is no run folder; found none for {self.source}. "
                f"Name the folder to write with --out=FOLDER."
            )
        return Path(out) if out is not None else Path(self.source) / "evaluation"

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

    def seen_in_pretraining(self, folder: Path) -> str:
        """One sentence on whether pretraining saw these images."""
        if self.config is None:
            return "Whether pretraining saw these images is not known: the backbone comes without its run.yaml."
        sets = sets_of(self.config)
        others = ", ".join(Path(other).name for other, _ in sets if Path(other).resolve() != folder.resolve())
        unchecked = f"Pretraining used another set ({others}); this evaluation does not check for common patients."
        splits = [split for own, split in sets if Path(own).resolve() == folder.resolve()]
        if not splits:
            return unchecked
        return (
            f"Pretraining saw the slices of split {' and '.join(map(repr, splits))} of this very set, without labels; "
            f"of it, patients of other splits were never seen. No label was used before the probe."
            + (f" {unchecked}" if others else "")
        )


def load_subject(source: str, num_random: int) -> Subject:
    """Open a run folder at its latest checkpoint, or a transformers folder or Hub id.

    Raises:
        ValueError: if a run has no complete checkpoint, or a folder holds no model.
    """
    folder = Path(source)
    config = read_run(folder)
    checkpoint = latest_checkpoint(folder) if config or (folder / "checkpoints").is_dir() else None
    backbone = load_backbone(checkpoint / "backbone" if checkpoint else source)
    twins = [random_twin(backbone, seed) for seed in range(num_random)]
    start, name = starting_weights(backbone, config), checkpoint.name if checkpoint else None
    return Subject(source, name, backbone, twins, start, config, read_metrics(folder))
