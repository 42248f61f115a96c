"""How far the size of a nodule alone answers whether radiologists thought it malignant: the figure to stand beside.

Radiologists rate big as bad. So a feature earns credit for malignancy only where it beats the diameter, by the same
label rule, on the same nodules, and within a range of sizes as well.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..probes.linear_probe import score_probe
from ..probes.probe_suite import MATCHED_MM
from .labels import MALIGNANCY_RULES, LabelRule
from .splits import patient_resamples

READER_LIMITS = (1, 2, 3)  # at least so many readers; 2 is what the rules ask for elsewhere


@dataclass(frozen=True)
class SizedNodule:
    """A nodule without its pixels."""

    patient_id: str
    diameter_mm: float
    malignancy: tuple[int | None, ...]  # of every reader who outlined it


@dataclass(frozen=True)
class SizeOnlyScore:
    """Area under the ROC curve of the diameter, by one label rule on some of the nodules."""

    rule: str
    min_readers: int
    diameter_range_mm: tuple[float, float] | None
    num_nodules: int
    num_malignant: int
    num_patients: int
    auc: float | None  # None where a class is absent
    low: float | None  # 95 % interval, bootstrap by patient
    high: float | None


def sized_nodules(rows: Iterable[dict]) -> list[SizedNodule]:
    """Take what size alone needs from rows of NODULE_FEATURES."""
    return [SizedNodule(row["patient_id"], row["diameter_mm"], tuple(row["malignancy"])) for row in rows]


def size_only_scores(nodules: Sequence[SizedNodule], num_resamples: int = 1000) -> Iterator[SizeOnlyScore]:
    """Every label rule of malignancy, for each number of readers, over all sizes and within 6 to 14 mm.

    Args:
        nodules: of any number of patients.
        num_resamples: of the bootstrap by patient.
    """
    for min_readers in READER_LIMITS:
        for diameter_range_mm in (None, MATCHED_MM):
            for rule in MALIGNANCY_RULES:
                yield size_only_score(nodules, rule, min_readers, diameter_range_mm, num_resamples)


def size_only_score(
    nodules: Sequence[SizedNodule],
    rule: LabelRule,
    min_readers: int,
    diameter_range_mm: tuple[float, float] | None = None,
    num_resamples: int = 1000,
) -> SizeOnlyScore:
    """One label rule on the nodules with enough readers and of the right size.

    Args:
        nodules: of any number of patients.
        rule: what counts as malignant.
        min_readers: who must have rated.
        diameter_range_mm: smallest and largest diameter, both included.
        num_resamples: of the bootstrap by patient.
    """
    low_mm, high_mm = diameter_range_mm or (0.0, np.inf)
    labelled = [(nodule, rule.label(nodule.malignancy, min_readers)) for nodule in nodules]
    used = [
        (nodule, label) for nodule, label in labelled if label is not None and low_mm <= nodule.diameter_mm <= high_mm
    ]
    labels = np.array([label for _, label in used], dtype=int)
    patients = np.array([nodule.patient_id for nodule, _ in used], dtype=str)
    score = None
    if len(set(labels.tolist())) == 2:
        diameters = np.array([[nodule.diameter_mm] for nodule, _ in used])
        score = score_probe(labels, diameters, patient_resamples(patients, num_resamples))
    return SizeOnlyScore(
        rule=rule.name,
        min_readers=min_readers,
        diameter_range_mm=diameter_range_mm,
        num_nodules=len(used),
        num_malignant=int(labels.sum()),
        num_patients=len(set(patients.tolist())),
        auc=score and score.auc,
        low=score and score.low,
        high=score and score.high,
    )
