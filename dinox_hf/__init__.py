"""DINO-X: self-supervised vision backbones for CT, as plain transformers models.

Importing the package makes `AutoModel` and its siblings know Dinov3CT.
"""

from typing import TYPE_CHECKING, Any

from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from .model.configuration_dinov3_ct import Dinov3CTConfig
from .model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from .model.modeling_dinov3_ct import Dinov3CTBackbone, Dinov3CTForImageClassification, Dinov3CTModel

if TYPE_CHECKING:
    from .data.readers.series import read_series
    from .serving.volume_features import encode_volume

__all__ = [
    "Dinov3CTBackbone",
    "Dinov3CTConfig",
    "Dinov3CTForImageClassification",
    "Dinov3CTImageProcessor",
    "Dinov3CTModel",
    "encode_volume",
    "read_series",
]

AutoConfig.register(Dinov3CTConfig.model_type, Dinov3CTConfig)
AutoModel.register(Dinov3CTConfig, Dinov3CTModel)
AutoBackbone.register(Dinov3CTConfig, Dinov3CTBackbone)
AutoModelForImageClassification.register(Dinov3CTConfig, Dinov3CTForImageClassification)
AutoImageProcessor.register(Dinov3CTConfig, image_processor_classes={"pil": Dinov3CTImageProcessor})


def __getattr__(name: str) -> Any:
    """Import what reads scans when it is first used: whoever only loads a model needs no DICOM library."""
    if name == "read_series":
        from .data.readers.series import read_series

        return read_series
    if name == "encode_volume":
        from .serving.volume_features import encode_volume

        return encode_volume
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
