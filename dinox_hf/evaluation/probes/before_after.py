"""Before and after: what pretraining made of the weights it started from, on the same images, folds and resamples."""

import math
from typing import Any

from ..backbones.features import POOLINGS
from ..backbones.starting_weights import StartingWeights
from ..pages.tables import gain_interval, table
from .probe_suite import BACKBONE, START, Answer, mean_gain

_SHOWN = ("cls", "mean")  # the other poolings stand with each probe


def before_after_record(
    start: StartingWeights | None, answers: list[Answer], run: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """Who was compared, and the mean gain over the attributes by pooling; each probe's own gain stands with it.

    Args:
        start: of `starting_weights`.
        answers: to the questions, with scores of the starting weights unless they are missing.
        run: the run.yaml, which tells whether adapters were trained or every weight.
    """
    if start is None:
        return None
    gains = [mean_gain(answers, pooling, START) for pooling in POOLINGS] if start.backbone else []
    return {
        "name": start.name,
        "missing": start.missing,
        "weights_digest": start.backbone.digest if start.backbone else None,
        "lora_rank": ((run or {}).get("lora") or {}).get("rank"),
        "gains": [gain for gain in gains if gain is not None],
    }


def before_after_line(record: dict[str, Any]) -> str:
    """The one line that sums it up, or says why there is nothing to sum up; and that adapters were trained."""
    rank = record.get("lora_rank")
    trained = f" LoRA of rank {rank} was trained; the weights under it stayed as they were." if rank else ""
    return _summary(record) + trained


def _summary(record: dict[str, Any]) -> str:
    if record["missing"]:
        return f"Before and after: not measured. The run started from {record['name']}; {record['missing']}."
    if not record["gains"]:
        return (
            f"Before and after: {record['name']} was evaluated too, but no nodule attribute has enough nodules of "
            f"both classes for a mean."
        )
    first = record["gains"][0]
    listed = "; ".join(f"{gain['pooling']} {gain['gain']:+.3f} ({gain_interval(gain)})" for gain in record["gains"])
    return (
        f"Before and after: AUC gained over the starting weights ({record['name']}), mean over "
        f"{len(first['attributes'])} attributes with 95 % interval: {listed}."
    )


def before_after_part(record: dict[str, Any] | None, probes: list[dict[str, Any]]) -> str:
    """The part of the report; empty for a run that began with a random draw."""
    if record is None:
        return ""
    parts = ["## Before and after", before_after_line(record)]
    measured = [probe for probe in probes if probe["not_measured"] is None]
    if not record["missing"] and measured:
        rows = [row for probe in measured for row in _rows(probe)]
        parts.append(table(["probe", "pooling", "before", "after", "difference", "95 % interval, paired"], rows))
        parts.append(
            f"Before: {record['name']}, weights {record['weights_digest']}, which this run started from. Both see the "
            f"same pixels and are probed on the same folds; the difference is resampled by patient. Where its "
            f"interval spans 0, these nodules do not tell the two apart; of {len(rows)} rows, about "
            f"{math.ceil(len(rows) / 20)} may miss 0 by chance alone."
        )
    return "\n\n".join(parts)


def _rows(probe: dict[str, Any]) -> list[list[str]]:
    aucs = {(score["features"], score["pooling"]): score["auc"] for score in probe["scores"]}
    gains = {gain["pooling"]: gain for gain in probe["gains"] if gain["over"] == START}
    return [
        [
            probe["question"],
            pooling,
            f"{aucs[START, pooling]:.3f}",
            f"{aucs[BACKBONE, pooling]:.3f}",
            f"{gains[pooling]['gain']:+.3f}",
            gain_interval(gains[pooling]),
        ]
        for pooling in _SHOWN
    ]
