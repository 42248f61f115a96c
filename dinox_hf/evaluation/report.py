"""The report of an evaluation: the same numbers as report.json for programs and report.md for people."""

import json
from pathlib import Path
from typing import Any

from .before_after import before_after_line, before_after_part
from .shuffled_control import shuffled_line
from .tables import gain_interval, interval_text, table

_CAPTIONS = {
    "attention": "CLS attention of the last layer, mean over heads, on nodules chosen by their rank in size. The "
    "field is shifted at random, so that the middle is no give-away. Outlined: what half of the readers or more drew.",
    "patch_colours": "First three principal components of the patch tokens inside the body as red, green and blue; "
    "air is black. Equal colours mean similar tokens, within one column.",
    "training_curves": "Training curves. A CLS loss at log K means that the student learned nothing from the teacher.",
    "probes": "Linear probes beside their controls: points are AUCs, lines 95 % intervals by patient.",
}


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


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write report.json and report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    (folder / "report.md").write_text(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """The report for people: a verdict first, then every table."""
    parts = [
        _heading(report),
        _verdict(report),
        _learning(report["learning"]),
        _figure(report, "training_curves"),
        before_after_part(report["before_after"], report["probes"]),
        _probes(report),
        _figure(report, "probes"),
        _collapse(report["collapse"]),
        _figure(report, "patch_colours"),
        _attention(report["attention"]),
        _figure(report, "attention"),
        _method(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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


def _heading(report: dict[str, Any]) -> str:
    backbone, data = report["backbone"], report["data"]
    shape = backbone["architecture"]
    splits = ", ".join(
        f"{name}: {split['num_slices']} slices of {split['num_patients']} patients, {split['num_nodules']} nodules"
        for name, split in data["splits"].items()
    )
    checkpoint = f", checkpoint {backbone['checkpoint']}" if backbone["checkpoint"] else ""
    return (
        f"# Evaluation of {backbone['name']}{checkpoint}\n\n"
        f"Backbone: width {shape['hidden_size']}, {shape['num_hidden_layers']} layers, "
        f"{shape['num_attention_heads']} heads, patches of {shape['patch_size']} px. "
        f"Data: {data['name']} ({splits}). {data['seen_in_pretraining']}\n\n"
        f"Research use only; ratings are radiologists' opinions, not pathology."
    )


def _verdict(report: dict[str, Any]) -> str:
    criteria = report["learning"]["criteria"]
    measured = [criterion for criterion in criteria if criterion["reached"] is not None]
    reached = [criterion for criterion in measured if criterion["reached"]]
    lines = [
        f"- Learning: {len(reached)} of {len(measured)} measured criteria reached"
        + "".join(f"; **not reached: {c['name']}**" for c in measured if not c["reached"])
        + "".join(f"; not measured: {c['name']}" for c in criteria if c["reached"] is None)
        + ".",
        f"- {cls_gain_line(report['cls_gain'])}",
        *_other_poolings(report["other_gains"]),
        *([f"- {before_after_line(report['before_after'])}"] if report["before_after"] else []),
        f"- {_malignancy_line(report['probes'])}",
        *([f"- {shuffled}"] if (shuffled := shuffled_line(report["probes"])) else []),
        f"- {_attention_line(report['attention'][0])}",
    ]
    return "## Verdict\n\n" + "\n".join(lines)


def _other_poolings(gains: list[dict[str, Any]]) -> list[str]:
    """The same mean gain with the other poolings, whatever it says."""
    if not gains:
        return []
    listed = ", ".join(f"{g['pooling']} {g['gain']:+.3f} ({gain_interval(g)})" for g in gains)
    return [f"- The same gain with other poolings: {listed}."]


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


def _attention_line(field: dict[str, Any]) -> str:
    trained, random = field["maps"]["backbone, mean of heads"], field["maps"]["random weights, mean of heads"]
    return (
        f"Attention on nodules, mean of heads ({trained['num_nodules']} nodules, {field['field_mm']:g} mm field): "
        f"AUPRC {trained['auprc']:.3f}, random weights {random['auprc']:.3f}, "
        f"centre prior {field['maps']['centre prior']['auprc']:.3f}, chance {trained['chance']:.3f}; pointing game "
        f"{trained['pointing']:.3f}, random weights {random['pointing']:.3f}, "
        f"centre prior {field['maps']['centre prior']['pointing']:.3f}."
    )


def _learning(learning: dict[str, Any]) -> str:
    rows = []
    for criterion in learning["criteria"]:
        value = "not measured" if criterion["value"] is None else f"{criterion['value']:.3f}"
        reached = {True: "yes", False: "**no**", None: "–"}[criterion["reached"]]
        rows.append([criterion["name"], criterion["asks"], value, reached])
    text = "## Does the loop learn?\n\n" + table(["criterion", "asks", "value", "reached"], rows)
    if learning["log_k"] is None or learning["last_step"] is None:
        return text + "\n\nThe backbone comes without its training curves."
    final = ", ".join(f"{name} {value:.3f}" for name, value in learning["final"].items() if value is not None)
    return text + (
        f"\n\nAfter {learning['last_step']} steps with {learning['num_prototypes']} prototypes "
        f"(log K = {learning['log_k']:.3f} nats), mean of the last tenth of the log: {final}."
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


def _collapse(collapse: dict[str, Any]) -> str:
    rows = []
    for images, networks in collapse.items():
        for network, scores in networks.items():
            ratio = scores["between_within"]
            rows.append(
                [
                    f"{images} ({scores['num_images']} of {scores['num_patients']} patients)",
                    network,
                    f"{scores['std_mean']:.3g}",
                    f"{scores['std_min']:.3g}",
                    f"{scores['num_dead']} of {scores['width']}",
                    f"{scores['effective_rank']:.1f}",
                    f"{scores['effective_rank_centred']:.1f}",
                    "one patient" if ratio is None else f"{ratio:.3f}",
                ]
            )
    header = ["CLS features of", "network", "std, mean", "std, least", "dead dimensions"]
    header += ["effective rank", "… centred", "between / within patients"]
    return (
        "## Do features collapse?\n\n"
        + table(header, rows)
        + "\n\nStandard deviations are per dimension, over images. Effective rank is RankMe (arXiv:2210.02885), of "
        "the features as they are and after subtracting their mean. The last column is the mean distance between "
        "images of different patients over that within a patient."
    )


def _attention(fields: list[dict[str, Any]]) -> str:
    parts = ["## Does attention find the nodule?"]
    for field in fields:
        parts.append(f"### {field['field_mm']:g} mm field at {field['size_px']} px")
        rows = [[name, *_attention_row(scores)] for name, scores in field["maps"].items()]
        header = [
            "map",
            "nodules",
            "pointing",
            "above chance",
            "95 % interval",
            "IoU at 60 % mass",
            "AUPRC",
            "95 % interval",
        ]
        parts.append(table(header, rows))
        rows = []
        for stratum in field["by_diameter"]:
            high = stratum["to_mm"]
            name = f"{stratum['from_mm']:g}–{high:g} mm" if high is not None else f"≥ {stratum['from_mm']:g} mm"
            for map_ in ("backbone, mean of heads", "random weights, mean of heads"):
                rows.append([name, map_, *_attention_row(stratum["maps"][map_])])
        parts.append(table(["diameter", *header], rows))
    chance = fields[0]["maps"]["centre prior"]["chance"], fields[-1]["maps"]["centre prior"]["chance"]
    parts.append(
        f"CLS attention of the last layer, upsampled to the field, against the mask of at least half of the readers. "
        f"Each field is shifted off its nodule by a random amount up to a quarter of its side; the centre prior, a "
        f"Gaussian in the middle, shows what is left of that advantage. Pointing is the share of nodules that hold "
        f"the map's maximum; a blind map hits {chance[0]:.3f} and {chance[1]:.3f} in the two fields, which `above "
        f"chance` takes out. The best head is chosen by AUPRC on one half of the patients and scored on the other."
    )
    return "\n\n".join(parts)


def _attention_row(scores: dict[str, Any]) -> list[str]:
    return [
        str(scores["num_nodules"]),
        f"{scores['pointing']:.3f}",
        f"{scores['above_chance']:+.3f}",
        interval_text(scores["above_chance_interval"], "+.3f"),
        f"{scores['iou']:.3f}",
        f"{scores['auprc']:.3f}",
        interval_text(scores["auprc_interval"]),
    ]


def _method(report: dict[str, Any]) -> str:
    settings = report["settings"]
    field_mm = f"{settings['field_mm']:g}"
    return (
        f"## How it was measured\n\n"
        f"A nodule is a {field_mm} × {field_mm} mm square around its middle on its middle slice, resampled to "
        f"{settings['size_px']} px; beyond the slice there is air. Poolings cls, mean, max and cls+mean come from one "
        f"forward pass; mean and max run over the patch tokens.\n\n"
        f"Probes: standardised features, logistic regression, C chosen inside each fold, up to five folds grouped by "
        f"patient, {settings['num_seeds']} seeds; AUC of the out-of-fold scores, mean over seeds, interval by 1000 "
        f"bootstrap resamples of patients. A probe is run where each class has at least 10 nodules of 5 patients.\n\n"
        f"Controls. Random weights: {settings['num_random']} networks of the same architecture, initialised as "
        f"pretraining would, spread over the seeds. Size only: the nodule's diameter. Raw pixels: 64 principal "
        f"components of the field in HU, fitted inside each fold. Shuffled labels: the whole procedure on permuted "
        f"labels, which must give about 0.5; the verdict names probes whose interval leaves it out.\n\n"
        f"Weights {report['backbone']['weights_digest']}, data {report['data']['fingerprint']}."
    )


def _figure(report: dict[str, Any], name: str) -> str:
    path = report["figures"].get(name)
    return f"![{_CAPTIONS[name]}]({path})\n\n*{_CAPTIONS[name]}*" if path else ""
