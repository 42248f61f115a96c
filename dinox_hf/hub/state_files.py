"""A backbone as one `.pth` file of named tensors, under our names or under those of Meta's releases.

The file is a plain dictionary that `torch.load(…, weights_only=True)` reads. What names and shapes do not tell –
heads, epsilon, RoPE – stands in config.json beside it, so `dinox export` and `--init` read such a folder again.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..model.checkpoint_keys import ours_to_meta
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.modeling_dinov3_ct import Dinov3CTModel
from .export_source import periods_of

FILE_NAME = "backbone.pth"


def write_state(model: Dinov3CTModel, folder: Path) -> None:
    """Write backbone.pth under our names, which are those of transformers' `DINOv3ViTModel`; it holds any network."""
    _save(model.state_dict(), folder)


def write_meta_state(model: Dinov3CTModel, folder: Path) -> None:
    """Write backbone.pth under the names of Meta's releases.

    Raises:
        ValueError: if that layout has no place for something, naming it.
    """
    _save(meta_state(model), folder)


def meta_state(model: Dinov3CTModel) -> dict[str, Tensor]:
    """Every tensor of Meta's layout: fused rows, masks of key biases, RoPE periods.

    The released files hold a key bias and a mask that takes it away; a network of ours without one gets both, so that
    a strict loader finds what it expects.

    Raises:
        ValueError: as `refuse_what_meta_cannot_hold`.
    """
    refuse_what_meta_cannot_hold(model.config)
    state = ours_to_meta(model.state_dict())
    if not model.config.key_bias:
        for name in [name for name in state if name.endswith("attn.qkv.bias")]:
            state[f"{name}_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(state[name]) // 3)
    return state | {"rope_embed.periods": periods_of(model.config)}


def refuse_what_meta_cannot_hold(config: Dinov3CTConfig) -> None:
    """Stop before a network would be written in a layout whose code computes another one.

    Raises:
        ValueError: with each field and its value.
    """
    activation = "silu" if config.use_gated_mlp else "gelu"
    lost = ["rope_coordinates='metric'"] if config.rope_coordinates == "metric" else []
    lost += [f"hidden_act={config.hidden_act!r} (it has {activation!r})"] if config.hidden_act != activation else []
    if config.query_bias != config.value_bias or (config.key_bias and not config.query_bias):
        biases = {name: getattr(config, name) for name in ("query_bias", "key_bias", "value_bias")}
        lost.append(f"{biases} (its queries, keys and values share one bias)")
    if lost:
        raise ValueError(
            f"Meta's layout can hold what its own code computes; found {', '.join(lost)}. Take --format pth, whose "
            f"config.json says it, or train with the usual value."
        )


def _save(state: dict[str, Tensor], folder: Path) -> None:
    # Clones: a slice of a fused weight would carry the whole of it into the file.
    torch.save({name: value.detach().clone() for name, value in state.items()}, folder / FILE_NAME)
