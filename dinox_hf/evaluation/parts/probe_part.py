"""The probes in an evaluation: every question, pooling and control on the same folds, before and after included."""

from typing import Any

from ..backbones.features import POOLINGS
from ..pages import figures
from ..pages.tables import figure, gain_interval, interval_text, table
from ..probes.before_after import before_after_line, before_after_part, before_after_record
from ..probes.probe_suite import ProbeInputs, answer_all, mean_gain, probe_record
from ..probes.shuffled_control import shuffled_line
from .bench import Bench
from .part import Part, Report

CAPTION = "Linear probes beside their controls: points are AUCs, lines 95 % intervals by patient."
# Rows of a probe's table: the backbone, what it must beat, what it adds to size, and the check of the procedure.
_ORDER = (
    "backbone",
    "starting weights",
    "random weights",
    "raw pixels, PCA-64",
    "size only",
    "backbone + size",
    "backbone, shuffled labels",
)


def cls_gain_line(gain: dict[str, Any] | None) -> str:
    """The one line that sums up the CLS probes of the nodule attributes."""
    if gain is None:
        return (
            "CLS probe gain over random weights: not measured, no nodule attribute has enough nodules of both classes."
        )
    return (
        f"CLS probe gain over random weights, mean over {len(gain['attributes'])} attributes: {gain['gain']:+.3f} AUC "
        f"(95 % interval {gain_interval(gain)}; {', '.join(gain['attributes'])})."
    )


def _measure(bench: Bench, report: Report) -> Report:
    inputs = _inputs(bench)
    answers = answer_all(inputs, bench.settings.num_seeds, bench.num_threads, bench.cache / "scores", bench.now)
    others = [mean_gain(answers, pooling) for pooling in POOLINGS if pooling != "cls"]
    probes = [probe_record(answer) for answer in answers]
    measured = [probe for probe in probes if probe["not_measured"] is None]
    if measured:
        figures.draw_probes(bench.figure("probes"), measured)
    return {
        "probes": probes,
        "cls_gain": mean_gain(answers),
        "other_gains": [gain for gain in others if gain is not None],
        "before_after": before_after_record(bench.subject.start, answers, bench.subject.config),
    }


def _inputs(bench: Bench) -> ProbeInputs:
    nodules = bench.material.nodules
    return ProbeInputs(
        patient_ids=nodules.patient_ids,
        diameter_mm=nodules.diameter_mm,
        ratings=nodules.ratings,
        trained=bench.features(bench.subject.backbone),
        start=bench.features(bench.start) if bench.start else None,
        random=[bench.features(twin) for twin in bench.subject.twins],
        pixels=bench.material.pixels,
        key={"networks": [bench.key(network) for network in bench.networks], "patients": nodules.patient_ids.tolist()},
    )


def _verdict(report: Report) -> list[str]:
    lines = [cls_gain_line(report["cls_gain"])]
    if gains := report["other_gains"]:
        listed = ", ".join(f"{g['pooling']} {g['gain']:+.3f} ({gain_interval(g)})" for g in gains)
        lines.append(f"The same gain with other poolings: {listed}.")
    if report["before_after"]:
        lines.append(before_after_line(report["before_after"]))
    lines.append(_malignancy_line(report["probes"]))
    if shuffled := shuffled_line(report["probes"]):
        lines.append(shuffled)
    return lines


def _section(report: Report) -> str:
    parts = [before_after_part(report["before_after"], report["probes"]), _probes(report)]
    return "\n\n".join(part for part in [*parts, figure(report, "probes", CAPTION)] if part)


def _malignancy_line(probes: list[dict[str, Any]]) -> str:
    probe = probes[0]
    if probe["not_measured"]:
        return f"Malignancy: not measured – {probe['not_measured']}."
    scores = {(score["features"], score["pooling"]): score["auc"] for score in probe["scores"]}
    return (
        f"Malignancy, rule A ({probe['num_nodules']} nodules of {probe['num_patients']} patients): CLS "
        f"{scores['backbone', 'cls']:.3f}, random weights {scores['random weights', 'cls']:.3f}, size alone "
        f"{scores['size only', '–']:.3f}, raw pixels {scores['raw pixels, PCA-64', '–']:.3f}."
    )


def _probes(report: dict[str, Any]) -> str:
    parts = ["## Linear probes on frozen features", cls_gain_line(report["cls_gain"])]
    missing = []
    for probe in report["probes"]:
        if probe["not_measured"]:
            missing.append(f"- not measured: {probe['question']} – {probe['not_measured']}.")
        else:
            parts.append(_probe(probe))
    return "\n\n".join([*parts, "\n".join(missing)] if missing else parts)


def _probe(probe: dict[str, Any]) -> str:
    rows = [
        [
            score["features"],
            score["pooling"],
            f"{score['auc']:.3f}",
            interval_text(score["interval"]),
            f"{min(score['auc_by_seed']):.3f}–{max(score['auc_by_seed']):.3f}",
        ]
        for score in sorted(probe["scores"], key=lambda score: _ORDER.index(score["features"]))
    ]
    gains = [
        [
            f"{gain['of']} over {gain['over']}",
            gain["pooling"],
            f"{gain['gain']:+.3f}",
            gain_interval(gain),
        ]
        for gain in sorted(probe["gains"], key=lambda gain: gain["of"])
    ]
    return (
        f"### {probe['question']}\n\n{probe['rule']}. {probe['num_nodules']} nodules ({probe['num_positive']} with "
        f"label 1) of {probe['num_patients']} patients.\n\n"
        + table(["features", "pooling", "AUC", "95 % interval", "range over seeds"], rows)
        + "\n\n"
        + table(["difference", "pooling", "AUC", "95 % interval, paired"], gains)
    )


PROBES = Part("probes", _measure, _section, _verdict)
