"""Whom pretraining has seen: the patients of every set of a run and of the runs that it goes on from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from .learning import read_run, sets_of


@dataclass(frozen=True)
class PretrainingPatients:
    """Patients whose images a run was trained on, without labels."""

    seen: frozenset[str]
    unknown: tuple[str, ...]  # what could not be looked up, so that more patients may have been seen

    def record(self, patient_ids: np.ndarray) -> dict[str, Any]:
        """How many of the evaluated patients and nodules were seen, as plain numbers."""
        is_seen = np.isin(patient_ids, sorted(self.seen))
        return {
            "num_patients_seen": len(np.unique(patient_ids[is_seen])),
            "num_patients": len(np.unique(patient_ids)),
            "num_nodules_seen": int(is_seen.sum()),
            "num_nodules": len(patient_ids),
            "unknown": list(self.unknown),
        }


def pretraining_patients(run: Path, config: dict[str, Any]) -> PretrainingPatients:
    """Look up the patients of a run's sets, where these still are.

    Args:
        run: its folder; a relative path in run.yaml is looked for in the working folder and in those above the run.
        config: its run.yaml.
    """
    seen, unknown = set(), []
    for folder, split in sets_of(config):
        shards = _shards(run, folder, split)
        if not shards:
            unknown.append(f"the set {Path(folder).name}, which is no longer where it was")
        for shard in shards:
            seen.update(pq.read_table(shard, columns=["patient_id"])["patient_id"].to_pylist())
    origin = (config.get("lineage") or {}).get("origin")
    if origin:
        before = _from(run, origin["from_run"]) if "from_run" in origin else None
        earlier = read_run(before) if before else None
        if earlier is None:
            unknown.append("what the weights that it started from were trained on")
        else:
            found = pretraining_patients(before, earlier)
            seen |= found.seen
            unknown += [reason for reason in found.unknown if reason not in unknown]
    return PretrainingPatients(frozenset(seen), tuple(unknown))


def seen_text(record: dict[str, Any] | None, unseen_only: bool) -> str:
    """One sentence or two on whom pretraining has seen.

    Args:
        record: of `PretrainingPatients.record`; None where nothing is known of the pretraining.
        unseen_only: whether the seen ones were left out.
    """
    if record is None:
        return "Whether pretraining saw these images is not known: the backbone comes without its run.yaml."
    seen, num = record["num_patients_seen"], record["num_patients"]
    if unseen_only:
        text = "Patients whose images pretraining saw were left out."
    elif seen:
        text = (
            f"Pretraining saw images of {seen} of these {num} patients, without labels ({record['num_nodules_seen']} "
            f"of {record['num_nodules']} nodules are theirs). No label was used before the probe."
        )
    else:
        text = f"Pretraining saw images of none of these {num} patients."
    return " ".join([text, *(f"Not checked: {reason}." for reason in record["unknown"])])


def _shards(run: Path, folder: str, split: str) -> list[Path]:
    place = _from(run, folder)
    return sorted((place / "slices").glob(f"{split}-*.parquet")) if place else []


def _from(run: Path, folder: str) -> Path | None:
    """A folder of a run.yaml: as written, or below one of the folders that the run lies in."""
    places = [Path(folder), *(parent / folder for parent in run.resolve().parents)]
    return next((place for place in places if place.is_dir()), None)
