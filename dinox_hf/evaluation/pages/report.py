"""The report of an evaluation: the same numbers as report.json for programs, report.md and report.html for people."""

import json
from collections.abc import Sequence
from pathlib import Path

from ..parts.part import Part, Report
from ..probes.probe_suite import MIN_NODULES, MIN_PATIENTS
from .html_report import html_page


def write_report(report: Report, parts: Sequence[Part], folder: Path) -> None:
    """Write report.json, report.md, and the same text with its figures as report.html."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(report, parts)
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(html_page(text, folder), encoding="utf-8")


def markdown(report: Report, parts: Sequence[Part]) -> str:
    """The report for people: a verdict first, then every part."""
    verdict = "\n".join(f"- {line}" for part in parts for line in part.verdict(report))
    sections = [
        _heading(report),
        f"## Verdict\n\n{verdict}",
        *(part.section(report) for part in parts),
        _method(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _heading(report: Report) -> str:
    backbone, data = report["backbone"], report["data"]
    shape = backbone["architecture"]
    splits = ", ".join(_split(name, counts) for name, counts in data["splits"].items())
    checkpoint = f", checkpoint {backbone['checkpoint']}" if backbone["checkpoint"] else ""
    return (
        f"# Evaluation of {backbone['name']}{checkpoint}\n\n"
        f"Backbone: width {shape['hidden_size']}, {shape['num_hidden_layers']} layers, "
        f"{shape['num_attention_heads']} heads, patches of {shape['patch_size']} px. "
        f"Data: {data['name']} ({splits}). {data['seen_in_pretraining']}\n\n"
        f"Research use only; ratings are radiologists' opinions, not pathology."
    )


def _split(name: str, counts: dict[str, int]) -> str:
    if "num_slices" not in counts:
        return f"{counts['num_nodules']} nodules of {counts['num_patients']} patients, one patch of one slice each"
    return (
        f"{name}: {counts['num_slices']} slices of {counts['num_patients']} patients, {counts['num_nodules']} nodules"
    )


def _method(report: Report) -> str:
    settings = report["settings"]
    field_mm, is_25d = f"{settings['field_mm']:g}", report["backbone"]["channels"] == "neighbours"
    whole = report["data"]["has_outlines"]
    shown_on = "its middle slice" if whole else "the one slice there is of it"
    air = "beyond the slice there is air" if whole else "beyond the patch there is air"
    air += "; that slice stands for its neighbours too" if not whole and is_25d else ""
    return (
        f"## How it was measured\n\n"
        f"A nodule is a {field_mm} × {field_mm} mm square around its middle on {shown_on}, resampled to "
        f"{settings['size_px']} px; {air}. Poolings cls, mean, max and cls+mean come from one forward pass; "
        f" mean and max run over the patch tokens.\n\n"
        f"Probes: standardised features, logistic regression, C chosen inside each fold, up to five folds grouped by "
        f"patient, {settings['num_seeds']} seeds; AUC of the out-of-fold scores, mean over seeds, interval by 1000 "
        f"bootstrap resamples of patients. A probe is run where each class has at least {MIN_NODULES} nodules "
        f"of {MIN_PATIENTS} patients.\n\n"
        f"Controls. Random weights: {settings['num_random']} networks of the same architecture, initialised as "
        f"pretraining would, spread over the seeds. Size only: the nodule's diameter. Raw pixels: 64 principal "
        f"components of the field in HU, fitted inside each fold. Shuffled labels: the whole procedure on permuted "
        f"labels, which must give about 0.5; the verdict names probes whose interval leaves it out.\n\n"
        f"Weights {report['backbone']['weights_digest']}, data {report['data']['fingerprint']}."
    )
