"""What is known of a trained head, as the plain values of its report.json: no path of the machine."""

import platform
import re
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import nn

from ..evaluation.backbones.learning import read_run
from ..evaluation.cohorts.labelled_nodules import NoduleCrops
from ..evaluation.heads.head_config import FinetuneConfig
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..source_commit import source_commit
from ..tasks.adaptation import AdaptationConfig
from .card_facts import metadata_of

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def base_facts(name: str, path: str, provenance: dict[str, Any]) -> dict[str, Any]:
    """Which weights the head stands on, and whose licence they carry.

    Args:
        name: of the backbone, as the user wrote it.
        path: of `HeadFolder.choose_base`.
        provenance: of `read_weights`: licence, fingerprint, and what the weights themselves began with.
    """
    first = provenance.get("origin")
    while first and first.get("origin"):
        first = first["origin"]
    licence = provenance.get("licence")
    if first and first.get("weights"):
        licence = first.get("licence")
    elif licence is None and read_run(Path(name)) is not None:
        licence = "gpl-3.0"  # a run of ours that began with random weights
    is_id = HUB_ID.fullmatch(name) and not Path(name).exists()
    return {
        "name": name if is_id else Path(name).resolve().name,
        "path": path,
        "licence": licence,
        "revision": provenance.get("revision"),
        "sha256": provenance.get("sha256"),
    }


def head_report(
    config: FinetuneConfig, base: dict[str, Any], crops: NoduleCrops, model: nn.Module, network: Dinov3CTConfig
) -> dict[str, Any]:
    """Everything that is known before training; the script adds epochs and scores.

    Args:
        config: of the training.
        base: of `base_facts`.
        crops: the nodules.
        model: ready to be trained.
        network: the classifier's configuration.
    """
    return {
        "status": "training",
        "base": base,
        "mode": config.adaptation.mode,
        "low_rank": low_rank_words(config.adaptation),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "head": {
            "kind": config.head.kind,
            "pooling": config.head.pooling,
            "slices": config.head.slices_seen,
            "slice_step_mm": config.head.slice_step_mm,
        },
        "rule": config.data.label_rule.text,
        "classes": [network.id2label[index] for index in range(network.num_labels)],
        "field_mm": config.crops.field_mm,
        "size_px": crops.size_px,
        "channels": crops.processor.channels,
        "is_metric": network.rope_coordinates == "metric",
        "data": data_facts(crops, Path(config.data.folder)),
        "epochs": 0,
        "best_epoch": None,
        "validation_auc": None,
        "test": None,
        "lineage": lineage_facts(base, crops, config.seed),
    }


def low_rank_words(adaptation: AdaptationConfig) -> str | None:
    """The low-rank updates in words; None where there are none."""
    if adaptation.mode not in ("lora", "dora"):
        return None
    return (
        f"rank {adaptation.rank}, alpha {adaptation.alpha:g}, dropout {adaptation.dropout:g}, `{adaptation.targets}`"
    )


def lineage_facts(base: dict[str, Any], crops: NoduleCrops, seed: int) -> dict[str, Any]:
    """Which code, weights, data and libraries made a head.

    Args:
        base: of `base_facts`.
        crops: the nodules.
        seed: of the training.
    """
    return {
        "dinox_hf commit": source_commit(),
        "Weights of the base, SHA-256": base["sha256"],
        "Data fingerprint": crops.scans.fingerprint,
        "Seed": seed,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "Python": platform.python_version(),
    }


def data_facts(crops: NoduleCrops, folder: Path) -> dict[str, Any]:
    """Name, licence and kind of a built set, and how its nodules were dealt.

    Args:
        crops: the nodules.
        folder: of the set.
    """
    card = folder / "README.md"
    metadata = metadata_of(card.read_text(encoding="utf-8")) if card.is_file() else {}
    name = metadata.get("pretty_name") or folder.resolve().name
    return {
        "name": name,
        "licence": metadata.get("license"),
        "is_synthetic": "synthetic" in metadata.get("tags", []) or "phantom" in name.lower(),
        "fingerprint": crops.scans.fingerprint,
        "parts": crops.cohort.counts(),
    }
