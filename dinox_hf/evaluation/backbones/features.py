"""Frozen features of a backbone and its random twins: pooled tokens and CLS attention, kept between evaluations."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from ...model.checkpoint_keys import load_weights
from ...model.configuration_dinov3_ct import Dinov3CTConfig
from ...model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from ...model.modeling_dinov3_ct import Dinov3CTModel, pool_tokens
from ...model.weight_files import find_weights, read_tensors, weight_files
from ...tasks.backbone import build_backbone
from .stock_dinov2 import StockDinov2, StockDinov2WithRegisters, is_dinov2, load_dinov2, processor_for

POOLINGS = ("cls", "mean", "max", "cls+mean")
_TOKENS_PER_BATCH = 16384  # keeps a batch near 100 MB for a ViT-S


@dataclass(frozen=True)
class Backbone:
    """A network in evaluation mode, with the processor that makes its input."""

    model: Dinov3CTModel | StockDinov2 | StockDinov2WithRegisters
    processor: Dinov3CTImageProcessor
    digest: str  # of the weights: equal weights, equal features

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.model.config.patch_size


def load_backbone(source: str | Path) -> Backbone:
    """Load DINOv3 (ours, stock or Meta's spelling of it) or DINOv2, on the accelerator if there is one.

    Args:
        source: a transformers folder or a Hub id.

    Raises:
        ValueError: if there is no such model at that place, or a weight of it is missing or left over.
    """
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ValueError(
            f"Expected a run folder with checkpoints/ or a transformers folder with config.json; found neither in "
            f"{source}. Name the folder that training/pretrain.py wrote (its --output), or a model folder."
        )
    try:
        folder, _ = find_weights(str(source))
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Expected a run folder, a transformers folder or a Hub id; found nothing that loads at {source} "
            f"({str(error).splitlines()[0]}). Check the path, or the name and the connection to the Hub."
        ) from error
    if is_dinov2(config):
        return _frozen(load_dinov2(folder, config), processor_for(config.patch_size))
    model = build_backbone(read_tensors(weight_files(folder, str(source))), config)
    has_processor = (folder / "preprocessor_config.json").is_file()
    return _frozen(
        model, Dinov3CTImageProcessor.from_pretrained(folder) if has_processor else Dinov3CTImageProcessor()
    )


def random_backbone(preset: str, seed: int) -> Backbone:
    """A preset with random weights, its images as our own networks see them; ValueError if there is no such preset."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Dinov3CTModel(Dinov3CTConfig.preset(preset))
    return _frozen(model, Dinov3CTImageProcessor())


def random_twin(backbone: Backbone, seed: int) -> Backbone:
    """The same architecture as its pretraining would initialise it: what the network does before it has learned."""
    # A fork leaves the caller's generator where it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(backbone.model)(backbone.model.config)
    return _frozen(model, backbone.processor)


def loaded_twin(backbone: Backbone, tensors: dict[str, Tensor]) -> Backbone:
    """The same architecture and processor with other weights, all of them; ValueError if they do not fit."""
    model = Dinov3CTModel(backbone.model.config)
    load_weights(model, tensors)
    return _frozen(model, backbone.processor)


def pooled_features(backbone: Backbone, fields_hu: np.ndarray, spacing_mm: np.ndarray) -> dict[str, np.ndarray]:
    """Every pooling of the tokens of one forward pass, as (N, D) float32; "cls+mean" is (N, 2D).

    Args:
        backbone: the network.
        fields_hu: (N, C, size, size) HU, C as the processor's `channels` asks for.
        spacing_mm: (N, 2) mm per pixel of the fields, (y, x); only a network with metric coordinates looks at it.
    """
    pooled: dict[str, list[Tensor]] = {pooling: [] for pooling in POOLINGS}
    registers = backbone.model.config.num_register_tokens
    with torch.inference_mode():
        for inputs in _batches(backbone, fields_hu, spacing_mm):
            tokens = backbone.model(**inputs).last_hidden_state
            for pooling in POOLINGS:
                pooled[pooling].append(pool_tokens(tokens, registers, pooling).float().cpu())
    return {pooling: torch.cat(batches).numpy() for pooling, batches in pooled.items()}


def attention_maps(backbone: Backbone, fields_hu: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Where the CLS token of the last layer looks: (N, heads, rows, columns) float32 on the patch grid.

    Attention to the CLS and register tokens is left out; what remains of a head need not sum to 1. Arguments as of
    `pooled_features`.
    """
    return attention_and_tokens(backbone, fields_hu, spacing_mm)[0]


def attention_and_tokens(
    backbone: Backbone, fields_hu: np.ndarray, spacing_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `attention_maps` and `patch_tokens` return, from one forward pass."""
    first_patch = 1 + backbone.model.config.num_register_tokens
    side = fields_hu.shape[-1] // backbone.patch_size
    maps, tokens = [], []
    implementation = backbone.model.config._attn_implementation
    backbone.model.set_attn_implementation("sdpa_maps")
    try:
        with torch.inference_mode():
            for inputs in _batches(backbone, fields_hu, spacing_mm):
                output = backbone.model(**inputs, output_attentions=True)
                cls_row = output.attentions[-1][:, :, 0, first_patch:]
                maps.append(cls_row.float().cpu().unflatten(-1, (side, side)))
                tokens.append(output.last_hidden_state[:, first_patch:].float().cpu().unflatten(1, (side, side)))
    finally:
        backbone.model.set_attn_implementation(implementation)
    return torch.cat(maps).numpy(), torch.cat(tokens).numpy()


def patch_tokens(backbone: Backbone, fields_hu: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Patch tokens after the final norm: (N, rows, columns, D) float32; arguments as of `pooled_features`."""
    first_patch = 1 + backbone.model.config.num_register_tokens
    side = fields_hu.shape[-1] // backbone.patch_size
    with torch.inference_mode():
        batches = _batches(backbone, fields_hu, spacing_mm)
        tokens = [backbone.model(**inputs).last_hidden_state for inputs in batches]
    return torch.cat(tokens)[:, first_patch:].float().cpu().unflatten(1, (side, side)).numpy()


def cached(folder: Path, key: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from `folder/<hash of key>.npz`, computed and written there the first time.

    Args:
        folder: made when missing.
        key: everything that the arrays depend on, as plain JSON values.
        compute: called without arguments on a miss.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    arrays = compute()
    folder.mkdir(parents=True, exist_ok=True)
    # Renamed into place, so that a killed evaluation never leaves half a file to be believed.
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)
    unfinished.replace(path)
    return arrays


def _frozen(model: PreTrainedModel, processor: Dinov3CTImageProcessor) -> Backbone:
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().contiguous().numpy().tobytes())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Backbone(model.eval().float().to(device), processor, digest.hexdigest()[:16])


def _batches(backbone: Backbone, fields_hu: np.ndarray, spacing_mm: np.ndarray) -> Iterator[dict[str, Tensor]]:
    """Inputs in batches; the fields have their size already, so the processor only windows and normalises."""
    size = fields_hu.shape[-1]
    batch_size = max(1, _TOKENS_PER_BATCH // (size // backbone.patch_size) ** 2)
    for start in range(0, len(fields_hu), batch_size):
        batch = list(fields_hu[start : start + batch_size])
        # Padding became air when the field was cut.
        given = {"spacing_mm": spacing_mm[start : start + batch_size], "padding_hu": None}
        inputs = backbone.processor(batch, size={"height": size, "width": size}, return_tensors="pt", **given)
        yield {name: tensor.to(backbone.model.device) for name, tensor in inputs.items()}
