"""Label efficiency in an evaluation: malignancy by rule A, few labels against a network trained from scratch."""

from typing import Any

import numpy as np

from ..cohorts.labels import MALIGNANCY_RULES
from ..cohorts.nodule_sources import digest_of
from ..pages.label_efficiency_figure import draw_label_efficiency
from ..pages.tables import figure, interval_text, table
from ..probes.few_labels import SHARES
from ..probes.from_scratch import FromScratchSettings
from ..probes.label_efficiency import CLAIMED_SHARE, FROM_SCRATCH, MIN_PATIENTS, LabelledCrops, label_efficiency
from ..probes.probe_suite import BACKBONE, NO_POOLING, RANDOM, SIZE, too_few
from .bench import Bench
from .part import Part, Report

_POOLINGS = ("cls", "mean", "max")
_RULE = MALIGNANCY_RULES[0]
_CAPTION = (
    "Area under the ROC curve over the share of training patients whose labels are used. Lines are means over the "
    "draws of patients, bands one standard deviation to either side."
)


def _measure(bench: Bench, report: Report) -> Report:
    nodules, settings = bench.material.nodules, FromScratchSettings()
    found = [_RULE.label(ratings) for ratings in nodules.ratings[_RULE.characteristic]]
    rows = np.array([index for index, label in enumerate(found) if label is not None], dtype=int)
    labels = np.array([found[row] for row in rows], dtype=int)
    patient_ids = nodules.patient_ids[rows]
    reason = _not_measured(labels, patient_ids)
    if reason:
        return {"label_efficiency": {"rule": _RULE.text, "not_measured": reason}}
    fields_hu = bench.material.source.fields(bench.material.field_mm, settings.size_px, "windows")[0][rows, 0]
    key = {"crops": digest_of([fields_hu])}  # of no backbone: its evaluations may share these scores
    random = [bench.features(twin) for twin in bench.subject.twins]
    features = {(SIZE, NO_POOLING): [nodules.diameter_mm[rows][:, None]]}
    for pooling in _POOLINGS:
        features[BACKBONE, pooling] = [bench.features(bench.subject.backbone)[pooling][rows]]
        features[RANDOM, pooling] = [twin[pooling][rows] for twin in random]
    record = label_efficiency(
        LabelledCrops(labels, patient_ids, fields_hu, key),
        features,
        bench.out / "scores",
        bench.num_threads,
        bench.settings.num_draws,
        settings,
        bench.now,
    )
    draw_label_efficiency(bench.figure("label_efficiency"), record)
    return {"label_efficiency": {"rule": _RULE.text, "not_measured": None} | record}


def _not_measured(labels: np.ndarray, patient_ids: np.ndarray) -> str | None:
    num_patients = len(np.unique(patient_ids))
    if num_patients < MIN_PATIENTS:
        return (
            f"labels of {num_patients} patients; at least {MIN_PATIENTS} are needed, or 1, 5 and 10 % of them are "
            f"nearly the same patients"
        )
    return too_few(labels, patient_ids)


def _verdict(report: Report) -> list[str]:
    record = report["label_efficiency"]
    if record["not_measured"]:
        return [f"Label efficiency: not measured – {record['not_measured']}."]
    # The pooling that needs the fewest labels; of those that never reach it, the nearest with all labels.
    best = min(
        (each for each in record["reached"] if each["features"] == BACKBONE),
        key=lambda each: (each["share"] or np.inf, -each["gains"][-1]["gain"]),
    )
    holds = best["share"] is not None and best["share"] <= CLAIMED_SHARE
    claim = f"The claim of {_percent(1 - CLAIMED_SHARE)} fewer labels {'holds' if holds else 'does not hold'} here"
    controls = [
        f"{each['features']}{_of(each)} {'with ' + _percent(each['share']) if each['share'] else 'never'}"
        for each in record["reached"]
        if each["features"] != BACKBONE
    ]
    return [f"Label efficiency: {_reaches(best, record)} {claim}. The controls reach it: {', '.join(controls)}."]


