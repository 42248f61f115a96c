"""The architecture of a Dinov3CT network, and nothing about training.

Field names are those of transformers' `DINOv3ViTConfig`, so that a configuration moves between the two classes.
"""

from difflib import get_close_matches
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

# Sizes of the DINOv3 family. SwiGLU widths are 2/3 of the nominal ratio, so that both feed-forwards cost the same.
PRESETS: dict[str, dict[str, Any]] = {
    "vit_tiny": {  # for tests and two cores
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "patch_size": 8,
        "image_size": 64,
    },
    "vits16": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
    "vitb16": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "vitl16": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vith16plus": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "use_gated_mlp": True,
    },
    "vitg16": {  # 1.13 billion parameters
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "num_hidden_layers": 40,
        "num_attention_heads": 24,
        "use_gated_mlp": True,
    },
    "vit7b16": {
        "hidden_size": 4096,
        "intermediate_size": 8192,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "use_gated_mlp": True,
        "query_bias": False,
        "value_bias": False,
    },
}

# The least that a network can be built from.
LEAST_SIZES = {
    "patch_size": 1,
    "hidden_size": 1,
    "intermediate_size": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_channels": 1,
    "num_register_tokens": 0,
}

POOLINGS = ("cls", "mean", "max", "cls+mean")
ROPE_COORDINATES = ("separate", "min", "max", "metric")
NORM_TYPES = ("layernorm", "rmsnorm")

# Fields that stock DINOv3 does not have, with the one value at which the two networks are the same.
STOCK_VALUES = {"norm_type": "layernorm", "rope_coordinates": "separate", "rope_min_period": None}


