"""From nodule patches to a set that training reads: one row a patch, images only, split in halves by patient."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import yaml

from .durable_files import write_text_whole, write_whole
from .leaks import check_no_leak
from .schema import SLICE_FEATURES, slice_table, write_table
from .sources.lidc_patches import HALVES, NodulePatches, half_of

RECORD = "patch_set.json"
_FORMAT = 1  # raise it when the same patches would give another set


def build_patch_set(patches: NodulePatches, out: str | Path) -> dict:
    """Write the set; a set of the same patches that is there already stays as it is.

    No rating, diameter or label goes into it, so pretraining cannot see any.

    Args:
        patches: the nodules.
        out: folder of the set, new or empty, or holding one built before.

    Returns:
        What is in the set: counts by half, and the digest of the patches.

    Raises:
        ValueError: if `out` holds something else, a half would be empty, or a series has patients in both.
    """
    out = Path(out)
    halves = [half_of(patient_id) for patient_id in patches.patient_ids]
    check_no_leak(halves, patches.patient_ids, patches.series_ids, "the halves")
    record = {"format": _FORMAT, "patches": patches.digest, "splits": _counts(patches, halves)}
    if (out / RECORD).is_file():
        if json.loads((out / RECORD).read_text()) == record:
            return record
        raise ValueError(
            f"{out} should be new or hold the set of these patches ({patches.digest}); found a set of others. Choose "
            f"another folder, or delete this one first."
        )
    _clear(out)
    for half in HALVES:
        rows = [index for index, own in enumerate(halves) if own == half]
        if not rows:
            raise ValueError(
                f"Expected patients in both halves; found all of {len(set(patches.patient_ids))} in one. A split by "
                f"patient needs patches of more patients."
            )
        table = pa.concat_tables([slice_table(patches.volume(index), 0, 1) for index in rows])
        write_whole(_shard(out, half), lambda path, table=table: write_table(table, path))
    write_text_whole(out / "README.md", _card(record))
    write_text_whole(out / RECORD, json.dumps(record, indent=1) + "\n")  # last: it marks a finished set
    return record


def _shard(out: Path, half: str) -> Path:
    (out / "slices").mkdir(parents=True, exist_ok=True)
    return out / "slices" / f"{half}-00000-of-00001.parquet"


def _clear(out: Path) -> None:
    """Take away what an interrupted build left; refuse to touch anything else."""
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in names if name not in ("slices", "README.md")]
    if foreign or (out.exists() and not out.is_dir()):
        found = f"{foreign[0]!r} in it" if foreign else "a file"
        raise ValueError(
            f"{out} should be a new or empty folder, or a set of patches; found {found}. Choose another folder."
        )
    shutil.rmtree(out / "slices", ignore_errors=True)


def _counts(patches: NodulePatches, halves: list[str]) -> dict[str, dict[str, int]]:
    return {
        half: {
            "num_patches": halves.count(half),
            "num_patients": len({p for p, own in zip(patches.patient_ids, halves, strict=True) if own == half}),
        }
        for half in HALVES
    }


def _card(record: dict) -> str:
    metadata = {
        "pretty_name": "LIDC-IDRI nodule patches",
        "license": "cc-by-3.0",
        "tags": ["medical", "ct"],
        "configs": [
            {
                "config_name": "slices",
                "data_files": [{"split": half, "path": f"slices/{half}-*.parquet"} for half in HALVES],
                "default": True,
            }
        ],
        "dataset_info": {"config_name": "slices", "features": SLICE_FEATURES._to_yaml_list()},
    }
    counts = "; ".join(
        f"{half}: {count['num_patches']} patches of {count['num_patients']} patients"
        for half, count in record["splits"].items()
    )
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# LIDC-IDRI nodule patches\n\n"
        f"One row is one square patch of a slice with a nodule in its middle, in HU: images only, without labels. "
        f"Split by patient, from a hash of the pseudonym. {counts}.\n\n"
        f"From LIDC-IDRI, The Cancer Imaging Archive, doi.org/10.7937/K9/TCIA.2015.LO9QL9SX (CC BY 3.0); cut by "
        f"github.com/mtzig/LIDC_GDRO (MIT). For research. Not for diagnosis or any decision about a patient.\n"
    )
