"""What a block keeps for the backward pass, and what it computes again there: memory against time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from ..model.modeling_dinov3_ct import Dinov3CTModel

# none: everything autograd asks for. selective: matrix products and attention, the expensive results; norms, casts,
# activation functions and rotations come again. block: nothing but the input; the whole block comes again.
Policy = Literal["none", "selective", "block"]

_aten = torch.ops.aten
# No bmm: in a block it appears only where attention is written out, and there it makes T x T weights.
_PRODUCTS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]


def recompute(backbone: Dinov3CTModel, policy: Policy) -> None:
    """Let the blocks of a backbone keep only what `policy` says, whenever it trains.

    Draws repeat in the second pass, so gradients are those of `none`, bit for bit on a CPU; except that under bf16 a
    weight's gradients from the two sizes of crops are added in float32, where `none` adds them in bfloat16.

    Args:
        backbone: whose blocks are told.
        policy: none, selective or block.
    """
    contexts = {"selective": _selective, "block": _block}
    if policy != "none":
        backbone.activation_checkpointing_enable({"use_reentrant": False, "context_fn": contexts[policy]})


def _selective() -> tuple[AbstractContextManager, AbstractContextManager]:
    """Around the first and the second pass of a block."""
    first, second = create_selective_checkpoint_contexts(_PRODUCTS)
    return _with_own_casts(first), second


def _block() -> tuple[AbstractContextManager, AbstractContextManager]:
    return _with_own_casts(nullcontext()), nullcontext()


@contextmanager
def _with_own_casts(context: AbstractContextManager) -> Iterator[None]:
    """Autocast keeps the bfloat16 copy of a weight for the next call of the same block, with crops of another size.

    Then the two passes of that call would differ in their operations, and the copies of all weights would outlive
    their blocks. Here every call casts for itself.
    """
    was_enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with context:
            yield
    finally:
        torch.set_autocast_cache_enabled(was_enabled)