@strict
class Dinov3CTConfig(BackboneConfigMixin, PreTrainedConfig):
    """Width, depth and variants of a Dinov3CT backbone.

    Defaults are ViT-S/16 as the DINOv3 recipe trains it from scratch. They differ from `DINOv3ViTConfig` in layer
    scale (1e-5, not 1), norm epsilon (1e-6, not 1e-5) and register tokens (4, not 0). Meta's released weights want
    `layer_norm_eps=1e-5`.

    Args:
        patch_size: side of a square patch in pixels.
        hidden_act: `None` takes SiLU with `use_gated_mlp` (SwiGLU) and GELU without.
        norm_type: "layernorm", or "rmsnorm" as some reference variants have it.
        layerscale_value: initial value of both layer scales; `None` builds a network without them.
        drop_path_rate: share of samples that skip a residual branch in training, the same in every layer.
        layer_drop_path_rates: one rate for each layer instead; `None` leaves `drop_path_rate` in force.
        rope_theta: base of the RoPE periods base^(i / (head size / 4)).
        rope_min_period: with `rope_max_period`, replaces `rope_theta` by a geometric range of periods.
        rope_coordinates: "separate" divides patch centres by each side, "min"/"max" by the smaller/larger side;
            "metric" counts them in millimetres from the middle of the image and divides by half of `rope_extent_mm`.
        rope_extent_mm: with "metric", the canonical field of view: an image whose sides both measure so many
            millimetres has exactly the coordinates of "separate", those of stock DINOv3.
        pos_embed_shift: patch coordinates move by up to this much in training; `None` for never.
        pos_embed_jitter: each axis is stretched by a log-uniform factor in [1/jitter, jitter] in training.
        pos_embed_rescale: both axes are stretched by one log-uniform factor in [1/rescale, rescale] in training;
            metric ones too, so that every layer is shown other millimetres: a lower limit lets it trust them more.
        pooling: what the classification head sees: "cls", "mean" or "max" of the patch tokens, or "cls+mean".
        num_slices: slices through one lesion that the classification head pools by attention; 1 for single slices.

    Raises:
        ValueError: if a size is below 1, heads do not divide the width, or a named variant is unknown.
    """

    model_type = "dinov3_ct"

    patch_size: int = 16
    hidden_size: int = 384
    intermediate_size: int = 1536
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    hidden_act: str | None = None
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    norm_type: str = "layernorm"
    layer_norm_eps: float = 1e-6
    image_size: int | list[int] | tuple[int, int] = 224
    num_channels: int = 3
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    layerscale_value: float | None = 1e-5
    drop_path_rate: float | int = 0.0
    layer_drop_path_rates: list[float] | None = None
    use_gated_mlp: bool = False
    num_register_tokens: int = 4
    rope_theta: float = 100.0
    rope_min_period: float | None = None
    rope_max_period: float | None = None
    rope_coordinates: str = "separate"
    rope_extent_mm: float | int | None = None
    pos_embed_shift: float | None = None
    pos_embed_jitter: float | None = None
    pos_embed_rescale: float | None = 2.0
    pooling: str = "cls"
    num_slices: int = 1
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None
    apply_layernorm: bool = True
    reshape_hidden_states: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.hidden_act is None:
            self.hidden_act = "silu" if self.use_gated_mlp else "gelu"
        self.stage_names = ["stem"] + [f"stage{i}" for i in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check what a field's type alone cannot say; `strict` calls this after every construction."""
        for name, least in LEAST_SIZES.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} must be >= {least}; found {getattr(self, name)}. Leave it out to take the usual value."
                )
        head_size, remainder = divmod(self.hidden_size, self.num_attention_heads)
        if remainder or head_size % 4:
            raise ValueError(
                f"hidden_size must be num_attention_heads times a multiple of 4 (RoPE turns pairs on two axes); "
                f"found hidden_size={self.hidden_size} and num_attention_heads={self.num_attention_heads}. "
                f"Change one of them."
            )
        _check_choice("norm_type", self.norm_type, NORM_TYPES)
        _check_choice("rope_coordinates", self.rope_coordinates, ROPE_COORDINATES)
        _check_choice("pooling", self.pooling, POOLINGS)
        if self.num_slices < 1:
            raise ValueError(f"num_slices must be >= 1; found {self.num_slices}. 1 is a head for single slices.")
        if (self.rope_min_period is None) != (self.rope_max_period is None):
            raise ValueError(
                f"rope_min_period and rope_max_period name a range together; found {self.rope_min_period} and "
                f"{self.rope_max_period}. Give both, or neither to use rope_theta."
            )
        if (self.rope_coordinates == "metric") != (self.rope_extent_mm is not None):
            raise ValueError(
                f"rope_coordinates='metric' and rope_extent_mm go together; found {self.rope_coordinates!r} and "
                f"{self.rope_extent_mm}. Give the field of view in mm at which the network should be as stock, such "
                f"as crops.field_mm or some 350 mm for whole slices of the chest, or leave out both."
            )
        if self.rope_extent_mm is not None and not 0 < self.rope_extent_mm < float("inf"):
            raise ValueError(
                f"rope_extent_mm must be > 0 mm; found {self.rope_extent_mm}. It is the side of a whole image, not of "
                f"a pixel."
            )
        if len(self.drop_path_rates) != self.num_hidden_layers:
            raise ValueError(
                f"layer_drop_path_rates must hold one rate for each of the {self.num_hidden_layers} layers; "
                f"found {len(self.drop_path_rates)}. Use drop_path_rate for one rate everywhere."
            )
        if not all(0 <= rate < 1 for rate in self.drop_path_rates):
            name = "drop_path_rate" if self.layer_drop_path_rates is None else "layer_drop_path_rates"
            raise ValueError(
                f"{name} must be >= 0 and < 1; found {getattr(self, name)}. It is the share of samples that skip a "
                f"branch; 0.3 is usual in pretraining."
            )

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> "Dinov3CTConfig":
        """Return a named size of the DINOv3 family, with any field overridden.

        Raises:
            ValueError: if the preset or a field is unknown or wrong; transformers alone would keep a misspelt field.
        """
        _check_choice("preset", name, tuple(PRESETS))
        fields = tuple(field for field in cls.__annotations__ if not field.startswith("_"))
        for field in overrides:
            _check_choice(
                "field", field, (*fields, "num_labels", "id2label", "label2id", "out_features", "out_indices")
            )
        try:
            return cls(**(PRESETS[name] | overrides))
        except StrictDataclassError as error:
            raise ValueError(f"Preset {name!r} with {overrides} is no valid architecture. {error}") from error

    @property
    def drop_path_rates(self) -> list[float]:
        """The stochastic depth rate of every layer."""
        if self.layer_drop_path_rates is None:
            return [float(self.drop_path_rate)] * self.num_hidden_layers
        return self.layer_drop_path_rates

    def beyond_stock(self) -> list[str]:
        """Return as "field=value" what transformers' `DINOv3ViTModel` cannot hold; empty for an exact export."""
        lost = [name for name, stock in STOCK_VALUES.items() if getattr(self, name) != stock]
        lost += ["layerscale_value"] if self.layerscale_value is None else []
        return [f"{name}={getattr(self, name)!r}" for name in lost]


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value in choices:
        return
    close = get_close_matches(value, choices, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"Dinov3CTConfig has no {what} {value!r}. {hint}Choose from: {', '.join(choices)}.")


__all__ = ["Dinov3CTConfig"]
