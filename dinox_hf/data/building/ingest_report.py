"""ingest_report.json: what is in a set, what is not and why, and what to look at."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from ..volume import Rejection
from .plan import Plan

NOT_REPORTED = ("key", "file_bytes")  # how a piece lies on the disk of one machine


def make_report(plan: Plan, records: Sequence[dict], refused: Sequence[Rejection]) -> dict:
    """The ingest report.

    Args:
        plan: what was to be built.
        records: of the finished pieces, in the order of the plan; each is given its `split`.
        refused: series whose pixels could not be read.

    Returns:
        A plain dict that depends on the input and the options alone: no time, no machine, no path outside the input.
    """
    num_patients = len({record["patient_id"] for record in records})
    for record in records:
        record["split"] = split_of(record["patient_id"], num_patients)
    rejections = [*plan.rejections, *sorted(refused, key=lambda rejection: (rejection.path, rejection.reason))]
    warnings = plan.warnings + [warning for record in records for warning in record["warnings"]]
    # These cost a scan, a slice of one, or its annotations; other rejections were never meant to be part of the set.
    lost = [entry for entry in rejections if entry.loses != "nothing"]
    warnings += [f"{entry.path}: {entry.reason}" for entry in lost]
    readers = Counter(count for record in records for count in record["readers_per_nodule"])
    splits = [split for split in ("train", "test") if any(record["split"] == split for record in records)]
    return {
        "input_fingerprint": plan.fingerprint,
        **_counts(records),
        "nodules_by_num_readers": {str(count): readers[count] for count in sorted(readers)},
        "splits": {split: _counts([r for r in records if r["split"] == split]) for split in splits},
        "warnings": warnings,
        "rejections": [asdict(rejection) for rejection in rejections],
        "series": [{name: record[name] for name in record if name not in NOT_REPORTED} for record in records],
    }


def _counts(records: Sequence[dict]) -> dict[str, int]:
    num_small_nodules = sum(record["num_small_nodules"] for record in records)
    num_non_nodules = sum(record["num_non_nodules"] for record in records)
    return {
        "num_patients": len({record["patient_id"] for record in records}),
        "num_series": len(records),
        "num_slices": sum(record["size"][0] for record in records),
        "num_nodules": sum(len(record["readers_per_nodule"]) for record in records),
        "num_marks": num_small_nodules + num_non_nodules,
        "num_small_nodules": num_small_nodules,
        "num_non_nodules": num_non_nodules,
        "slices_bytes": sum(2 * record["size"][0] * record["size"][1] * record["size"][2] for record in records),
        "nodules_bytes": sum(record["nodules_bytes"] for record in records),
        "marks_bytes": sum(record["marks_bytes"] for record in records),
    }


def split_of(patient_id: str, num_patients: int) -> str:
    """The split of a patient: by a hash, so that it stays the same when other patients join the set."""
    draw = int(hashlib.sha256(f"dinox split {patient_id}".encode()).hexdigest()[:8], 16) / 16**8
    return "train" if num_patients < 5 or draw < 0.8 else "test"
