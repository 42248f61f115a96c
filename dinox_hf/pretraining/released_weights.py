"""A backbone to start from, wherever it lies: on the Hub, in a folder of transformers, in a run, in Meta's layout."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from ..model.configuration_dinov3_ct import PRESETS, Dinov3CTConfig
from .checkpoint import latest_checkpoint

# What decides the function of a network. Initial values and draws in training may differ from those it was made with.
FUNCTION_FIELDS = (
    *("patch_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels"),
    *("num_register_tokens", "use_gated_mlp", "hidden_act", "layer_norm_eps", "rope_theta"),
    *("query_bias", "key_bias", "value_bias", "proj_bias", "mlp_bias"),
    *("norm_type", "rope_coordinates", "rope_min_period", "rope_max_period"),
)
_WANTED_FILES = ["*.safetensors", "*.safetensors.index.json", "config.json", "README.md", "LICENSE*"]
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ReleasedWeights:
    """The weights of one backbone, and what is known about them."""

    name: str  # as the user wrote it
    tensors: dict[str, Tensor]  # in any of the spellings that checkpoint_keys.py knows
    config: PretrainedConfig | None  # None for a bare file, which brings none
    provenance: dict[str, Any]  # plain values for run.yaml: revision on the Hub, fingerprint, licence, earlier origin


def read_weights(name: str) -> ReleasedWeights:
    """Find and read a backbone.

    Args:
        name: an id on the Hub; or a path: a folder of transformers, our run or one of its checkpoints, a
            `.safetensors` file, or a `.pth` file in Meta's layout (read without running any code in it).

    Raises:
        ValueError: there is no such thing, or it holds no weights.
        RuntimeError: the Hub could not be reached, or wants its licence accepted first.
    """
    path, revision = Path(name), None
    if not path.exists():
        path = _download(name)
        revision = path.name  # of the snapshot
    path = _backbone_folder(path)
    files = _weight_files(path, name)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_file(file)
    folder = path if path.is_dir() else path.parent
    provenance = {
        "revision": revision,
        "sha256": _sha256(files),
        "licence": _licence(folder),
        "origin": _earlier_origin(folder),
    }
    return ReleasedWeights(name, tensors, _config(path), provenance)


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


def _download(name: str) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"init.weights should be an id on the Hub, owner/name, or an existing path; found {name!r}. "
            f"Check the spelling, or name the folder from where you stand."
        )
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED_FILES))
    except GatedRepoError as error:
        raise RuntimeError(
            f"Expected to download {name}; found that its owner wants a licence accepted first. Accept it on "
            f"https://huggingface.co/{name}, sign in with `hf auth login`, and start again."
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"init.weights should be an id on the Hub or an existing path; found {name!r}, which is neither. "
            f"Check the spelling; a private repository needs `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        folder = name.rpartition("/")[2]
        raise RuntimeError(
            f"Expected to download {name}; found no way to the Hub and no earlier download. Where there is a network, "
            f"run `hf download {name} --local-dir {folder}`, bring the folder here, and pass --init={folder}."
        ) from error


def _backbone_folder(path: Path) -> Path:
    """Of a run its newest checkpoint, of a checkpoint its backbone; anything else stays what it is."""
    checkpoint = latest_checkpoint(path) if path.is_dir() else None
    path = checkpoint or path
    return path / "backbone" if (path / "backbone" / "config.json").is_file() else path


def _weight_files(path: Path, name: str) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.pth"))
    if not files:
        raise ValueError(
            f"init.weights should hold *.safetensors or a .pth file; found neither in {path}, named as {name!r}. "
            f"Name the folder that `hf download` filled, a run's folder, or the file itself."
        )
    return files


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    # `weights_only` reads tensors and nothing that could run.
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    # The reference's own teacher: a backbone and two heads. Heads are drawn anew, as for any released backbone.
    tensors = tensors.get("teacher", tensors)
    inside = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    return inside or tensors


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


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 24), b""):
                digest.update(chunk)
    return digest.hexdigest()
