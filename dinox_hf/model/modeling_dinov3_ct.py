"""Dinov3CT: pixel values in, CLS, register and patch tokens out.

The network of DINOv3 (arXiv:2508.10104), with the parameter names of transformers' `DINOv3ViTModel`, so that weights
move freely between Meta's releases, stock transformers and this file. It stands alone: it is copied beside published
weights and needs torch and transformers only.

Shapes: B images, N patches, R registers, T = 1 + R + N tokens, D width. Tokens are ordered [CLS, registers, patches].
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutput,
    BaseModelOutputWithPooling,
    ImageClassifierOutput,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface, PreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_dinov3_ct import Dinov3CTConfig

logger = logging.get_logger(__name__)


def patch_coordinates(
    grid: tuple[int, int], divide_by: str = "separate", dtype: torch.dtype = torch.float32, device: Any = None
) -> Tensor:
    """Return the patch centres of a (rows, columns) grid in [-1, 1], as (N, 2) in the order (y, x).

    "separate" divides each axis by its own side; "min" and "max" divide both by the smaller or the larger side, so
    that a step to the right is as long as a step down.
    """
    sides = {"separate": grid, "min": (min(grid),) * 2, "max": (max(grid),) * 2}[divide_by]
    axes = [
        (torch.arange(count, dtype=dtype, device=device) + 0.5) / side for count, side in zip(grid, sides, strict=True)
    ]
    return 2 * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1) - 1


def metric_coordinates(grid: tuple[int, int], patch_size: int, spacing_mm: Tensor, extent_mm: float) -> Tensor:
    """Return patch centres in millimetres from the middle of each image, over half of `extent_mm`: (B, N, 2), float32.

    That is the stock coordinate of each axis times the share of the canonical field of view that the axis measures, so
    an image of `extent_mm` a side has the stock coordinates, and a piece half as wide spans half of them.

    Args:
        grid: (rows, columns) of patches.
        patch_size: side of a patch in pixels.
        spacing_mm: (B, 2) size of a pixel, rows then columns.
        extent_mm: side of the canonical field of view.
    """
    # One factor for each axis is a plain number: a tensor of them would make the host wait for the device.
    shares = [spacing_mm[:, axis].float() * (count * patch_size / extent_mm) for axis, count in enumerate(grid)]
    return patch_coordinates(grid, device=spacing_mm.device) * torch.stack(shares, dim=-1)[:, None]


def rope_periods(
    head_size: int,
    base: float = 100.0,
    period_range: tuple[float, float] | None = None,
    dtype: torch.dtype = torch.float32,
    device: Any = None,
) -> Tensor:
    """Return (head_size / 4,) periods: base^(i / (head_size / 4)), or a geometric range that includes both ends."""
    count = head_size // 4
    if period_range is None:
        return base ** (torch.arange(count, dtype=dtype, device=device) / count)
    shortest, longest = period_range
    return shortest * (longest / shortest) ** torch.linspace(0, 1, count, dtype=dtype, device=device)


def rope_table(coordinates: Tensor, periods: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of 2 pi coordinate / period: (..., N, 2) and (head_size / 4,) -> (..., N, head_size)."""
    angles = 2 * math.pi * coordinates[..., None] / periods
    # Half a head holds [periods of y, periods of x]; rotate_half pairs it with the other half, so both turn alike.
    angles = angles.flatten(-2)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def augment_coordinates(coordinates: Tensor, shift: Tensor, jitter: Tensor, rescale: Tensor) -> Tensor:
    """Return (L, ..., N, 2): patch centres (..., N, 2), moved by shift (L, 2), then stretched.

    By jitter (L, 2), each axis on its own, and by rescale (L, 1), both alike.
    """
    shift, jitter, rescale = (
        draw.view(len(draw), *[1] * (coordinates.ndim - 1), -1) for draw in (shift, jitter, rescale)
    )
    return (coordinates + shift) * jitter * rescale


