"""The card of a trained head: its report.json, filled into model_card/adapter.md; nothing that the report lacks."""

import re
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..evaluation.heads.head_scores import HEAD, no_interval_line
from ..evaluation.pages.tables import interval_text
from ..tasks.adapter_files import LOCAL_BASE
from .card import NOT_MEASURED, facts_table, template, validate_metadata
from .head_card_words import CHANNELS, licence_and_tags, licences, notice, spacing_argument
from .head_facts import HUB_ID

_MODES = {
    "frozen": "a head on the frozen backbone",
    "lora": "LoRA and a head",
    "dora": "DoRA and a head",
    "partial": "the last blocks and a head",
    "full": "all weights and a head",
}
_UNFINISHED = {
    "training": "Not measured: this head was saved while it was being trained. The test part was not looked at.",
    "interrupted": "Not measured: training was interrupted. The test part was not looked at.",
}

_PEFT_SNIPPET = """Or with peft, on a base that is loaded already; `merge_and_unload()` makes one classifier of both:

```python
from peft import PeftModel
from transformers import AutoModelForImageClassification

base = AutoModelForImageClassification.from_pretrained("$base", trust_remote_code=True)
model = PeftModel.from_pretrained(base, "$repo").eval()
merged = model.merge_and_unload()
```"""


def render_head_card(report: dict[str, Any], repo: str = ".") -> str:
    """The whole README.md of a head, its metadata checked.

    Args:
        report: what training/finetune_classification.py knows.
        repo: what the snippets load: the folder itself, or a name on the Hub.

    Raises:
        ValueError: if the metadata lacks what the Hub asks for.
    """
    base, is_adapter = report["base"], report["mode"] != "full"
    slices = report["head"]["slices"]
    size = f"3, {report['size_px']}, {report['size_px']}"
    name = f"Nodule malignancy, {base['name']}, {report['data']['name']}"
    words = {
        "metadata": _metadata(report, name).to_yaml(),
        "name": name,
        "summary": f"Is a lung nodule on CT suspicious? {_sentence(_MODES[report['mode']])}, trained on "
        f"{report['data']['parts']['train']['nodules']} nodules of {report['data']['parts']['train']['patients']} "
        f"patients, on top of {base['name']}.",
        "notice": notice(report),
        "repo": repo,
        "load_hint": _load_hint(report, repo),
        "peft_snippet": _PEFT_SNIPPET.replace("$base", base["path"]).replace("$repo", repo) if is_adapter else "",
        "shape": f"1, {size}" if slices == 1 else f"1, {slices}, {size}",
        "shape_words": "images, channels, rows, columns"
        if slices == 1
        else f"lesions, slices {report['head']['slice_step_mm']:g} mm apart, channels, rows, columns",
        "spacing": spacing_argument(report),
        "positive": report["classes"][1],
        "field_mm": f"{report['field_mm']:g}",
        "size_px": report["size_px"],
        "channels_words": CHANNELS[report["channels"]],
        "rule": report["rule"],
        "training": _training(report),
        "results": _results(report),
        "lineage": facts_table(list(report["lineage"].items())),
        "licence": _licence(report),
    }
    text = re.sub(r"\n{3,}", "\n\n", Template(template("adapter.md")).substitute(words))
    validate_metadata(text)
    return text


def _metadata(report: dict[str, Any], name: str) -> ModelCardData:
    results = _eval_results(report)
    base_id = {"base_model": report["base"]["path"]} if HUB_ID.fullmatch(report["base"]["path"]) else {}
    return ModelCardData(
        **licence_and_tags(report),
        **base_id,
        library_name="transformers" if report["mode"] == "full" else "peft",
        pipeline_tag="image-classification",
        model_name=name if results else None,
        eval_results=results or None,
    )


