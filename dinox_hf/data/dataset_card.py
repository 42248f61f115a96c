"""README.md of a built set: the YAML that `load_dataset` reads, and the text that a person reads."""

from collections import Counter
from importlib import resources
from pathlib import Path
from string import Template

import yaml

from .schema import NODULE_FEATURES, SLICE_FEATURES

FEATURES = {"slices": SLICE_FEATURES, "nodules": NODULE_FEATURES}


def render_card(report: dict, collection: dict[str, str]) -> str:
    """Fill the dataset card.

    Args:
        report: the ingest report.
        collection: name, license, origin and citation.

    Returns:
        The text of README.md.
    """
    by_readers = Counter(report["nodules_by_num_readers"])
    return Template(_read_template()).substitute(
        collection,
        metadata=yaml.safe_dump(_metadata(report, collection), sort_keys=False).strip(),
        folder="FOLDER_OR_REPOSITORY",
        nodules_by_readers=", ".join(f"{readers}: {count}" for readers, count in sorted(by_readers.items())) or "none",
        split_table="\n".join(
            f"| {split} | {row['num_patients']} | {row['num_series']} | {row['num_slices']} | {row['num_nodules']} |"
            for split, row in report["splits"].items()
        ),
        num_refused=sum(rejection["loses_scan"] for rejection in report["rejections"]),
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
    beside = Path(__file__).parents[2] / "model_card" / "dataset.md"
    inside = resources.files("dinox_hf") / "model_card" / "dataset.md"
    return (beside if beside.is_file() else inside).read_text(encoding="utf-8")