def _reaches(reached: dict[str, Any], record: dict[str, Any]) -> str:
    """One sentence about one features and the baseline."""
    last = next(curve for curve in record["curves"] if curve["features"] == FROM_SCRATCH)["points"][-1]
    against = f"the {last['auc']:.3f} of a network trained from scratch on all labels"
    of = f"the {reached['features']}{_of(reached)}"
    if reached["share"] is None:
        gain = reached["gains"][-1]
        return (
            f"{of} does not reach {against}, not even with all labels ({gain['gain']:+.3f}, 95 % interval "
            f"{interval_text(gain['interval'], '+.3f')})."
        )
    counts = next(counts for counts in record["shares"] if counts["share"] == reached["share"])
    gain = next(gain for gain in reached["gains"] if gain["share"] == reached["share"])
    return (
        f"{of} reaches {against} with {_percent(reached['share'])} of the training patients "
        f"({counts['patients']:.0f} of {record['shares'][-1]['patients']:.0f}; {gain['gain']:+.3f}, 95 % interval "
        f"{interval_text(gain['interval'], '+.3f')})."
    )


def _section(report: Report) -> str:
    record = report["label_efficiency"]
    title = "## How few labels are enough?"
    if record["not_measured"]:
        return f"{title}\n\nNot measured: {record['not_measured']}."
    shares = [
        f"{_percent(counts['share'])} ({counts['patients']:.0f} patients, {counts['nodules']:.0f} nodules)"
        for counts in record["shares"]
    ]
    rows = [
        [
            curve["features"],
            curve["pooling"],
            *(f"{p['auc']:.3f} ± {p['sd']:.3f} ({interval_text(p['interval'])})" for p in curve["points"]),
        ]
        for curve in record["curves"]
    ]
    reached = [
        [
            each["features"],
            each["pooling"],
            _percent(each["share"]) if each["share"] else "not reached",
            _percent(each["share_beyond_interval"]) if each["share_beyond_interval"] else "not reached",
            *(f"{gain['gain']:+.3f} ({interval_text(gain['interval'], '+.3f')})" for gain in each["gains"]),
        ]
        for each in record["reached"]
    ]
    against = "against the baseline with all labels"
    parts = [
        title,
        f"{record['rule']}. {record['num_nodules']} nodules ({record['num_positive']} positive) of "
        f"{record['num_patients']} patients.",
        table(["features", "pooling", *shares], rows),
        f"Mean AUC ± standard deviation over {record['num_draws']} draws of patients, and the 95 % interval by "
        f"patient. {_method(record)}",
        table(["features", "pooling", "reaches it from", "certain from", *map(_percent, SHARES)], reached),
        f"Difference of the AUC {against}, on the same nodules. `reaches it from` is the smallest share with a mean "
        f"at least as high, `certain from` the smallest whose interval lies above 0.",
        figure(report, "label_efficiency", _CAPTION),
    ]
    return "\n\n".join(part for part in parts if part)


def _method(record: dict[str, Any]) -> str:
    baseline = record["baseline"]
    return (
        f"Test folds are fixed ({record['num_folds']}, grouped by patient); a draw takes whole patients outside the "
        f"fold, with and without a positive nodule in the same share, at least one of each, so that none has one "
        f"class only: the smallest share is therefore larger than its name. At 100 % all draws hold the same "
        f"patients: probes of one network then do not vary, and the spread of the baseline is that of its random "
        f"start. AUC counts pairs within a fold. The baseline is a convolutional network (widths "
        f"{', '.join(map(str, baseline['widths']))}; lung, mediastinal and bone window at {baseline['size_px']} px, "
        f"{baseline['steps']} steps of {baseline['batch_size']} crops, flipped, turned and shifted), trained end to "
        f"end on the same labels; a vision transformer from random weights was not tried. Probes standardise features "
        f"by all training nodules, labelled or not."
    )


def _of(each: dict[str, Any]) -> str:
    return "" if each["pooling"] == NO_POOLING else f" ({each['pooling']})"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


LABEL_EFFICIENCY = Part("label efficiency", _measure, _section, _verdict)
