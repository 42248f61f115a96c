"""What one pass through the networks costs: bytes that wait for the backward pass, bytes in use on the way, and FLOPs.

Everything is counted from shapes, from what autograd keeps of each operation of `Dinov3CTLayer`, of the heads and of
the losses. `tests/pretraining/test_memory.py` holds the counts against tensors that were really kept.
Letters: T tokens of a crop, n of all crops, M hidden patches.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..data.crops import NUM_GLOBAL_CROPS, CropsConfig
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from .config import HeadConfig, PretrainConfig
from .recomputation import Policy
from .self_distillation import DistillationNetwork

FLOAT32 = 4  # bytes of a number
_WORKED_ON_AT_ONCE = 4 * 2**22  # losses/cross_entropy.py: bytes of some rows of logits


class Arithmetic(NamedTuple):
    """How numbers are kept while a network trains."""

    product: int = FLOAT32  # bytes of a number that a matrix product gives: 2 under bf16
    is_cpu: bool = False  # whose attention kernel has heads before tokens, so that its result is copied once more

    @property
    def is_cast(self) -> bool:
        """Whether autocast makes copies of weights and inputs."""
        return self.product != FLOAT32


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters, from the networks themselves, built without memory."""

    backbone: int
    block: int  # of one block
    products: int  # of one block: weights of its linear layers, which autocast copies
    dino_head: int
    ibot_head: int
    trained: int  # of the student; with LoRA fewer than all

    @property
    def student(self) -> int:
        """All of the student; the norm for local CLS tokens is lost in the rounding."""
        return self.backbone + self.dino_head + self.ibot_head


def sizes_of(config: PretrainConfig) -> Sizes:
    """Count the parameters of a run's student."""
    with torch.device("meta"):
        network = DistillationNetwork(config, config.model.backbone())
    block = network.backbone.model.layer[0]

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    products = sum(module.weight.numel() for module in block.modules() if isinstance(module, torch.nn.Linear))
    backbone, heads = count(network.backbone), (count(network.dino_head), count(network.ibot_head))
    trained = backbone
    if config.lora:
        chosen = block if config.lora.layers == "all" else block.attention
        linears = [module for module in chosen.modules() if isinstance(module, torch.nn.Linear)]
        widths = sum(linear.in_features + linear.out_features for linear in linears)
        trained = config.lora.rank * widths * len(network.backbone.model.layer)
    return Sizes(backbone, count(block), products, *heads, trained=trained + sum(heads))


@dataclass(frozen=True)
class Crops:
    """Crops of one size in a micro-batch."""

    num: int
    num_tokens: int  # T of each: CLS, registers, patches
    num_patches: int
    size: int  # px

    @property
    def tokens(self) -> int:
        """N = crops x T."""
        return self.num * self.num_tokens

    @property
    def pixels(self) -> int:
        """Bytes of the crops themselves, three float32 channels."""
        return self.num * 3 * self.size**2 * FLOAT32