def _eval_results(report: dict[str, Any]) -> list[EvalResult]:
    """The head's AUC by range of sizes; its name carries interval and controls, without which it says little."""
    results = []
    for stratum in report["test"] or []:
        if stratum["not_measured"] is None:
            scores = {score["features"]: score for score in stratum["scores"]}
            interval = scores[HEAD]["interval"]
            certainty = f"95 % interval {interval_text(interval)}" if interval else "too few patients for an interval"
            controls = ", ".join(f"{name} {score['auc']:.3f}" for name, score in scores.items() if name != HEAD)
            results.append(
                EvalResult(
                    task_type="image-classification",
                    task_name=f"Nodule malignancy, {stratum['name']}",
                    dataset_type=re.sub(r"[^a-z0-9]+", "-", report["data"]["name"].lower()).strip("-"),
                    dataset_name=report["data"]["name"],
                    dataset_config=stratum["name"],
                    metric_type="roc_auc",
                    metric_value=round(scores[HEAD]["auc"], 3),
                    metric_name=f"AUC ({certainty}; {controls})",
                )
            )
    return results


def _load_hint(report: dict[str, Any], repo: str) -> str:
    base = report["base"]["path"]
    if report["mode"] != "full" and base == LOCAL_BASE:
        return (
            f"This folder holds what was trained, and links to its base, the folder `{LOCAL_BASE}` beside it: move "
            f"both together, links as links. The snippets run inside this folder; elsewhere, write its path for `.`. "
            f"For the Hub, upload the base and train with its name there as `--base_id`."
        )
    here = "The snippets run inside this folder; elsewhere, write its path for `.`." if repo == "." else ""
    if report["mode"] == "full":
        return here
    return f"This folder holds what was trained, without the base `{base}`, which is read beside it. {here}"


def _training(report: dict[str, Any]) -> str:
    parts = report["data"]["parts"]
    counted = [
        (
            f"{part.capitalize()} part",
            f"{count['nodules']} nodules ({count['label_1']} {report['classes'][1]}) of {count['patients']} patients",
        )
        for part, count in parts.items()
    ]
    head = report["head"]
    kind = f"{head['pooling']} of the tokens" + (
        f", {head['slices']} slices pooled by attention" if head["slices"] > 1 else ", one slice"
    )
    return facts_table(
        [
            ("Data set", report["data"]["name"]),
            *counted,
            ("Head", kind),
            ("Trained", f"{_MODES[report['mode']]}: {report['trained_parameters']:,} parameters"),
            *([("Low-rank updates", report["low_rank"])] if report["low_rank"] else []),
            ("Epochs", f"{report['epochs']}, the best by validation AUC was {report['best_epoch']}"),
            ("Validation AUC", f"{report['validation_auc']:.3f}, by which the epoch was chosen: no result"),
        ]
    )


def _results(report: dict[str, Any]) -> str:
    if report["status"] in _UNFINISHED:
        return _UNFINISHED[report["status"]]
    if not report["test"]:
        return NOT_MEASURED
    lines = [
        "| nodules (patients) | scored by | AUC (95 % interval by patient) | head better by |",
        "|---|---|---|---|",
    ]
    missing = []
    for stratum in report["test"]:
        if stratum["not_measured"]:
            missing.append(f"- {stratum['name']}: not measured, {stratum['not_measured']}.")
        elif stratum["no_interval"]:
            missing.append(f"- {no_interval_line(stratum)}")
        for score in stratum["scores"]:
            gain = (
                "–" if score["features"] == HEAD else _with_interval(score["head_gain"], score["head_gain_interval"])
            )
            where = f"{stratum['name']}: {stratum['num_nodules']} ({stratum['num_patients']})"
            lines.append(
                f"| {where} | {score['features']} | {_with_interval(score['auc'], score['interval'])} | {gain} |"
            )
    told = "The test part was looked at once, after training. Its patients are in no other part."
    return "\n\n".join(part for part in ("\n".join(lines), "\n".join(missing), told) if part)


def _licence(report: dict[str, Any]) -> str:
    terms, told = licences(report)
    return (
        f"This head works only with the weights of {report['base']['name']} and is derived from them: it stays "
        f"under their {terms}. {told}"
    )


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _with_interval(value: float, interval: list[float] | None) -> str:
    return f"{value:.3f} ({interval_text(interval)})" if interval else f"{value:.3f}"
