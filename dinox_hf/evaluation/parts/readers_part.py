"""The readers in an evaluation: the malignancy probe beside four opinions, and each reader beside the others."""

from typing import Any

import numpy as np

from ..cohorts.labels import MALIGNANCY_RULES, MIN_READERS
from ..pages.tables import interval_text, table
from ..probes.probe_suite import BACKBONE, NO_POOLING, RANDOM, SIZE, Question, too_few
from ..probes.reader_agreement import NUM_BINS, READER, reader_agreement
from .bench import Bench
from .part import Part, Report

_POOLINGS = ("cls", "mean", "max")
_RULE = MALIGNANCY_RULES[0]
_COLUMNS = {
    "spearman_mean": "Spearman, mean rating",
    "spearman_others": "Spearman, other readers",
    "auc_others": "AUC, other readers",
    "calibration_labels": "ECE, label",
    "calibration_share": "ECE, share of readers",
    "spearman_spread": "Spearman, spread of readers",
}


def _measure(bench: Bench, report: Report) -> Report:
    nodules = bench.material.nodules
    labels = Question(_RULE.name, _RULE).labels(nodules)
    known = ~np.isnan(labels)
    reason = too_few(labels[known].astype(int), nodules.patient_ids[known])
    if reason:
        return {"readers": {"rule": _RULE.text, "not_measured": reason}}
    features = {(SIZE, NO_POOLING): [nodules.diameter_mm[:, None]]}
    for pooling in _POOLINGS:
        features[BACKBONE, pooling] = [bench.features(bench.subject.backbone)[pooling]]
        features[RANDOM, pooling] = [bench.features(twin)[pooling] for twin in bench.subject.twins]
    record = reader_agreement(
        nodules.ratings[_RULE.characteristic], nodules.patient_ids, _RULE, features, bench.settings.num_seeds
    )
    return {"readers": {"rule": _RULE.text, "not_measured": None} | record}


def _verdict(report: Report) -> list[str]:
    record = report["readers"]
    if record["not_measured"]:
        return [f"Readers: not measured – {record['not_measured']}."]
    if record["readers"] is None:
        return [f"Readers: agreement among them not measured, no nodule has more than {MIN_READERS}."]
    scores = {(score["features"], score["pooling"]): score for score in record["scores"]}
    shown = [(BACKBONE, "cls"), (RANDOM, "cls"), (SIZE, NO_POOLING)]
    probes = ", ".join(f"{name} {_text(scores[name, pooling]['auc_others'])}" for name, pooling in shown)
    return [
        f"Readers: judged by the others of its scan, one reader scores AUC {_text(record['readers']['auc_others'])}; "
        f"on the same {record['num_left_out_labelled']} opinions {probes}."
    ]


def _section(report: Report) -> str:
    record = report["readers"]
    title = "## Does the probe agree with the readers as they do with one another?"
    if record["not_measured"]:
        return f"{title}\n\nNot measured: {record['not_measured']}."
    rows = [
        [score["features"], score["pooling"], *(_text(score.get(name)) for name in _COLUMNS)]
        for score in record["scores"]
    ]
    if record["readers"]:
        rows.append([READER, NO_POOLING, *(_text(record["readers"].get(name)) for name in _COLUMNS)])
    return "\n\n".join(
        [
            title,
            table(["features", "pooling", *_COLUMNS.values()], rows),
            f"{record['num_nodules']} nodules of {record['num_patients']} patients, rated by {MIN_READERS} readers or "
            f"more; the probe is fitted to those {record['num_labelled']} that the rule labels ({_RULE.name}) and "
            f"scores all of them out of fold. `Other readers`: of nodules with three readers or more, each is left "
            f"out in turn and the mean rating, or the label by the rule, of the others is the truth, for probe and "
            f"reader alike ({record['num_left_out']} opinions on {record['num_left_out_nodules']} nodules; "
            f"{record['num_left_out_labelled']} of them with a label). The columns of LIDC-IDRI are no persons: "
            f"who read first or second changes from scan to scan, so readers are exchangeable and every one left out "
            f"counts alike. A reader has five steps where a probe has a scale: its ties cost it some AUC. ECE: "
            f"expected calibration error of the probability in {NUM_BINS} bins, by the label, and by the share of "
            f"readers who rated above 3 (3 counts one half). `Spread`: p (1 − p) against the standard deviation of "
            f"the ratings, positive where the probe hesitates over what readers dispute. Intervals resample patients; "
            f"ECE has none, since resampling raises it.",
        ]
    )


def _text(found: dict[str, Any] | None) -> str:
    if found is None:
        return NO_POOLING
    bounds = f" ({interval_text(found['interval'])})" if found["interval"] else ""
    return f"{found['value']:.3f}{bounds}"


READERS = Part("readers", _measure, _section, _verdict)
