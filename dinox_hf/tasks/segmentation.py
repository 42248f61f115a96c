"""Segmentation heads on patch tokens: one linear layer, or three convolutions; frozen backbone or LoRA beneath.

The head is called `decoder` and is saved in the adapter, as the head of classification.py is.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig

from ..model.modeling_dinov3_ct import Dinov3CTModel, Dinov3CTPreTrainedModel
from ..model.weight_files import find_weights, read_tensors, weight_files
from .adapter_files import LOCAL_BASE, load_adapter, save_adapter
from .backbone import build_backbone

RECORD = "segmentation.json"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What turns patch tokens into classes."""

    kind: Literal["linear", "conv"] = "conv"
    dropout: float = 0.1  # of conv, of whole channels

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"decoder.dropout must be from 0 to below 1; found {self.dropout}. 0 switches it off.")


def build_decoder(width: int, num_classes: int, config: DecoderConfig) -> nn.Module:
    """(B, width, rows, columns) tokens to (B, num_classes, rows, columns) logits."""
    if config.kind == "linear":
        return nn.Conv2d(width, num_classes, kernel_size=1)
    layers: list[nn.Module] = []
    for channels_in, channels in ((width, 256), (256, 128)):
        # The norm that follows takes the place of a bias.
        layers += [nn.Conv2d(channels_in, channels, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(channels)]
        layers += [nn.GELU(), nn.Dropout2d(config.dropout)]
    return nn.Sequential(*layers, nn.Conv2d(128, num_classes, kernel_size=1))


class Dinov3CTForSegmentation(Dinov3CTPreTrainedModel):
    """A backbone with a decoder on its patch tokens: a class for every pixel.

    Args:
        backbone: taken as it is, not copied.
        decoder: which head.
        num_classes: the background, class 0, among them.
    """

    def __init__(self, backbone: Dinov3CTModel, decoder: DecoderConfig, num_classes: int = 2) -> None:
        super().__init__(backbone.config)
        self.model = backbone
        self.decoder = build_decoder(backbone.config.hidden_size, num_classes, decoder)

    def forward(self, pixel_values: Tensor, spacing_mm: Tensor | None = None) -> Tensor:
        """Return logits (B, num_classes, height, width) from (B, channels, height, width)."""
        tokens = self.model(pixel_values, spacing_mm=spacing_mm).last_hidden_state
        patches = tokens[:, 1 + self.config.num_register_tokens :]
        grid = self.model.embeddings.patch_embeddings.grid(pixel_values)
        logits = self.decoder(patches.mT.unflatten(-1, grid))
        return F.interpolate(logits, size=pixel_values.shape[-2:], mode="bilinear")


def save_segmenter(model: PeftModel, folder: Path, base: str, decoder: DecoderConfig, num_classes: int) -> None:
    """Write the adapter, and what is needed to build its base again.

    Args:
        model: of `adaptation.adapt`.
        folder: made when missing.
        base: the backbone: an id on the Hub, or `LOCAL_BASE`.
        decoder: which head.
        num_classes: the background among them.
    """
    save_adapter(model, folder, base)
    record = {"decoder": {"kind": decoder.kind, "dropout": decoder.dropout}, "num_classes": num_classes}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def load_segmenter(folder: str | Path, base: str | None = None) -> PeftModel:
    """Read a saved head and its backbone.

    Args:
        folder: of `save_segmenter`.
        base: the backbone, where it does not lie any more where the adapter says.

    Raises:
        ValueError: if there is no head, no backbone, or the two do not fit.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise ValueError(
            f"Expected {RECORD} in {folder}; found none. Name the adapter/ folder that "
            f"training/finetune_segmentation.py wrote."
        )
    record = json.loads((folder / RECORD).read_text())
    name = base or json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    name = str(folder / LOCAL_BASE) if name == LOCAL_BASE else name
    path, _ = find_weights(name)
    backbone = build_backbone(read_tensors(weight_files(path, name)), AutoConfig.from_pretrained(path))
    model = Dinov3CTForSegmentation(backbone, DecoderConfig(**record["decoder"]), record["num_classes"])
    return load_adapter(model, folder)
