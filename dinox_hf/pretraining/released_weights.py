"""A backbone to start from, with what is known about it: architecture, fingerprint, licence, earlier origin."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from ..model.configuration_dinov3_ct import PRESETS, Dinov3CTConfig
from ..model.weight_files import find_weights, read_tensors, sha256_of, weight_files

# What decides the function of a network. Initial values and draws in training may differ from those it was made with.
FUNCTION_FIELDS = (
    *("patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels"),
    *("num_register_tokens", "use_gated_mlp", "hidden_act", "layer_norm_eps", "rope_theta"),
    *("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"),
    *("norm_type", "rope_coordinates", "rope_extent_mm", "rope_min_period", "rope_max_period"),
)


@dataclass(frozen=True)
class ReleasedWeights:
    """The weights of one backbone, and what is known about them."""

    name: str  # as the user wrote it
    tensors: dict[str, Tensor]  # in any of the spellings that checkpoint_keys.py knows
    config: PretrainedConfig | None  # None for a bare file, which brings none
    provenance: dict[str, Any]  # plain values for run.yaml: revision on the Hub, fingerprint, licence, earlier origin
    folder: Path | None = None  # where they lie; None for weights that were never in a file


def read_weights(name: str) -> ReleasedWeights:
    """Find and read a backbone.

    Args:
        name: see `find_weights`.

    Raises:
        ValueError: there is no such thing, or it holds no weights.
        RuntimeError: the Hub could not be reached, or wants its licence accepted first.
    """
    path, revision = find_weights(name)
    files = weight_files(path, name)
    folder = path if path.is_dir() else path.parent
    provenance = {
        "revision": revision,
        "sha256": sha256_of(files),
        "licence": _licence(folder),
        "origin": _earlier_origin(folder),
    }
    return ReleasedWeights(name, read_tensors(files), _config(path), provenance, folder)


def refuse_other_architecture(weights: ReleasedWeights, wanted: Dinov3CTConfig) -> None:
    """Compare what decides the function of both networks; weights alone would not tell of another epsilon.

    Raises:
        ValueError: naming each field, and the preset and overrides that fit the weights.
    """
    if weights.config is None:
        return
    different = {
        name: (getattr(weights.config, name), getattr(wanted, name))
        for name in FUNCTION_FIELDS
        if hasattr(weights.config, name) and getattr(weights.config, name) != getattr(wanted, name)
    }
    if different:
        shown = ", ".join(f"{name}={ours} instead of {theirs}" for name, (theirs, ours) in different.items())
        raise ValueError(
            f"This run's backbone should be that of {weights.name}; found {shown}. Give {_fitting(weights.config)}."
        )


def _fitting(config: PretrainedConfig) -> str:
    """The preset nearest to an architecture, and the fields in which the two differ, as arguments."""

    def differences(preset: str) -> dict[str, Any]:
        own = Dinov3CTConfig.preset(preset)
        found = {name: getattr(config, name) for name in FUNCTION_FIELDS if hasattr(config, name)}
        return {name: value for name, value in found.items() if value != getattr(own, name)}

    preset = min(PRESETS, key=lambda name: len(differences(name)))
    overrides = json.dumps(differences(preset)).replace('"', "")
    return f"--model.preset={preset} --model.overrides='{overrides}'"


def _config(path: Path) -> PretrainedConfig | None:
    if path.is_file() or not (path / "config.json").is_file():
        return None
    return AutoConfig.from_pretrained(path, trust_remote_code=False)


def _licence(folder: Path) -> str | None:
    """The licence named on top of the model card; None where there is no card."""
    card = folder / "README.md"
    block = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    values = (yaml.safe_load(block[1]) or {}) if block else {}
    return values.get("license_name") or values.get("license")


def _earlier_origin(folder: Path) -> dict[str, Any] | None:
    """For a checkpoint of ours, what its run began with."""
    run_yaml = folder.parents[2] / "run.yaml" if folder.name == "backbone" and len(folder.parents) > 2 else None
    if run_yaml is None or not run_yaml.is_file():
        return None
    return (yaml.safe_load(run_yaml.read_text()) or {}).get("lineage", {}).get("origin")
