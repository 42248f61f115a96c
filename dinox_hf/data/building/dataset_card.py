"""README.md of a built set: the YAML that `load_dataset` reads, and the text that a person reads."""

from collections import Counter
from importlib import resources
from pathlib import Path
from string import Template

import yaml

from ..schema import FEATURES

COUNTED = ("patients", "series", *FEATURES)
# What the card says of names, by whether they are salted.
NAMES_KEPT = {
    True: "PatientID, SeriesInstanceUID and SOPInstanceUID stand in the set as pseudonyms, and so do the names of "
    "files and of readers' findings: hashes (HMAC-SHA256; UIDs under 2.25.) with a secret salt that is no part of the "
    "set. The same patient has the same pseudonym in every set built with that salt.",
    False: "PatientID, SeriesInstanceUID and SOPInstanceUID stand in the set as they stood in the files, and so do "
    "the readers' own names of their findings and, in `ingest_report.json`, the names of files. ",
}
PUBLIC = "They are the public pseudonyms of the collection."
NOT_PUBLIC = (
    "**Whether they lead to a patient is not known here**: before the set is shared, build it with `--salt-file`."
)


def render_card(report: dict, collection: dict, are_salted: bool = False) -> str:
    """Fill the dataset card.

    Args:
        report: the ingest report.
        collection: name, license, origin, citation, and is_public.
        are_salted: whether ids and paths are salted hashes.

    Returns:
        The text of README.md.
    """
    by_readers = Counter(report["nodules_by_num_readers"])
    return Template(_read_template()).substitute(
        collection,
        metadata=yaml.safe_dump(_metadata(report, collection), sort_keys=False).strip(),
        folder="FOLDER_OR_REPOSITORY",
        names_kept=NAMES_KEPT[are_salted]
        + ("" if are_salted else PUBLIC if collection.get("is_public") else NOT_PUBLIC),
        nodules_by_readers=", ".join(f"{readers}: {count}" for readers, count in sorted(by_readers.items())) or "none",
        split_table="\n".join(
            f"| {split} | " + " | ".join(str(row[f"num_{what}"]) for what in COUNTED) + " |"
            for split, row in report["splits"].items()
        ),
        num_refused=sum(rejection["loses"] == "scan" for rejection in report["rejections"]),
        **{key: value for key, value in report.items() if key.startswith("num_")},
    )


def _metadata(report: dict, collection: dict[str, str]) -> dict:
    # `datasets` cannot open a split without rows, so what has no nodule is not offered.
    splits = {
        config: {name: counts for name, counts in report["splits"].items() if counts[f"num_{config}"]}
        for config in FEATURES
    }
    offered = [config for config in FEATURES if splits[config]]
    return {
        "pretty_name": collection["name"],
        "license": collection["license"],
        "task_categories": ["image-feature-extraction", "image-classification", "image-segmentation"],
        "tags": ["medical", "ct", "2.5d"],
        "configs": [
            {
                "config_name": config,
                "data_files": [{"split": name, "path": f"{config}/{name}-*.parquet"} for name in splits[config]],
                **({"default": True} if config == "slices" else {}),
            }
            for config in offered
        ],
        "dataset_info": [
            {
                "config_name": config,
                "features": FEATURES[config]._to_yaml_list(),
                "splits": [
                    {"name": name, "num_bytes": counts[f"{config}_bytes"], "num_examples": counts[f"num_{config}"]}
                    for name, counts in splits[config].items()
                ],
            }
            for config in offered
        ],
    }


def _read_template() -> str:
    """The template lies beside the package in a checkout, inside it in a wheel."""
    beside = Path(__file__).parents[3] / "model_card" / "dataset.md"
    inside = resources.files("dinox_hf") / "model_card" / "dataset.md"
    return (beside if beside.is_file() else inside).read_text(encoding="utf-8")