def rotate_patches(tokens: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the patch tokens of (B, heads, T, head_size) queries or keys; CLS and registers have no place and stay.

    The table is (N, head_size) for all images, or (B, 1, N, head_size) with one for each.
    The rotation runs in the table's float32 and only its result is cast: in bfloat16 neighbouring patches of a large
    grid would share an angle. The reference trains with bfloat16 tables, its released models run with float32 ones.
    """
    prefix, patches = tokens.split([tokens.shape[-2] - cos.shape[-2], cos.shape[-2]], dim=-2)
    first, second = patches.chunk(2, dim=-1)
    rotated = patches * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([prefix, rotated.to(tokens.dtype)], dim=-2)


class Dinov3CTRopePositionEmbedding(nn.Module):
    """Rotary position tables, one for each layer, in float32 whatever the dtype of the weights.

    The module owns no buffer: nothing to cast by `.to(bfloat16)`, nothing left uninitialised on the meta device.
    """

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, grid: tuple[int, int], device: torch.device, spacing_mm: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        """Return (cos, sin) for every layer; training draws anew for each layer and call.

        Each is (N, head_size) for all images, or with the spacing (B, 2) of a metric network (B, 1, N, head_size).
        """
        config = self.config
        period_range = None if config.rope_min_period is None else (config.rope_min_period, config.rope_max_period)
        head_size = config.hidden_size // config.num_attention_heads
        periods = rope_periods(head_size, config.rope_theta, period_range, device=device)
        coordinates = self._coordinates(grid, device, spacing_mm)
        if self.training and (config.pos_embed_shift or config.pos_embed_jitter or config.pos_embed_rescale):
            cos, sin = rope_table(augment_coordinates(coordinates, *self.draw_augmentation(device)), periods)
            return list(zip(cos, sin, strict=True))
        return [rope_table(coordinates, periods)] * config.num_hidden_layers

    def _coordinates(self, grid: tuple[int, int], device: torch.device, spacing_mm: Tensor | None) -> Tensor:
        """(N, 2), or (B, 1, N, 2), where the second axis is that of the heads."""
        config = self.config
        if config.rope_coordinates != "metric":
            return patch_coordinates(grid, config.rope_coordinates, device=device)
        if spacing_mm is None:
            return patch_coordinates(grid, device=device)
        spacing_mm = spacing_mm.to(device)
        return metric_coordinates(grid, config.patch_size, spacing_mm, config.rope_extent_mm)[:, None]

    def draw_augmentation(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw shift (L, 2), jitter (L, 2) and rescale (L, 1); factors are log-uniform in [1/limit, limit]."""
        num_layers = self.config.num_hidden_layers

        def uniform(width: int, limit: float) -> Tensor:
            return torch.empty(num_layers, width, device=device).uniform_(-limit, limit)

        shift = uniform(2, self.config.pos_embed_shift or 0.0)
        jitter = uniform(2, math.log(self.config.pos_embed_jitter or 1.0)).exp()
        rescale = uniform(1, math.log(self.config.pos_embed_rescale or 1.0)).exp()
        return shift, jitter, rescale


def eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Attention written out: (B, heads, T, head_size) -> (B, T, heads, head_size) and the (B, heads, T, T) weights."""
    scores = query @ key.mT * kwargs["scaling"]
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(scores.softmax(dim=-1), p=kwargs["dropout"], training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def sdpa_with_cls_rows(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """SDPA, and beside its output what the CLS token looks at: (B, heads, 1, T) weights instead of T x T."""
    # SDPA would warn that it returns no weights; those of the CLS token are made here.
    kwargs.pop("output_attentions", None)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scores = query[:, :, :1].float() @ key.float().mT * kwargs["scaling"]
    return output, scores.softmax(dim=-1)


AttentionInterface.register("sdpa_maps", sdpa_with_cls_rows)


class Dinov3CTAttention(nn.Module):
    """Multi-head self-attention with rotated queries and keys, through whichever implementation the config names."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__()
        self.config = config
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.is_causal = False  # read by the attention functions of transformers
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.query_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.key_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.value_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.proj_bias)

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, T, D) and, where the implementation has them, attention weights."""
        batch_size, num_tokens, _ = hidden_states.shape
        heads = (batch_size, num_tokens, -1, self.head_size)
        query = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        key = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if position_embeddings is not None:
            query, key = rotate_patches(query, *position_embeddings), rotate_patches(key, *position_embeddings)

        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attention(self, query, key, value, None, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(batch_size, num_tokens, -1)), weights


class Dinov3CTMLP(nn.Module):
    """Feed-forward block: down(act(up(x))), or gated as SwiGLU: down(act(gate(x)) * up(x))."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__()
        self.is_gated = config.use_gated_mlp
        if self.is_gated:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.is_gated:
            return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class Dinov3CTLayerScale(nn.Module):
    """One learned factor for each channel of a residual branch, small at first."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__()
        self.initial_value = config.layerscale_value
        self.lambda1 = nn.Parameter(torch.full((config.hidden_size,), config.layerscale_value))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * self.lambda1


def _norm(config: Dinov3CTConfig) -> nn.Module:
    norm_class = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}[config.norm_type]
    return norm_class(config.hidden_size, eps=config.layer_norm_eps)


def _layer_scale(config: Dinov3CTConfig) -> nn.Module:
    return nn.Identity() if config.layerscale_value is None else Dinov3CTLayerScale(config)


def add_branch(hidden_states: Tensor, branch: Callable[[Tensor], Tensor], kept: Tensor | None) -> Tensor:
    """Return x + branch(x), or with `kept` (n,) sample indices: only those samples pass the branch, scaled by B/n.

    Stochastic depth by batch subset: dropped samples cost nothing, where zeroing their output would cost all of it.
    """
    if kept is None:
        return hidden_states + branch(hidden_states)
    update = branch(hidden_states[kept]).to(hidden_states.dtype)
    return hidden_states.index_add(0, kept, update, alpha=len(hidden_states) / len(kept))


class Dinov3CTLayer(GradientCheckpointingLayer):
    """One transformer block: x + scale(attention(norm(x))), then x + scale(mlp(norm(x)))."""

    def __init__(self, config: Dinov3CTConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.norm1 = _norm(config)
        self.attention = Dinov3CTAttention(config)
        self.layer_scale1 = _layer_scale(config)
        self.norm2 = _norm(config)
        self.mlp = Dinov3CTMLP(config)
        self.layer_scale2 = _layer_scale(config)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        kept: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return (B, T, D); `kept` names the samples that pass each of the two branches, drawn here unless given."""
        kept_attention, kept_mlp = kept or (self.draw_kept(hidden_states), self.draw_kept(hidden_states))
        if kept_attention is not None and position_embeddings is not None and position_embeddings[0].ndim > 2:
            # Every image has a table of its own: those that skip the branch leave theirs out.
            position_embeddings = tuple(table[kept_attention] for table in position_embeddings)

        def attend(tokens: Tensor) -> Tensor:
            return self.layer_scale1(self.attention(self.norm1(tokens), position_embeddings, **kwargs)[0])

        def feed_forward(tokens: Tensor) -> Tensor:
            return self.layer_scale2(self.mlp(self.norm2(tokens)))

        hidden_states = add_branch(hidden_states, attend, kept_attention)
        return add_branch(hidden_states, feed_forward, kept_mlp)

    def draw_kept(self, hidden_states: Tensor) -> Tensor | None:
        """Draw exactly max(int(B * (1 - rate)), 1) sample indices; `None` where every sample is kept."""
        if not self.training or self.drop_path_rate == 0.0:
            return None
        batch_size = hidden_states.shape[0]
        num_kept = max(int(batch_size * (1 - self.drop_path_rate)), 1)
        return torch.randperm(batch_size, device=hidden_states.device)[:num_kept]


