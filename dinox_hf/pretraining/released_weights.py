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
from .checkpoint_folders import step_of

# What decides the function of a network. Initial values and draws in training may differ from those it was made with.
FUNCTION_FIELDS = (
    *("patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels"),
    *("num_register_tokens", "use_gated_mlp", "hidden_act", "layer_norm_eps", "rope_theta"),
    *("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"),
    *("norm_type", "rope_coordinates", "rope_extent_mm", "rope_min_period", "rope_max_period"),
)


OUR_LICENCE = "gpl-3.0"  # of weights that began with a random draw


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
    checkpoint = _checkpoint_of_ours(folder)
    provenance = {"revision": revision, "sha256": sha256_of(files), "licence": _licence(folder), "origin": None}
    if checkpoint is not None:
        stage = stage_record(checkpoint.parent.parent, step_of(checkpoint))
        provenance |= stage | {"licence": _inherited_licence(stage["origin"])}
    return ReleasedWeights(name, read_tensors(files), _config(path), provenance, folder)


def stage_record(folder: Path, step: int) -> dict[str, Any]:
    """What a run of ours says of itself, for the run.yaml of one that goes on from it.

    Args:
        folder: the run's.
        step: of the checkpoint that is gone on from: so many updates it had.
    """
    if folder.name in ("", ".."):
        folder = folder.resolve()  # a run is called by its folder's name
    lineage = run_yaml(folder).get("lineage", {})
    names = ("dinox_hf_commit", "images_per_step", "data_fingerprint", "data_num_slices", "origin")
    return {"from_run": str(folder), "step": step, **{name: lineage.get(name) for name in names}}


def run_yaml(folder: Path) -> dict[str, Any]:
    """The record of a run; empty where there is none."""
    path = folder / "run.yaml"
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


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


def _checkpoint_of_ours(folder: Path) -> Path | None:
    """The checkpoint whose backbone lies in a folder, if its run is known too."""
    for place in (folder, folder.resolve()):  # as it was written, where that is long enough to tell
        checkpoint = place.parent
        is_ours = place.name == "backbone" and re.fullmatch(r"step_\d+", checkpoint.name)
        if is_ours and (checkpoint.parent.parent / "run.yaml").is_file():
            return checkpoint
    return None


def _inherited_licence(origin: dict[str, Any] | None) -> str | None:
    """Licence of weights that our runs trained: that of the released weights they began with, else ours."""
    while origin and origin.get("origin"):
        origin = origin["origin"]
    return origin.get("licence") if origin and "weights" in origin else OUR_LICENCE
