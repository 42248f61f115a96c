"""A backbone to export, from wherever it lies: a run, a folder, an id on the Hub, a file in Meta's layout."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from ..model.modeling_dinov3_ct import Dinov3CTModel, rope_periods
from ..model.weight_files import find_weights, read_tensors, sha256_of, weight_files
from ..tasks.backbone import build_backbone

# Parts of a model that is more than a backbone; no format of a backbone could hold them.
_OF_A_TASK = ("classifier.", "slice_attention.", "model.embeddings.", "decoder.", "head.")


@dataclass(frozen=True)
class Source:
    """The network to export, with the processor that makes its input."""

    model: Dinov3CTModel  # float32, in evaluation mode
    processor: Dinov3CTImageProcessor
    name: str  # short and the same for the same weights; stands in config.json, where it marks an export of ours


def read_source(place: str | Path, preset: str | None = None) -> Source:
    """Read a backbone with every weight in its place.

    Args:
        place: a run, one of its checkpoints, a folder of transformers, a file of weights, or an id on the Hub.
        preset: architecture of a file without config.json beside it, such as Meta's `.pth`: "vits16", "vitl16", ….

    Returns:
        Weights and configuration; without preprocessor_config.json beside them, our processor as it is by default.

    Raises:
        ValueError: there is no such thing, it is an adapter or a task model, or weights and configuration disagree.
        RuntimeError: the Hub could not be reached.
    """
    path, _ = find_weights(str(place))
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (path / "adapter_config.json").is_file():
        raise ValueError(
            f"An export wants a backbone; found a LoRA adapter in {place}, which is nothing without its base. A run "
            f"that trained by LoRA keeps the merged backbone in its checkpoints: name the run. Or merge the adapter "
            f"yourself (peft: merge_and_unload) and export the folder that you save."
        )
    files = weight_files(path, str(place))
    weights = read_tensors(files)
    parts = sorted({name.split(".")[0] for name in weights if name.startswith(_OF_A_TASK)})
    if parts or any("lora_" in name for name in weights):
        found = ", ".join(parts) or "unmerged LoRA weights"
        raise ValueError(
            f"An export holds a backbone alone; found {found} in {place}, which it would lose. Share that folder as "
            f"it is, or name the backbone that it was trained from."
        )
    model = build_backbone(weights, _config(folder) or _preset_config(weights, preset, place))
    _refuse_other_periods(weights, model.config, place)
    has_processor = (folder / "preprocessor_config.json").is_file()
    processor = Dinov3CTImageProcessor.from_pretrained(folder) if has_processor else Dinov3CTImageProcessor()
    return Source(model, processor, f"{sha256_of(files)[:12]}-export")


def _config(folder: Path) -> PretrainedConfig | None:
    """The configuration in a folder; that of a dual-mode export reads as stock's and keeps our fields."""
    return AutoConfig.from_pretrained(folder) if (folder / "config.json").is_file() else None


def _preset_config(weights: dict[str, Tensor], preset: str | None, place: str | Path) -> Dinov3CTConfig:
    """Architecture of a bare file, which Meta releases: a named size, its own registers, an epsilon of 1e-5."""
    if preset is None:
        raise ValueError(
            f"Weights tell their shapes, but neither heads nor the epsilon of the norms; found no config.json beside "
            f"{place}. Name the size with --preset, such as --preset vits16."
        )
    registers = weights.get("storage_tokens", torch.empty(1, 0, 1)).shape[1]
    return Dinov3CTConfig.preset(preset, num_register_tokens=registers, layer_norm_eps=1e-5)


def _refuse_other_periods(weights: dict[str, Tensor], config: Dinov3CTConfig, place: str | Path) -> None:
    """Meta's files carry the RoPE periods that they were trained with; we compute ours from the configuration."""
    stored = weights.get("rope_embed.periods")
    expected = periods_of(config)
    # They may be stored in bfloat16, of 8 significant bits.
    if stored is None or (stored.shape == expected.shape and torch.allclose(stored.float(), expected, rtol=1e-2)):
        return
    raise ValueError(
        f"The RoPE periods in {place} should be those of its configuration, {expected.tolist()[:3]} …; found "
        f"{stored.float().tolist()[:3]} …. Correct --preset, or rope_theta and num_attention_heads in config.json."
    )


def periods_of(config: Dinov3CTConfig) -> Tensor:
    """(head_size / 4,) RoPE periods of a network, float32."""
    period_range = None if config.rope_min_period is None else (config.rope_min_period, config.rope_max_period)
    return rope_periods(config.hidden_size // config.num_attention_heads, config.rope_theta, period_range)