class Dinov3CTPatchEmbeddings(nn.Conv2d):
    """Square patches to tokens: the weight of a strided convolution, applied as one matrix product."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        size = config.patch_size
        super().__init__(config.num_channels, config.hidden_size, kernel_size=size, stride=size)

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Return (rows, columns) of patches; pixels that fill no patch are left out, as the convolution would."""
        size = self.kernel_size[0]
        return pixel_values.shape[-2] // size, pixel_values.shape[-1] // size

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return (B, N, D) from (B, channels, height, width)."""
        (rows, columns), size = self.grid(pixel_values), self.kernel_size[0]
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.in_channels or not rows * columns:
            raise ValueError(
                f"Dinov3CTModel expects pixel_values (B, {self.in_channels}, height, width) of at least one patch of "
                f"{size} pixels; found {tuple(pixel_values.shape)}. Dinov3CTImageProcessor makes them from a slice."
            )
        pixels = pixel_values[..., : rows * size, : columns * size].to(self.weight.dtype)
        # Shapes stay symbols in an export: len() or -1 would fix the number of images.
        patches = pixels.reshape(*pixels.shape[:2], rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias)


class Dinov3CTEmbeddings(nn.Module):
    """CLS, register and patch tokens, with masked patches replaced by the mask token."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, config.hidden_size))
        self.patch_embeddings = Dinov3CTPatchEmbeddings(config)

    def forward(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> Tensor:
        """Return (B, T, D) from (B, channels, height, width) and (B, N) masks, true where a patch is hidden."""
        patches = self.patch_embeddings(pixel_values)
        if bool_masked_pos is not None:
            patches = torch.where(bool_masked_pos[..., None], self.mask_token, patches)
        # Under autocast patches are bfloat16 and these tokens float32: joined, the residual stream stays float32.
        prefix = torch.cat([self.cls_token, self.register_tokens], dim=1).expand(patches.shape[0], -1, -1)
        return torch.cat([prefix, patches], dim=1)


class Dinov3CTPreTrainedModel(PreTrainedModel):
    """What all Dinov3CT models share: initial weights, attention dispatch and what transformers may record."""

    config: Dinov3CTConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ("Dinov3CTEmbeddings", "Dinov3CTLayer")
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": Dinov3CTLayer, "attentions": Dinov3CTAttention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw initial weights as the DINOv3 reference does; stock transformers draws patch embeddings otherwise."""
        std = self.config.initializer_range
        if isinstance(module, Dinov3CTPatchEmbeddings):
            limit = module.weight[0].numel() ** -0.5
            init.uniform_(module.weight, -limit, limit)
            init.uniform_(module.bias, -limit, limit)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, Dinov3CTEmbeddings):
            init.normal_(module.cls_token, std=std)
            init.normal_(module.register_tokens, std=std)
            init.zeros_(module.mask_token)
        elif isinstance(module, Dinov3CTLayerScale):
            init.constant_(module.lambda1, module.initial_value)
        else:
            super()._init_weights(module)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        """Use SDPA, and say so, where the wanted implementation is not installed; an unknown name stays an error."""
        try:
            return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)
        except ImportError as reason:
            logger.warning(
                "attn_implementation=%r cannot be used here (%s) Using 'sdpa'.", attn_implementation, reason
            )
            return super()._check_and_adjust_attn_implementation("sdpa", *args, **kwargs)


