"""The runs behind a run, from the nested `lineage: origin` of its run.yaml: oldest first, named without a path."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Origin = dict[str, Any]

_CHECKPOINT = re.compile(r"([^/]+)/checkpoints/step_(\d+)(/backbone)?/?")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Stage:
    """A run up to the checkpoint that the next one went on from. What it did not record is None."""

    name: str  # of the run folder
    updates: int | None
    images_per_step: int | None
    num_slices: int | None  # of its data
    data_fingerprint: str | None
    commit: str | None  # of dinox_hf
    sha256: str | None  # of the backbone

    @property
    def images(self) -> int | None:
        """Images seen, repetitions counted."""
        known = self.updates is not None and self.images_per_step is not None
        return self.updates * self.images_per_step if known else None


def stages_before(run: dict[str, Any]) -> list[Stage]:
    """The runs that a run goes on from, oldest first; empty for a run from a random draw or from released weights."""
    first = first_weights(run)
    return [_stage(origin) for origin in _chain(run) if origin is not first]


def first_weights(run: dict[str, Any]) -> Origin | None:
    """The weights that the oldest known run began with; None for a random draw.

    Released ones, or those of a checkpoint that came without its run.yaml, so that nothing is known of their origin.
    """
    chain = _chain(run)
    return chain[0] if chain and "from_run" not in chain[0] else None


def origin_name(origin: Origin) -> str:
    """A run and its step, an id on the Hub, or the last part of a path: reports travel, and paths tell of machines."""
    name, step = _run_and_step(origin)
    if step is not None:
        return f"{name} after {step} steps"
    if "from_run" in origin:
        return name
    place = origin["weights"]
    if "revision" in origin:
        is_hub_id = origin["revision"] is not None
    else:
        is_hub_id = _HUB_ID.fullmatch(place) and not Path(place).exists()
    return place if is_hub_id else Path(place).name


def _chain(run: dict[str, Any]) -> list[Origin]:
    origin, chain = run.get("lineage", {}).get("origin"), []
    while origin:
        chain.insert(0, origin)
        origin = origin.get("origin")
    return chain


def _run_and_step(origin: Origin) -> tuple[str, int | None]:
    """As recorded, or from the path of a checkpoint."""
    if "from_run" in origin:
        return Path(origin["from_run"]).name, origin.get("step")
    found = _CHECKPOINT.search(origin["weights"])
    return (found[1], int(found[2])) if found else (Path(origin["weights"]).name, None)


def _stage(origin: Origin) -> Stage:
    names = ("images_per_step", "data_num_slices", "data_fingerprint", "dinox_hf_commit", "sha256")
    return Stage(*_run_and_step(origin), *(origin.get(name) for name in names))
