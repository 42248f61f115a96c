"""Evaluations side by side: of each report, the one table and the few lines that fit on a page."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from ..parts.part import Report
from ..probes.probe_suite import BACKBONE, BOTH_SIZE, NO_POOLING, PIXELS, RANDOM, SHUFFLED, SIZE
from .figure_style import BLUE, GREEN, GREY, ORANGE, PRINT_WIDTH, band, save, style
from .tables import interval_text, table

_COLUMNS = ((BACKBONE, "cls"), (RANDOM, "cls"), (BACKBONE, "max"), (RANDOM, "max"), (PIXELS, NO_POOLING))
_COLUMNS += ((SIZE, NO_POOLING), (BOTH_SIZE, "cls"), (SHUFFLED, "cls"))


def comparison_record(name: str, report: Report) -> dict[str, Any]:
    """What a page shows of one report.json, in numbers of four decimals."""
    field = next(iter(report.get("attention", [])), None)
    return {
        "name": name,
        "images": f"{report['settings']['field_mm']:g} mm at {report['settings']['size_px']} px",
        "data": {key: report["data"][key] for key in ("name", "fingerprint", "num_nodules", "num_patients")},
        "seen": report["data"]["seen_in_pretraining"],
        "probes": [_probe(probe) for probe in report["probes"]],
        "mean_gains": [
            {"pooling": gain["pooling"], "gain": round(gain["gain"], 4), "interval": _rounded(gain["interval"])}
            for gain in ([report["cls_gain"]] if report["cls_gain"] else []) + report["other_gains"]
        ],
        "num_attributes": len(report["cls_gain"]["attributes"]) if report["cls_gain"] else 0,
        "rank": {
            network: round(scores["effective_rank"], 1) for network, scores in report["collapse"]["nodules"].items()
        },
        "attention": None if field is None else _attention(field),
    }


def comparison_markdown(records: list[dict[str, Any]]) -> str:
    """Tables of the records, made of them and of nothing else."""
    return "\n\n".join(_section(record) for record in records) + "\n"


def draw_comparison(path: Path, records: list[dict[str, Any]]) -> None:
    """One panel an evaluation, one line a question: the backbone beside random weights and controls.

    Args:
        path: the PNG; an SVG is written beside it.
        records: of `comparison_record`.
    """
    shown = [
        ((BACKBONE, "cls"), BLUE, "o"),
        ((RANDOM, "cls"), GREY, "o"),
        ((BACKBONE, "max"), BLUE, "s"),
        ((RANDOM, "max"), GREY, "s"),
        ((PIXELS, NO_POOLING), GREEN, "^"),
        ((SIZE, NO_POOLING), ORANGE, "D"),
    ]
    measured = {probe["question"] for record in records for probe in record["probes"] if not probe["not_measured"]}
    questions = [probe["question"] for probe in records[0]["probes"] if probe["question"] in measured]
    with style(axes__spines__left=False):
        size = (PRINT_WIDTH, 0.5 * len(questions) + 0.9)
        figure, axes = plt.subplots(1, len(records), figsize=size, sharex=True, sharey=True, layout="constrained")
        for axis, record in zip([axes] if len(records) == 1 else axes, records, strict=True):
            probes = {probe["question"]: probe for probe in record["probes"]}
            for position, question in enumerate(questions):
                band(axis, position)
                probe = probes[question]
                found = {(each["features"], each["pooling"]): each for each in probe["scores"]}
                for line, (key, colour, marker) in enumerate(shown):
                    if key in found:
                        y = position + 0.13 * (line - (len(shown) - 1) / 2)
                        axis.plot(found[key]["interval"], [y, y], color=colour, linewidth=1.0, alpha=0.6)
                        point = {"color": colour, "markersize": 3.4, "label": _label(key), "zorder": 3}
                        axis.plot(found[key]["auc"], y, marker, **point)
            axis.axvline(0.5, color=GREY, linestyle="--", linewidth=0.9)
            axis.set(title=record["name"], xlabel="AUC", ylim=(len(questions) - 0.5, -0.5))
            axis.tick_params(axis="y", length=0)
            axis.grid(visible=False, axis="y")
            if axis.get_subplotspec().is_first_col():
                axis.set_yticks(range(len(questions)), questions)
                handles = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
                figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
        save(figure, path)


def _label(key: tuple[str, str]) -> str:
    return key[0] if key[1] == NO_POOLING else f"{key[0]} ({key[1]})"


def _probe(probe: dict[str, Any]) -> dict[str, Any]:
    counts = {key: probe[key] for key in ("question", "num_nodules", "num_positive", "num_patients", "not_measured")}
    scores = [
        {
            "features": score["features"],
            "pooling": score["pooling"],
            "auc": round(score["auc"], 4),
            "interval": _rounded(score["interval"]),
        }
        for score in probe["scores"]
        if (score["features"], score["pooling"]) in _COLUMNS
    ]
    return counts | {"scores": scores}


def _attention(field: dict[str, Any]) -> dict[str, Any]:
    names = (f"{BACKBONE}, mean of heads", f"{RANDOM}, mean of heads", "centre prior")
    maps = {
        name: {key: round(field["maps"][name][key], 4) for key in ("pointing", "above_chance", "auprc", "chance")}
        for name in names
    }
    return {"field_mm": round(field["field_mm"], 2), "size_px": field["size_px"], "maps": maps}


def _section(record: dict[str, Any]) -> str:
    rows, missing = [], []
    for probe in record["probes"]:
        if probe["not_measured"]:
            missing.append(f"Not measured: {probe['question']}, {probe['not_measured']}.")
            continue
        found = {(score["features"], score["pooling"]): score for score in probe["scores"]}
        cells = [f"{found[key]['auc']:.3f} ({_interval(found[key]['interval'])})" for key in _COLUMNS]
        counts = f"{probe['num_nodules']} ({probe['num_positive']}), {probe['num_patients']}"
        rows.append([probe["question"], counts, *cells])
    gains = "; ".join(
        f"{gain['pooling']} {gain['gain']:+.3f} ({interval_text(gain['interval'], '+.3f')})"
        for gain in record["mean_gains"]
    )
    data, ranks = record["data"], ", ".join(f"{name} {rank:g}" for name, rank in record["rank"].items())
    lines = [
        f"### {record['name'][0].upper()}{record['name'][1:]}",
        f"{data['num_nodules']} nodules of {data['num_patients']} patients, {record['images']}. {record['seen']}",
        table(["question", "nodules (label 1), patients", *(_label(key) for key in _COLUMNS)], rows),
        f"AUC gained over random weights, mean over {record['num_attributes']} attributes: {gains}.",
        f"Effective rank of CLS features: {ranks}.",
    ]
    if record["attention"]:
        listed = "; ".join(
            f"{name} {scores['pointing']:.3f} ({scores['above_chance']:+.3f} over chance), AUPRC {scores['auprc']:.3f}"
            for name, scores in record["attention"]["maps"].items()
        )
        side_mm = record["attention"]["field_mm"]
        lines.append(f"Pointing game of CLS attention on discs of the nodules' area, {side_mm:.3g} mm: {listed}.")
    return "\n\n".join([*lines, *missing])


def _rounded(bounds: list[float]) -> list[float]:
    return [round(bound, 4) for bound in bounds]


def _interval(bounds: list[float]) -> str:
    return f"{bounds[0]:.2f}–{bounds[1]:.2f}"
