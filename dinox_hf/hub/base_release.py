"""The local base of an adapter as a model of its own, so that the adapter can name it on the Hub."""

import json
import shutil
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import ModelCardData

from .card import template
from .head_release import head_of


def is_base(source: Path) -> bool:
    """Whether a folder is base/ in the output of a head's training."""
    return (source / "config.json").is_file() and (source.resolve().parent / "finetune.yaml").is_file()


def stage_base(source: Path, repo: str, folder: Path) -> dict[str, Any]:
    """Copy a base into a folder and write its card.

    Args:
        source: base/ beside the adapter.
        repo: owner/name on the Hub.
        folder: an empty folder.

    Returns:
        The report of the adapter that stands on it.
    """
    report = json.loads((head_of(source.resolve().parent) / "report.json").read_text(encoding="utf-8"))
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
    (folder / "README.md").write_text(render_base_card(report, repo), encoding="utf-8")
    return report


def render_base_card(report: dict[str, Any], repo: str) -> str:
    """The whole README.md of a base, from the report of its adapter."""
    base, head = report["base"], report["head"]
    licence, digest = base["licence"], base["sha256"]
    is_ours = licence is not None and licence.lower().startswith("gpl-3.0")
    metadata = ModelCardData(
        **({"license": "gpl-3.0"} if is_ours else {"license": "other", "license_name": licence or "unknown"}),
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["dinov3", "medical", "ct", *(["synthetic-data"] if report["data"]["is_synthetic"] else [])],
    )
    slices = f" of {head['slices']} slices" if head["slices"] > 1 else ""
    words = {
        "metadata": metadata.to_yaml(),
        "name": f"Base for adapters, {base['name']}",
        "backbone": base["name"],
        "sees": f"{head['pooling']} of the tokens{slices}",
        "repo": repo,
        "size_px": report["size_px"],
        "lineage": f"Weights of {base['name']}{f', SHA-256 {digest}' if digest else ''}.",
        "licence": f"These weights are those of {base['name']} and stay under their licence, `{licence}`.",
    }
    return Template(template("base.md")).substitute(words)