class Dinov3CTEncoder(Dinov3CTPreTrainedModel):
    """The stack of layers."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__(config)
        self.layer = nn.ModuleList(Dinov3CTLayer(config, rate) for rate in config.drop_path_rates)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, hidden_states: Tensor, position_embeddings: list[tuple[Tensor, Tensor]], **kwargs: Any
    ) -> BaseModelOutput:
        """Return (B, T, D) tokens before the final norm, and the hidden states and attentions asked for."""
        for layer, table in zip(self.layer, position_embeddings, strict=True):
            hidden_states = layer(hidden_states, position_embeddings=table, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)


class Dinov3CTModel(Dinov3CTPreTrainedModel):
    """The backbone: CLS, register and patch tokens of an image."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__(config)
        self.embeddings = Dinov3CTEmbeddings(config)
        self.rope_embeddings = Dinov3CTRopePositionEmbedding(config)
        self.model = Dinov3CTEncoder(config)
        self.norm = _norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the patch embedding."""
        return self.embeddings.patch_embeddings

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        spacing_mm: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the tokens of every image after the final norm.

        Args:
            pixel_values: (B, channels, height, width), any height and width.
            bool_masked_pos: (B, N), true where a patch is replaced by the mask token.
            spacing_mm: (B, 2) size of a pixel in mm, rows then columns, for `rope_coordinates="metric"`; `None` takes
                every side for `rope_extent_mm` long, which gives exactly the tokens of stock DINOv3. Networks with
                other coordinates ignore it, so that one batch serves both kinds. That it is above 0 is not checked: it
                would make the host wait for the device. Dinov3CTImageProcessor checks it.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict` as everywhere in transformers.

        Returns:
            last_hidden_state (B, T, D), pooler_output (B, D) its CLS token, hidden_states before the final norm.

        Raises:
            ValueError: if pixels or spacing have another shape.
        """
        encoded = self._encode(pixel_values, bool_masked_pos, spacing_mm, **kwargs)
        tokens = self.norm(encoded.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=tokens[:, 0],
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def forward_tokens(
        self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None, spacing_mm: Tensor | None = None
    ) -> Tensor:
        """Return (B, T, D) tokens before the final norm: pretraining applies norms of its own."""
        return self._encode(pixel_values, bool_masked_pos, spacing_mm).last_hidden_state

    def cls_attention_rows(self, pixel_values: Tensor, spacing_mm: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return for every layer where the CLS token looks: (B, heads, 1, T), without ever holding T x T."""
        before = self.config._attn_implementation
        self.set_attn_implementation("sdpa_maps")
        try:
            return self(pixel_values, spacing_mm=spacing_mm, output_attentions=True).attentions
        finally:
            self.set_attn_implementation(before)

    def _encode(
        self,
        pixel_values: Tensor,
        bool_masked_pos: Tensor | None = None,
        spacing_mm: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        if spacing_mm is not None and spacing_mm.shape != (pixel_values.shape[0], 2):
            raise ValueError(
                f"spacing_mm must be (B, 2), mm per pixel along rows and columns of each of the {len(pixel_values)} "
                f"images; found {tuple(spacing_mm.shape)}. Dinov3CTImageProcessor returns it for the spacing of the "
                f"slices."
            )
        tokens = self.embeddings(pixel_values, bool_masked_pos)
        tables = self.rope_embeddings(self.embeddings.patch_embeddings.grid(pixel_values), tokens.device, spacing_mm)
        return self.model(tokens, tables, **kwargs)


class Dinov3CTBackbone(BackboneMixin, Dinov3CTModel):
    """The same network as feature maps of chosen layers, for detection and segmentation heads of transformers."""

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)

    @can_return_tuple
    @filter_output_hidden_states
    def forward(self, pixel_values: Tensor, spacing_mm: Tensor | None = None, **kwargs: Any) -> BackboneOutput:
        """Return a feature map for each of `config.out_features`, "stem" and "stage1" to the last layer.

        Args:
            pixel_values: (B, channels, height, width), any height and width.
            spacing_mm: (B, 2) size of a pixel in mm, as in `Dinov3CTModel`.
            kwargs: as for `Dinov3CTModel`.

        Returns:
            feature_maps, each (B, D, rows, columns) of patches, or (B, N, D) with `reshape_hidden_states=False`; after
            the final norm, unless `apply_layernorm=False`, which leaves it to the last layer.

        Raises:
            ValueError: if pixels or spacing have another shape.
        """
        encoded = self._encode(pixel_values, spacing_mm=spacing_mm, **(kwargs | {"output_hidden_states": True}))
        grid = self.embeddings.patch_embeddings.grid(pixel_values)
        feature_maps = []
        for name, tokens in zip(self.stage_names, encoded.hidden_states, strict=True):
            if name not in self.out_features:
                continue
            if self.config.apply_layernorm or name == self.stage_names[-1]:
                tokens = self.norm(tokens)
            patches = tokens[:, 1 + self.config.num_register_tokens :]
            feature_maps.append(patches.mT.unflatten(-1, grid) if self.config.reshape_hidden_states else patches)
        return BackboneOutput(
            feature_maps=tuple(feature_maps), hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )


def pool_tokens(tokens: Tensor, num_register_tokens: int, pooling: str) -> Tensor:
    """Reduce (B, T, D) tokens to (B, D), or (B, 2D) for "cls+mean"; mean and max run over the patch tokens."""
    cls_token, patches = tokens[:, 0], tokens[:, 1 + num_register_tokens :]
    parts = {"cls": lambda: cls_token, "mean": lambda: patches.mean(dim=1), "max": lambda: patches.amax(dim=1)}
    return torch.cat([parts[part]() for part in pooling.split("+")], dim=-1)


class Dinov3CTSliceAttention(nn.Module):
    """Slices of one lesion to one vector, each weighed by what is in it.

    Attention-based pooling of Ilse et al. (ICML 2018, arXiv:1802.04712), equation 8:

        z = sum over slices of a_s h_s,  a = softmax of w . tanh(V h_s)

    The number of slices is free, and one slice alone passes unchanged.
    """

    def __init__(self, width: int, hidden_width: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_width)
        self.score = nn.Linear(hidden_width, 1, bias=False)

    def forward(self, slices: Tensor) -> Tensor:
        """Return (B, D) from (B, S, D)."""
        weights = self.score(self.hidden(slices).tanh()).softmax(dim=1)
        return (weights * slices).sum(dim=1)


class Dinov3CTForImageClassification(Dinov3CTPreTrainedModel):
    """The backbone with one linear layer on its pooled tokens; `config.pooling` says which.

    With `config.num_slices` above 1 an image is a stack of slices through one lesion, pooled by attention.
    """

    def __init__(self, config: Dinov3CTConfig) -> None:
        super().__init__(config)
        self.model = Dinov3CTModel(config)
        width = config.hidden_size * (2 if config.pooling == "cls+mean" else 1)
        if config.num_slices > 1:
            self.slice_attention = Dinov3CTSliceAttention(width)
        self.classifier = nn.Linear(width, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, spacing_mm: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Return logits (B, num_labels), and the loss where `labels` are given.

        Args:
            pixel_values: (B, channels, height, width), or (B, S, channels, height, width) where `config.num_slices` is
                above 1; S may differ from it.
            labels: (B,) class numbers.
            spacing_mm: (B, 2) size of a pixel in mm, as in `Dinov3CTModel`; slices of one lesion share it.
            kwargs: as for the backbone.

        Returns:
            logits (B, num_labels) before any softmax, loss () or `None`, hidden_states and attentions if asked for.

        Raises:
            ValueError: if pixels or spacing have another shape.
        """
        has_slices = self.config.num_slices > 1
        if pixel_values.ndim != (5 if has_slices else 4):
            wanted = "(B, slices, channels, height, width)" if has_slices else "(B, channels, height, width)"
            raise ValueError(
                f"With num_slices={self.config.num_slices} pixel_values should be {wanted}; found "
                f"{tuple(pixel_values.shape)}. Stack the slices of each lesion along the second axis, or take a head "
                f"for single slices."
            )
        images = pixel_values.flatten(0, 1) if has_slices else pixel_values
        if has_slices and spacing_mm is not None:
            spacing_mm = spacing_mm.repeat_interleave(pixel_values.shape[1], dim=0)
        outputs = self.model(images, spacing_mm=spacing_mm, **kwargs)
        pooled = pool_tokens(outputs.last_hidden_state, self.config.num_register_tokens, self.config.pooling)
        if has_slices:
            pooled = self.slice_attention(pooled.unflatten(0, pixel_values.shape[:2]))
        logits = self.classifier(pooled)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


__all__ = ["Dinov3CTBackbone", "Dinov3CTForImageClassification", "Dinov3CTModel", "Dinov3CTPreTrainedModel"]
