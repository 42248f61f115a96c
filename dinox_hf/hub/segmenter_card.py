"""The card of a segmentation head: its report.json, filled into model_card/segmenter.md.

report.json is written beside the adapter at every better epoch, and once more when the test part was looked at.
"""

import json
import re
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from ..evaluation.cohorts.labelled_nodules import NoduleCrops
from ..evaluation.heads.segmentation_config import SegmentationConfig
from ..evaluation.pages.tables import interval_text, table
from .card import facts_table, template, validate_metadata
from .head_card_words import CHANNELS, licence_and_tags, licences, notice, spacing_argument
from .head_facts import data_facts, lineage_facts, low_rank_words

_DECODERS = {"linear": "one linear layer", "conv": "three convolutions (256, 128, classes)"}
_MODES = {"frozen": "on the frozen backbone", "lora": "with LoRA beneath", "dora": "with DoRA beneath"}


def segmenter_report(
    config: SegmentationConfig, base: dict[str, Any], crops: NoduleCrops, model: nn.Module
) -> dict[str, Any]:
    """Everything that is known before training; the script adds epochs and scores.

    Args:
        config: of the training.
        base: of `base_facts`.
        crops: the nodules.
        model: ready to be trained.
    """
    return {
        "task": "segmentation",
        "status": "training",
        "base": base,
        "mode": config.adaptation.mode,
        "low_rank": low_rank_words(config.adaptation),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "decoder": config.decoder.kind,
        "field_mm": config.crops.field_mm,
        "shift_mm": config.crops.shift_mm,
        "size_px": crops.size_px,
        "channels": crops.processor.channels,
        "is_metric": model.config.rope_coordinates == "metric",
        "data": data_facts(crops, Path(config.data.folder)),
        "best": {},
        "num_cases": None,
        "test": None,
        "no_interval": None,
        "lineage": lineage_facts(base, crops, config.seed),
    }


def write_segmenter_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json and the card into a head's folder."""
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(render_segmenter_card(report), encoding="utf-8")


def render_segmenter_card(report: dict[str, Any]) -> str:
    """The whole README.md of a segmentation head, its metadata checked.

    Raises:
        ValueError: if the metadata lacks what the Hub asks for.
    """
    base, data = report["base"], report["data"]
    name = f"Nodule outlines, {base['name']}, {data['name']}"
    train = data["parts"]["train"]
    words = {
        "metadata": _metadata(report, name).to_yaml(),
        "name": name,
        "summary": f"Where in a square of CT is the lung nodule? A decoder on patch tokens, "
        f"{_DECODERS[report['decoder']]}, {_MODES[report['mode']]}, trained on {train['nodules']} nodules of "
        f"{train['patients']} patients, on top of {base['name']}.",
        "notice": notice(report),
        "size_px": report["size_px"],
        "field_mm": f"{report['field_mm']:g}",
        "shift_mm": f"{report['shift_mm']:g}",
        "spacing": spacing_argument(report),
        "channels_words": CHANNELS[report["channels"]],
        "training": _training(report),
        "results": _results(report),
        "lineage": facts_table(list(report["lineage"].items())),
        "licence": _licence(report),
    }
    text = re.sub(r"\n{3,}", "\n\n", Template(template("segmenter.md")).substitute(words))
    validate_metadata(text)
    return text


def _metadata(report: dict[str, Any], name: str) -> ModelCardData:
    results = _eval_results(report)
    return ModelCardData(
        **licence_and_tags(report),
        library_name="peft",
        pipeline_tag="image-segmentation",
        model_name=name if results else None,
        eval_results=results or None,
    )


def _eval_results(report: dict[str, Any]) -> list[EvalResult]:
    """The head's mean Dice; its name carries interval and controls, without which it says little."""
    dice = {r["score"].removeprefix("dice, "): r for r in report["test"] or [] if r["score"].startswith("dice")}
    if not dice:
        return []
    head, *controls = dice
    interval = dice[head]["interval"]
    certainty = f"95 % interval {interval_text(interval)}" if interval else "too few patients for an interval"
    beside = ", ".join(f"{name} {dice[name]['mean']:.3f}" for name in controls)
    data = report["data"]["name"]
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Nodule outlines",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-"),
            dataset_name=data,
            metric_type="dice",
            metric_value=round(dice[head]["mean"], 3),
            metric_name=f"Dice ({certainty}; {beside})",
        )
    ]


def _training(report: dict[str, Any]) -> str:
    parts = [
        (f"{part.capitalize()} part", f"{count['nodules']} nodules of {count['patients']} patients")
        for part, count in report["data"]["parts"].items()
    ]
    best = report["best"]
    return facts_table(
        [
            ("Data set", report["data"]["name"]),
            *parts,
            ("Head", _DECODERS[report["decoder"]]),
            ("Trained", f"{_MODES[report['mode']]}: {report['trained_parameters']:,} parameters"),
            ("Low-rank updates", report["low_rank"]),
            ("Loss", "0.4 cross-entropy + 0.6 Dice"),
            ("Best epoch", best.get("epoch")),
            ("Validation Dice", best and f"{best['validation_dice']:.3f}, by which the epoch was chosen: no result"),
        ]
    )


def _results(report: dict[str, Any]) -> str:
    if not report["test"]:
        return "Not measured: this head was saved while it was being trained. The test part was not looked at."
    rows = [
        [
            record["score"],
            f"{record['mean']:.3f}",
            interval_text(record["interval"]) if record["interval"] else "none",
        ]
        for record in report["test"]
    ]
    told = (
        f"Means over {report['num_cases']} nodules. The test part was looked at once, after training. Its patients "
        f"are in no other part."
    )
    parts = (table(["score", "mean", "95 % interval by patient"], rows), report["no_interval"], told)
    return "\n\n".join(part for part in parts if part)


def _licence(report: dict[str, Any]) -> str:
    terms, told = licences(report)
    return f"This head is derived from the weights of {report['base']['name']} and stays under their {terms}. {told}"
