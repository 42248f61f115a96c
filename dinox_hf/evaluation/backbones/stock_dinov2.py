"""DINOv2, with and without registers, as an evaluation asks any backbone: the network that DINOv3 is compared with."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
)

from ...model.image_processing_dinov3_ct import Dinov3CTImageProcessor


class StockDinov2(Dinov2Model):
    """Stock DINOv2; the millimetres that a metric network asks for are not asked for here."""

    def __init__(self, config: Dinov2Config) -> None:
        config.num_register_tokens = 0  # stock has no such field
        super().__init__(config)

    def forward(self, pixel_values: Tensor, spacing_mm: Tensor | None = None, **kwargs: Any) -> Any:
        """Return what stock returns."""
        return super().forward(pixel_values, **kwargs)


class StockDinov2WithRegisters(Dinov2WithRegistersModel):
    """Stock DINOv2 with register tokens; as above."""

    def forward(self, pixel_values: Tensor, spacing_mm: Tensor | None = None, **kwargs: Any) -> Any:
        """Return what stock returns."""
        return super().forward(pixel_values, **kwargs)


_MODELS = {
    Dinov2Config: (Dinov2Model, StockDinov2),
    Dinov2WithRegistersConfig: (Dinov2WithRegistersModel, StockDinov2WithRegisters),
}


def is_dinov2(config: PretrainedConfig | None) -> bool:
    """Whether this is the configuration of a DINOv2."""
    return type(config) in _MODELS


def load_dinov2(folder: Path, config: PretrainedConfig) -> StockDinov2 | StockDinov2WithRegisters:
    """Read the network, every weight of it.

    Raises:
        ValueError: if a weight is missing: transformers alone would draw it anew, and say so in a report on the side.
    """
    stock, ours = _MODELS[type(config)]
    # Only by its own class does transformers know how the names on the Hub translate into those of its network.
    read, found = stock.from_pretrained(folder, config=config, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"Expected every weight of a {config.model_type} in {folder.name}; found {len(missing)} missing, "
            f"{missing[0]} first. Download the folder again, or name another."
        )
    model = ours(config)
    model.load_state_dict(read.state_dict())
    return model


def processor_for(patch_size: int) -> Dinov3CTImageProcessor:
    """Our windows with the mean and spread of photographs, which DINOv2 learned from; 16 patches a side."""
    return Dinov3CTImageProcessor(size={"height": 16 * patch_size, "width": 16 * patch_size})
