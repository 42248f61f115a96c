"""The results of an evaluation as the model card shows them: every score beside its controls, every pooling named."""

import re
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.parts.probe_part import cls_gain_line
from ..evaluation.probes.before_after import before_after_line
from ..evaluation.probes.probe_suite import BACKBONE, NO_POOLING, PIXELS, RANDOM, SIZE, questions


def results_section(report: dict[str, Any]) -> str:
    """The card's section of results, from report.json.

    Args:
        report: what `dinox_hf.evaluation.suite.evaluate` wrote.
    """
    data = report["data"]
    parts = [
        f"Frozen features of {data['num_nodules']} nodules of {data['num_patients']} patients. "
        f"{data['seen_in_pretraining']} Ratings are radiologists' opinions, not pathology.",
        "### Linear probes",
        cls_gain_line(report["cls_gain"]),
        before_after_line(report["before_after"]) if report.get("before_after") else "",
        _probes(report["probes"]),
        _figure(report, "probes", "Linear probes beside their controls"),
        "### Attention on nodules",
        _attention(report["attention"][0]),
        _figure(report, "attention", "CLS attention on nodules; outlined: where at least half of the readers drew"),
        "### Training and features",
        _criteria(report),
        _figure(report, "training_curves", "Training curves"),
        _figure(report, "patch_colours", "First three principal components of the patch tokens as colours"),
    ]
    return "\n\n".join(part for part in parts if part)


def eval_results(report: dict[str, Any], dataset_name: str) -> list[EvalResult]:
    """What the metadata says in numbers: malignancy by the first rule, over all sizes and among equals in size.

    Always of the CLS token, which is what `pooler_output` hands out, so that nobody chooses a pooling by its score;
    interval and controls stand in the name of each. All other questions and poolings are in the card's tables.
    """
    headline = {question.name for question in questions()[:2]}
    return [
        _eval_result(probe, scores, scores[BACKBONE, "cls"], "cls", dataset_name)
        for probe in _measured(report["probes"])
        if probe["question"] in headline and (BACKBONE, "cls") in (scores := _scores(probe))
    ]


def _eval_result(
    probe: dict[str, Any], scores: dict[tuple[str, str], dict], score: dict[str, Any], pooling: str, dataset_name: str
) -> EvalResult:
    return EvalResult(
        task_type="image-classification",
        task_name=f"Linear probe: nodule {probe['question']}",
        dataset_type=re.sub(r"[^a-z0-9]+", "-", dataset_name.lower()).strip("-"),
        dataset_name=dataset_name,
        # Without it the Hub's format would file all questions under the first one's name.
        dataset_config=probe["question"],
        metric_type="roc_auc",
        metric_value=round(score["auc"], 3),
        metric_name=f"AUC, {pooling} pooling (95 % interval {score['interval'][0]:.3f} to {score['interval'][1]:.3f}; "
        f"random weights {scores[RANDOM, pooling]['auc']:.3f}, size only {scores[SIZE, NO_POOLING]['auc']:.3f}, "
        f"raw pixels {scores[PIXELS, NO_POOLING]['auc']:.3f})",
    )


def _probes(probes: list[dict[str, Any]]) -> str:
    """One row for each question and pooling; size and pixels, which have no pooling, stand in each."""
    header = ["question", "nodules (patients)", "pooling", BACKBONE, RANDOM, SIZE, PIXELS]
    rows = []
    for probe in _measured(probes):
        scores = _scores(probe)
        for pooling in [pooling for features, pooling in scores if features == BACKBONE]:
            compared = [(BACKBONE, pooling), (RANDOM, pooling), (SIZE, NO_POOLING), (PIXELS, NO_POOLING)]
            cells = [_with_interval(scores[name]["auc"], scores[name]["interval"]) for name in compared]
            rows.append([probe["question"], f"{probe['num_nodules']} ({probe['num_patients']})", pooling, *cells])
    missing = [f"- {p['question']}: not measured, {p['not_measured']}." for p in probes if p["not_measured"]]
    table = _table(header, rows) + "\n\nAUC with its 95 % interval by patient." if rows else ""
    return "\n\n".join(part for part in (table, "\n".join(missing)) if part)


def _attention(field: dict[str, Any]) -> str:
    header = ["map", "nodules", "AUPRC", "pointing game", "chance"]
    rows = [
        [
            name,
            str(scores["num_nodules"]),
            _with_interval(scores["auprc"], scores["auprc_interval"]),
            f"{scores['pointing']:.3f}",
            f"{scores['chance']:.3f}",
        ]
        for name, scores in field["maps"].items()
    ]
    return _table(header, rows) + f"\n\nCLS attention of the last layer in a field of {field['field_mm']:g} mm."


def _criteria(report: dict[str, Any]) -> str:
    words = {True: "yes", False: "no", None: "not measured"}
    rows = [
        [
            criterion["name"],
            criterion["asks"],
            "–" if criterion["value"] is None else f"{criterion['value']:.3f}",
            words[criterion["reached"]],
        ]
        for criterion in report["learning"]["criteria"]
    ]
    slices = report["collapse"]["slices"]
    return (
        _table(["criterion", "asks", "value", "reached"], rows)
        + f"\n\nEffective rank of CLS features over {slices[BACKBONE]['num_images']} slices: "
        + f"{slices[BACKBONE]['effective_rank']:.1f}, random weights {slices[RANDOM]['effective_rank']:.1f}."
    )


def _figure(report: dict[str, Any], name: str, caption: str) -> str:
    path = report["figures"].get(name)
    return f"![{caption}]({path})" if path else ""


def _measured(probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [probe for probe in probes if probe["not_measured"] is None]


def _scores(probe: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(score["features"], score["pooling"]): score for score in probe["scores"]}


def _with_interval(value: float, interval: list[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