def crops_of(config: PretrainConfig, sizes: CropsConfig, num_slices: int) -> tuple[Crops, Crops, Crops | None]:
    """Global, local and gram crops of a micro-batch; no gram crops where the gram teacher has none of its own."""
    backbone = config.model.backbone()

    def crops(num: int, size: int) -> Crops:
        patches = (size // backbone.patch_size) ** 2
        return Crops(num, 1 + backbone.num_register_tokens + patches, patches, size)

    gram = crops(NUM_GLOBAL_CROPS * num_slices, sizes.gram_size) if sizes.gram_size else None
    local = crops(sizes.num_local * num_slices, sizes.local_size)
    return crops(NUM_GLOBAL_CROPS * num_slices, sizes.global_size), local, gram


def num_masked(config: PretrainConfig, global_crops: Crops) -> int:
    """M, the hidden patches of a micro-batch: `batch_masks` hides the same number every time."""
    least, most = config.masking.ratio
    num = int(global_crops.num * config.masking.probability)
    ratios = [least + (most - least) * (i + 1) / num for i in range(num)]
    return sum(int(global_crops.num_patches * ratio + 1e-9) for ratio in ratios)


def kept_crops(num: int, rate: float) -> int:
    """How many crops of a batch pass a branch under stochastic depth: `Dinov3CTLayer.draw_kept`."""
    return max(int(num * (1 - rate)), 1) if rate else num


@dataclass(frozen=True)
class Segment:
    """One stretch of the student's pass, forward and backward."""

    name: str
    kept: int = 0  # bytes from its forward pass to its backward pass
    copies: int = 0  # likewise, of weights in bfloat16
    forward: int = 0  # bytes besides, while it runs forward
    backward: int = 0  # bytes besides, while it runs backward
    made: int = 0  # bytes of gradients of parameters that it makes in its backward pass …
    ended: int = 0  # … and of those that had waited for it, and are added up now


@dataclass(frozen=True)
class BlockBytes:
    """Bytes of one block for each token that passes its branches."""

    whole: int  # what autograd keeps
    products: int  # of it matrix products and attention
    passing: int  # alive besides, while the widest part runs backward


def block_bytes(config: Dinov3CTConfig, how: Arithmetic) -> BlockBytes:
    """Count what autograd keeps of one block, for each token.

    Norms, LayerScale and the residual stream are float32; under autocast every linear layer keeps a copy of its own of
    what a norm gives.
    """
    width, hidden, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    product, gated = how.product, config.use_gated_mlp
    to_scale = 0 if config.layerscale_value is None else product * width  # LayerScale keeps what it multiplies
    normed = FLOAT32 * width + 2 * FLOAT32  # a norm keeps its input, a mean and a deviation
    into_attention, into_mlp = (width * (product * n if how.is_cast else FLOAT32) for n in (3, 1 + gated))
    attended = 4 * product * width + FLOAT32 * heads  # queries, keys, values, result; one logsumexp for each head
    copied = product * width if how.is_cpu else 0
    # up and GELU of it; or gate, SiLU of it, up, and their product.
    widened = (4 if gated else 2) * product * hidden
    whole = (normed + into_attention + attended + copied + to_scale) + (normed + into_mlp + widened + to_scale)
    products = attended + product * width + (2 if gated else 1) * product * hidden + product * width
    passing = (3 if gated else 2) * product * hidden + 2 * FLOAT32 * width
    return BlockBytes(whole, products, passing)


def block_segment(
    config: Dinov3CTConfig, sizes: Sizes, crops: Crops, rate: float, policy: Policy, how: Arithmetic, is_first: bool
) -> Segment:
    """One block on the crops of one size; `is_first` says whose gradients come first: the local crops'."""
    cost, stream = block_bytes(config, how), FLOAT32 * config.hidden_size * crops.tokens
    passing = kept_crops(crops.num, rate) * crops.num_tokens
    casts = how.product * sizes.products if how.is_cast else 0
    # Adding some images' branches to all images (index_add) keeps both branches, in float32.
    whole = passing * (cost.whole + (2 * FLOAT32 * config.hidden_size if rate else 0))
    again = {"none": 0, "selective": whole - passing * cost.products + casts, "block": whole + casts}[policy]
    kept = {"none": whole, "selective": stream + passing * cost.products, "block": stream}[policy]
    # With `none` the bfloat16 copies serve both sizes of crops, and their gradients are bfloat16 until both are there.
    waiting = (how.product if policy == "none" else FLOAT32) * sizes.block
    final = FLOAT32 * sizes.block
    return Segment(
        f"blocks, {crops.size} px",
        kept=kept,
        copies=casts if policy == "none" and not is_first else 0,
        forward=again + stream + 2 * FLOAT32 * config.hidden_size * passing,
        backward=again + 2 * stream + passing * cost.passing,
        made=waiting if is_first else final,
        ended=0 if is_first else waiting,
    )


def embedding_segment(config: Dinov3CTConfig, crops: Crops, how: Arithmetic) -> Segment:
    """Patches as rows of pixels, and one table of rotations for each layer."""
    pixels = config.num_channels * config.patch_size**2 * crops.num * crops.num_patches
    augmented = config.pos_embed_shift or config.pos_embed_jitter or config.pos_embed_rescale
    tables = 2 * FLOAT32 * crops.num_patches * (config.hidden_size // config.num_attention_heads)
    tables *= crops.num if config.rope_coordinates == "metric" else 1
    return Segment(
        "embeddings",
        kept=how.product * pixels
        + tables * (config.num_hidden_layers if augmented else 1)
        + crops.num * crops.num_patches,
        forward=FLOAT32 * pixels if how.is_cast else 0,
        backward=2 * FLOAT32 * config.hidden_size * crops.tokens,
    )


def head_segment(
    name: str, head: HeadConfig, num_parameters: int, width: int, rows: int, how: Arithmetic, num_parts: int
) -> Segment:
    """A projection head on some rows, its logits, and their gradient, which comes in `num_parts` that are joined."""
    layers, product = head.num_layers - 1, how.product
    mlp = product * width + layers * 2 * product * head.hidden_dim
    sphere = (product + FLOAT32 + (product if how.is_cast else 0)) * head.bottleneck_dim + 2 * FLOAT32
    logits = rows * head.num_prototypes * product
    return Segment(
        name,
        kept=rows * (mlp + sphere) + logits,
        copies=product * num_parameters if how.is_cast else 0,
        forward=FLOAT32 * width * rows,
        backward=num_parts * logits + rows * product * head.hidden_dim * 2,
        made=FLOAT32 * num_parameters,
    )


def loss_bytes(rows_and_prototypes: list[tuple[int, int]], how: Arithmetic) -> int:
    """What the cross-entropies have in use at their worst: all gradients of logits, and some rows in float32."""
    gradients = sum(rows * prototypes * how.product for rows, prototypes in rows_and_prototypes)
    largest = max(FLOAT32 * rows * prototypes for rows, prototypes in rows_and_prototypes)
    return gradients + 4 * min(largest, _WORKED_ON_AT_ONCE)


def gram_segment(width: int, crops: Crops) -> Segment:
    """Gram anchoring: unit patches, and the similarities of student and gram teacher."""
    units, pairs = (FLOAT32 * crops.num * crops.num_patches * n for n in (width, crops.num_patches))
    return Segment("gram", kept=units + 2 * pairs, forward=2 * units + pairs, backward=3 * pairs + 2 * units)


def inference_bytes(config: Dinov3CTConfig, crops: Crops, how: Arithmetic) -> int:
    """What a pass without gradients has in use: the stream and the widest part of one block."""
    width, hidden = config.hidden_size, config.intermediate_size
    attention = (3 * how.product + 3 * FLOAT32) * width  # queries, keys, values, and a rotation under way
    mlp = (3 if config.use_gated_mlp else 2) * how.product * hidden
    return crops.tokens * (2 * FLOAT32 * width + max(attention, mlp))


def forward_flops(config: Dinov3CTConfig, sizes: Sizes, crops: Crops, in_training: bool) -> float:
    """FLOPs of the backbone's forward pass, a multiplication and an addition being two; norms and such left out.

    Args:
        config: the backbone.
        sizes: of `sizes_of`.
        crops: of one size.
        in_training: whether stochastic depth leaves crops out.
    """
    attention = 4 * crops.num_tokens * config.hidden_size  # for each token: its scores and its mean of values
    rates = config.drop_path_rates if in_training else [0.0] * config.num_hidden_layers
    passing = sum(kept_crops(crops.num, rate) * crops.num_tokens for rate in rates)
    pixels = config.num_channels * config.patch_size**2
    embedding = 2 * crops.num * crops.num_patches * pixels * config.hidden_size
    return passing * (2 * sizes.products + attention) + embedding


def head_flops(num_parameters: int, rows: int) -> int:
    """FLOPs of a head's forward pass on some rows."""
    return 2 * num_parameters * rows
