"""A Dinov3CTModel from the weights of any DINOv3: ours, stock transformers' in either spelling, or Meta's."""

from pathlib import Path

from torch import Tensor
from transformers import PretrainedConfig

from ..model.checkpoint_keys import load_weights
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from ..model.modeling_dinov3_ct import Dinov3CTModel


def build_backbone(weights: dict[str, Tensor], config: PretrainedConfig | None) -> Dinov3CTModel:
    """The network that the weights belong to, every one of them in its place.

    `from_pretrained` would take names that it does not know, such as the Hub's `layer.0…`, for missing ones: a network
    with random blocks, and a report that nobody reads. Here that is an error, or rather a name that is translated.

    Args:
        weights: in any of the spellings of checkpoint_keys.py, in any number type; the network is float32.
        config: of the checkpoint: ours, or that of stock DINOv3.

    Raises:
        ValueError: if there is no configuration, or a weight is missing, left over or of another shape.
    """
    if config is None:
        raise ValueError(
            "A head needs the configuration of its backbone; found weights without config.json beside them. Name the "
            "folder or the id on the Hub that holds both, not the file of the weights."
        )
    if getattr(config, "hidden_size", None) is None or getattr(config, "num_register_tokens", None) is None:
        raise ValueError(
            f"A head needs a DINOv3 or Dinov3CT backbone; found the configuration of a {config.model_type!r} model. "
            f"Name a checkpoint of training/pretrain.py, a published folder, or released DINOv3 ViT weights."
        )
    names = [name for name in Dinov3CTConfig.__annotations__ if not name.startswith("_") and hasattr(config, name)]
    model = Dinov3CTModel(Dinov3CTConfig(**{name: getattr(config, name) for name in names}))
    load_weights(model, weights)
    return model.eval()


def read_processor(folder: Path | None, size_px: int | None, patch_size: int) -> Dinov3CTImageProcessor:
    """The image processor beside a backbone; of a stock one, ours with its mean and spread; without one, ours.

    Args:
        folder: with preprocessor_config.json, perhaps.
        size_px: side of the images that it makes; None leaves what the file says.
        patch_size: of the backbone.

    Raises:
        ValueError: if the side is no multiple of the patch size.
    """
    has_file = folder is not None and (folder / "preprocessor_config.json").is_file()
    found = Dinov3CTImageProcessor.from_pretrained(folder) if has_file else Dinov3CTImageProcessor()
    size_px = found.size["height"] if size_px is None else size_px
    if size_px <= 0 or size_px % patch_size:
        raise ValueError(
            f"crops.size_px must be a multiple of the patch size {patch_size}; found {size_px}. "
            f"Take {max(1, round(size_px / patch_size)) * patch_size}."
        )
    return Dinov3CTImageProcessor(
        size={"height": size_px, "width": size_px},
        channels=found.channels,
        hu_windows=found.hu_windows,
        image_mean=found.image_mean,
        image_std=found.image_std,
    )
