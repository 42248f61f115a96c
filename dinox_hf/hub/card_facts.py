"""What a model card may say: facts read from a run's own files and from the card of its data set."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.backbones.learning import read_metrics, read_run, sets_of
from ..evaluation.backbones.lineage import Origin, Stage, first_weights, origin_name, stages_before

_METADATA_BLOCK = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Everything that the card may say, as read from the run, its checkpoint and its data set."""

    repo: str = "."  # what the snippets load: the folder itself, or a name on the Hub
    backbone: Path  # of the checkpoint that was exported
    config: dict[str, Any]  # config.json of the export
    processor: dict[str, Any]  # preprocessor_config.json of the export
    run: dict[str, Any]  # run.yaml
    step: int  # updates done
    seconds: float | None  # spent in the training loop, where metrics.jsonl tells
    report: dict[str, Any] | None  # evaluation/report.json
    dataset: dict[str, Any] = field(default_factory=dict)  # see `dataset_metadata`

    @property
    def name(self) -> str:
        """Title of the card: architecture and data."""
        model = self.run["model"]
        # A preset whose width was changed is that preset no more.
        width = model.get("overrides", {}).get("hidden_size")
        return f"Dinov3CT {f'width {width}' if width else model['preset']}, {self.dataset_name}"

    @property
    def is_synthetic(self) -> bool:
        """Whether the training data are simulated scans, as the data set's card says by its name or its tags."""
        return "synthetic" in self.dataset.get("tags", []) or all(
            "phantom" in name.lower() for name in self.dataset_name.split(" + ")
        )

    @property
    def first_weights(self) -> tuple[str, str | None] | None:
        """Name and licence of the released weights that training began with, some runs ago perhaps; None if random."""
        origin = self.first_origin
        if origin is None:
            return None
        name = origin_name(origin)
        # Meta's own weights have Meta's licence, also where they came without their card.
        return name, origin.get("licence") or ("dinov3-license" if name.startswith("facebook/dinov3-") else None)

    @property
    def first_origin(self) -> Origin | None:
        """What was recorded of those released weights."""
        return first_weights(self.run)

    @property
    def stages_before(self) -> list[Stage]:
        """The runs that this one goes on from, oldest first."""
        return stages_before(self.run)

    @property
    def dataset_name(self) -> str:
        """The data set's own name, else the last part of its folder: never a path of the machine that trained."""
        return self.dataset.get("pretty_name") or " + ".join(Path(folder).name for folder, _ in sets_of(self.run))


def read_card_facts(
    run: Path, checkpoint: Path, folder: Path, report: dict[str, Any] | None, repo: str = "."
) -> CardFacts:
    """Collect what the card says.

    Args:
        run: the run folder.
        checkpoint: the checkpoint that was exported.
        folder: the export, with its config files.
        report: the evaluation of the checkpoint, of `report_of`.
        repo: what the snippets load.
    """
    run_yaml = read_run(run)
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    return CardFacts(
        repo=repo,
        backbone=checkpoint / "backbone",
        config=json.loads((folder / "config.json").read_text()),
        processor=json.loads((folder / "preprocessor_config.json").read_text()),
        run=run_yaml,
        step=step,
        seconds=seconds_in_loop(read_metrics(run), run_yaml.get("lineage", {}).get("images_per_step"), step),
        report=report,
        dataset=dataset_metadata(run, [folder for folder, _ in sets_of(run_yaml)]),
    )


def report_of(run: Path, checkpoint: Path) -> dict[str, Any] | None:
    """The evaluation of this very checkpoint; None if the run was never evaluated.

    Raises:
        ValueError: if it is the evaluation of another checkpoint: its numbers would be printed under false weights.
    """
    path = run / "evaluation" / "report.json"
    if not path.is_file():
        return None
    report = json.loads(path.read_text(encoding="utf-8"))
    evaluated = report["backbone"]["checkpoint"]
    if evaluated != checkpoint.name:
        raise ValueError(
            f"Expected {path} to be the evaluation of {checkpoint.name}, which is being published; found that of "
            f"{evaluated}. Run training/evaluate.py {run} again, or remove {path.parent} to publish without results."
        )
    return report


def dataset_metadata(run: Path, folders: list[str]) -> dict[str, Any]:
    """What the cards of a run's data sets say; empty if one of them is no longer there.

    Of several sets the names are joined, the licence is the one that they share, or `other`, and a tag counts if all
    have it: a mixture with real scans is not synthetic.
    """
    cards = [_card_of(run, folder) for folder in folders]
    if len(cards) == 1 or not all(cards):
        return cards[0] if len(cards) == 1 else {}
    licences = {card.get("license", "other") for card in cards}
    return {
        "pretty_name": " + ".join(
            card.get("pretty_name") or Path(folder).name for card, folder in zip(cards, folders, strict=True)
        ),
        "license": licences.pop() if len(licences) == 1 else "other",
        "tags": sorted(set.intersection(*(set(card.get("tags", [])) for card in cards))),
    }


def find_set(run: Path, folder: str) -> Path | None:
    """Where a set lies now. A relative folder counts from where the run was started: here, or above the run."""
    places = (start / folder for start in (Path(), *run.resolve().parents))
    return next((place for place in places if (place / "README.md").is_file()), None)


def _card_of(run: Path, folder: str) -> dict[str, Any]:
    place = find_set(run, folder)
    return metadata_of((place / "README.md").read_text(encoding="utf-8")) if place else {}


def metadata_of(card: str) -> dict[str, Any]:
    """The YAML block on top of a card; empty where there is none.

    Raises:
        ValueError: if it is no YAML.
    """
    block = _METADATA_BLOCK.match(card)
    try:
        return (yaml.safe_load(block.group(1)) or {}) if block else {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"The lines between the two --- on top of a card should be YAML; found: {' '.join(str(error).split())}. "
            f"Mend that line of README.md."
        ) from error


def seconds_in_loop(records: list[dict[str, float]], images_per_step: int | None, step: int) -> float | None:
    """Time that the updates up to `step` took, from the speed of each logged stretch; None where it was not logged."""
    if images_per_step is None:
        return None
    seconds, last_step = 0.0, 0
    for record in records:
        if record["step"] <= step:
            seconds += (record["step"] - last_step) * images_per_step / record["images_per_second"]
            last_step = record["step"]
    return seconds if last_step == step else None
