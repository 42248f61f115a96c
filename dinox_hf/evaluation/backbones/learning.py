"""Did the loop learn? The run's own numbers against four criteria, reached or not."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

_LAST_SHARE = 0.1  # final values are means over the last tenth of the logged steps
CLS_LOSS_BELOW_LOG_K = 0.3  # nats
ENTROPY_SHARE = 0.9
MIN_EFFECTIVE_RANK = 10.0
MIN_CLS_GAIN = 0.03


def latest_checkpoint(run: Path) -> Path:
    """The complete checkpoint with the highest step.

    Raises:
        ValueError: if there is none.
    """
    complete = [state.parent for state in run.glob("checkpoints/step_*/state.json")]
    if not complete:
        raise ValueError(
            f"Expected a complete checkpoint (checkpoints/step_*/state.json) in run folder {run}; found none. "
            f"Let training/pretrain.py reach its first save (save_every), or continue it with --resume."
        )
    return max(complete, key=lambda folder: int(folder.name.removeprefix("step_")))


def read_run(run: Path) -> dict[str, Any] | None:
    """The configuration of a run from its run.yaml; None for a folder that is no run."""
    path = run / "run.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def sets_of(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Folder and split of every set that a run was trained on, from its run.yaml."""
    data = run["data"]
    split = data.get("split") or "train"
    mixed = data.get("folders") or [{"folder": data["folder"]}]
    return [(part["folder"], part.get("split") or split) for part in mixed]


def read_metrics(run: Path) -> list[dict[str, float]]:
    """One dict a logged step; empty where nothing was logged. The half line of a killed run is left out."""
    path = run / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def final_value(records: list[dict[str, float]], name: str) -> float | None:
    """Mean over the last tenth of the logged steps; None if the metric was never logged."""
    values = [record[name] for record in records if record.get(name) is not None]
    last = values[-max(1, round(_LAST_SHARE * len(values))) :]
    return sum(last) / len(last) if last else None


def learning_facts(config: dict[str, Any] | None, records: list[dict[str, float]]) -> dict[str, Any]:
    """Where the run ended: CLS loss and teacher entropy beside log K, both in nats."""
    num_prototypes = config["dino_head"]["num_prototypes"] if config else None
    names = ("cls_loss", "teacher_entropy", "effective_rank", "dino_global", "dino_local", "ibot", "koleo", "gram")
    return {
        "num_prototypes": num_prototypes,
        "log_k": math.log(num_prototypes) if num_prototypes else None,
        "last_step": records[-1]["step"] if records else None,
        "final": {name: final_value(records, name) for name in names},
    }


def learning_criteria(
    facts: dict[str, Any], effective_rank: float, cls_gain: float | None
) -> list[dict[str, str | float | bool | None]]:
    """The four criteria: name, what it asks, the value, and whether it was reached (None: not measured).

    Args:
        facts: of `learning_facts`.
        effective_rank: of the CLS features of the collapse test.
        cls_gain: CLS probe minus CLS probe of random weights, mean over the nodule attributes.
    """
    log_k, final = facts["log_k"], facts["final"]
    margin = None if log_k is None or final["cls_loss"] is None else log_k - final["cls_loss"]
    share = None if log_k is None or final["teacher_entropy"] is None else final["teacher_entropy"] / log_k
    return [
        _criterion("CLS loss below log K", margin, CLS_LOSS_BELOW_LOG_K, "nats"),
        _criterion("marginal teacher entropy", share, ENTROPY_SHARE, "of log K", strictly=True),
        _criterion("effective rank of CLS features", effective_rank, MIN_EFFECTIVE_RANK, "dimensions"),
        _criterion("CLS probe gain over random weights", cls_gain, MIN_CLS_GAIN, "AUC, mean over attributes"),
    ]


def _criterion(name: str, value: float | None, least: float, unit: str, strictly: bool = False) -> dict[str, Any]:
    reached = None if value is None else value > least if strictly else value >= least
    return {"name": name, "asks": f"{'>' if strictly else '≥'} {least:g} {unit}", "value": value, "reached": reached}
