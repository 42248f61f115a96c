"""The test of a trained head, once, beside what needs no training: nodule size, and probes on frozen features."""

from typing import Any

import numpy as np

from ...metrics.auroc import auroc
from ..backbones.features import Backbone, pooled_features, random_twin
from ..cohorts.labelled_nodules import Cohort, NoduleCrops
from ..cohorts.splits import patient_resamples
from ..pages.tables import interval_text
from ..probes.linear_probe import STRENGTHS, interval, score_probe
from ..probes.logistic_regression import fit_many
from ..probes.probe_suite import MATCHED_MM, too_few

HEAD, FROZEN_PROBE, RANDOM_PROBE, SIZE = "head", "frozen linear probe", "random weights, linear probe", "size only"
_MIN_NODULES = 5  # of each class, for a score within a range of sizes


def control_scores(backbone: Backbone, crops: NoduleCrops, pooling: str) -> dict[str, np.ndarray]:
    """Score every nodule by what stands beside the head.

    The probes see the middle slice, are fitted to the training part, and take their strength by the AUC on the
    validation part: what the head may use, and no more.

    Args:
        backbone: as it was before the head was trained.
        crops: the nodules.
        pooling: of the tokens, as for the head.

    Returns:
        (n,) scores of the whole cohort by name.

    Raises:
        ValueError: if a feature is not finite.
    """
    cohort = crops.cohort
    middle = crops.num_slices // 2
    fields_hu = np.stack([crops.fields_hu(index, np.zeros(2))[middle] for index in range(len(cohort.nodules))])
    spacing_mm = np.full((len(fields_hu), 2), crops.spacing_mm)
    scores = {}
    for name, network in ((FROZEN_PROBE, backbone), (RANDOM_PROBE, random_twin(backbone, seed=0))):
        scores[name] = _probe(pooled_features(network, fields_hu, spacing_mm)[pooling], cohort)
    return scores | {SIZE: np.array([nodule.diameter_mm for nodule in cohort.nodules])}


def score_test(cohort: Cohort, scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """AUC of every score on the test part, with a 95 % interval by patient and the head's gain over each control.

    Args:
        cohort: the nodules.
        scores: (n,) by name, "head" among them; read on the test part only.

    Returns:
        One record for all sizes, and one for 6 to 14 mm: how many nodules, or why it was not measured, and the scores;
        their intervals are None where `no_interval` says why.
    """
    diameters = np.array([nodule.diameter_mm for nodule in cohort.nodules])
    is_test = cohort.parts == "test"
    is_matched = is_test & (diameters >= MATCHED_MM[0]) & (diameters <= MATCHED_MM[1])
    return [
        _stratum("all sizes", cohort, np.flatnonzero(is_test), scores),
        _stratum(f"{MATCHED_MM[0]:g}–{MATCHED_MM[1]:g} mm", cohort, np.flatnonzero(is_matched), scores),
    ]


def log_loss(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean negative log likelihood of labels 0 and 1, in nats; scores are logits of label 1."""
    return float(np.logaddexp(0, np.where(labels == 1, -1, 1) * scores).mean())


def result_lines(report: dict[str, Any]) -> str:
    """The test as a few lines of text."""
    lines = [f"{'test part':<28} {'scored by':<30} {'AUC':>6}   95 % by patient"]
    for stratum in report["test"] or []:
        where = f"{stratum['name']}: {stratum['num_nodules']} ({stratum['num_patients']})"
        lines += [f"{where:<28} not measured, {stratum['not_measured']}"] if stratum["not_measured"] else []
        lines += [
            f"{where:<28} {score['features']:<30} {score['auc']:>6.3f}   "
            + (interval_text(score["interval"]) if score["interval"] else "none")
            for score in stratum["scores"]
        ]
        lines += [no_interval_line(stratum)] if stratum["scores"] and stratum["no_interval"] else []
    return "\n".join(lines) if report["test"] else "Not tested: training did not end."


def no_interval_line(stratum: dict[str, Any]) -> str:
    """The sentence beside AUCs without an interval."""
    return f"So few nodules or patients carry no interval – {stratum['name']}: {stratum['no_interval']}."


def refuse_not_finite(features: np.ndarray) -> None:
    """Stop before a head is trained on features that are no numbers.

    Raises:
        ValueError: with how many there are.
    """
    wrong = int((~np.isfinite(features)).any(axis=1).sum())
    if wrong:
        raise ValueError(
            f"A head needs finite features; found NaN or infinite ones for {wrong} of {len(features)} nodules. Look "
            f"at the training curves of the backbone: a run that diverged gives such features. Take an earlier "
            f"checkpoint."
        )


def _probe(features: np.ndarray, cohort: Cohort) -> np.ndarray:
    """(n,) scores of a logistic regression fitted to the training part."""
    refuse_not_finite(features)
    use_row = np.repeat((cohort.parts == "train")[:, None], len(STRENGTHS), axis=1)
    fitted = fit_many(features, np.repeat(cohort.labels[:, None], len(STRENGTHS), axis=1), use_row, STRENGTHS)
    rows = cohort.indices("validation")
    best = np.argmax([auroc(cohort.labels[rows], column[rows]) for column in fitted.T])
    return fitted[:, best]


def _stratum(name: str, cohort: Cohort, rows: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    labels, patients = cohort.labels[rows], cohort.patient_ids[rows]
    record = {
        "name": name,
        "num_nodules": len(rows),
        "num_label_1": int(labels.sum()),
        "num_patients": len(np.unique(patients)),
        "not_measured": None,
        "no_interval": too_few(labels, patients),
        "scores": [],
    }
    has_interval = record["no_interval"] is None
    least = min(int((labels == value).sum()) for value in (0, 1))
    if least < (1 if name == "all sizes" else _MIN_NODULES):
        return record | {"not_measured": f"only {least} nodules of one class"}
    resamples = patient_resamples(patients)
    measured = {key: score_probe(labels, values[rows][:, None], resamples) for key, values in scores.items()}
    for key, score in measured.items():
        entry = {"features": key, "auc": score.auc, "interval": [score.low, score.high] if has_interval else None}
        if key != HEAD:
            difference = measured[HEAD].resampled - score.resampled
            entry["head_gain"] = measured[HEAD].auc - score.auc
            entry["head_gain_interval"] = list(interval(difference)) if has_interval else None
        record["scores"].append(entry)
    return record
