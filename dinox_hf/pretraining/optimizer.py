"""AdamW as the recipe uses it: how fast each parameter learns, clipping per part, and no step on a broken gradient."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW, Optimizer

LAYER = re.compile(r"(?:^|\.)model\.layer\.(\d+)\.")
EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.")
PATCH_EMBEDDINGS = re.compile(r"(?:^|\.)embeddings\.patch_embeddings\.")
PROTOTYPES = re.compile(r"(?:^|\.)prototypes\.")
NOT_DECAYED = re.compile(r"norm|gamma|lambda1|bias$")


class Multipliers(NamedTuple):
    """How one parameter differs from the learning rate and weight decay of the step."""

    lr: float
    weight_decay: float
    is_last_layer: bool  # the prototypes: they stand still while the run begins


def multipliers(
    name: str, *, depth: int, layerwise_decay: float = 1.0, patch_embed_lr_multiplier: float = 1.0
) -> Multipliers:
    """Say how fast a parameter learns and whether it is pulled towards zero, from its name alone.

    Layers near the pixels learn more slowly, by one factor per layer: the embeddings are layer 0, block i is layer
    i + 1, final norms and heads are undamped. Biases, norms and LayerScale are not decayed; the CLS, register and
    mask tokens are, as in the released code.

    Args:
        name: parameter name as in transformers' DINOv3ViT, with any prefix.
        depth: number of blocks.
        layerwise_decay: the factor per layer, 1 for none.
        patch_embed_lr_multiplier: further factor of the patch embedding.

    Returns:
        its multipliers of learning rate and weight decay.
    """
    layer = depth + 1
    if EMBEDDINGS.search(name):
        layer = 0
    elif block := LAYER.search(name):
        layer = int(block[1]) + 1
    lr = layerwise_decay ** (depth + 1 - layer)
    if PATCH_EMBEDDINGS.search(name):
        lr *= patch_embed_lr_multiplier
    return Multipliers(lr, 0.0 if NOT_DECAYED.search(name) else 1.0, bool(PROTOTYPES.search(name)))


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    depth: int,
    layerwise_decay: float = 1.0,
    patch_embed_lr_multiplier: float = 1.0,
) -> list[dict[str, Any]]:
    """Gather parameters that are treated alike into groups for an optimiser; frozen ones are left out.

    Args:
        named_parameters: of the whole student, heads included.
        depth: number of blocks of its backbone.
        layerwise_decay: see `multipliers`.
        patch_embed_lr_multiplier: see `multipliers`.

    Returns:
        groups with `params`, `lr_multiplier`, `wd_multiplier` and `is_last_layer`, in order of first appearance.
    """
    groups: dict[Multipliers, list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            key = multipliers(
                name,
                depth=depth,
                layerwise_decay=layerwise_decay,
                patch_embed_lr_multiplier=patch_embed_lr_multiplier,
            )
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_multiplier": key.lr,
            "wd_multiplier": key.weight_decay,
            "is_last_layer": key.is_last_layer,
        }
        for key, parameters in groups.items()
    ]


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    depth: int,
    layerwise_decay: float = 1.0,
    patch_embed_lr_multiplier: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> AdamW:
    """Return AdamW over the groups of `parameter_groups`; it stands still until `set_step_values` gives it values.

    Fused on every device: one kernel per dtype, and the only form that can skip a step without asking the host.

    Args:
        named_parameters: of the whole student, heads included.
        depth: number of blocks of its backbone.
        layerwise_decay: see `multipliers`.
        patch_embed_lr_multiplier: see `multipliers`.
        betas: decay of the two moments; long runs of the recipe use (0.9, 0.99).
        eps: added to the denominator.

    Returns:
        the optimiser.
    """
    groups = parameter_groups(
        named_parameters,
        depth=depth,
        layerwise_decay=layerwise_decay,
        patch_embed_lr_multiplier=patch_embed_lr_multiplier,
    )
    return AdamW(groups, lr=0.0, weight_decay=0.0, betas=betas, eps=eps, fused=True)


def set_step_values(
    optimizer: Optimizer, *, lr: float, weight_decay: float, last_layer_lr: float | None = None
) -> None:
    """Give every group the learning rate and weight decay of this step, times its own multipliers.

    Args:
        optimizer: from `build_optimizer`, wrapped or not.
        lr: learning rate.
        weight_decay: weight decay; AdamW scales it by the learning rate, so frozen prototypes do not decay.
        last_layer_lr: learning rate of the prototypes, 0 while they are frozen; None is `lr`.
    """
    for group in optimizer.param_groups:
        is_own = group["is_last_layer"] and last_layer_lr is not None
        group["lr"] = (last_layer_lr if is_own else lr) * group["lr_multiplier"]
        group["weight_decay"] = weight_decay * group["wd_multiplier"]


def clip_gradients(modules: Mapping[str, nn.Module], max_norm: float) -> tuple[dict[str, Tensor], Tensor]:
    """Shorten the gradient of each part of the student on its own, so that one part cannot silence another.

    The recipe clips backbone, DINO head and iBOT head separately. Nothing here makes the host wait.

    Args:
        modules: parts by name, such as {"backbone": ..., "dino_head": ..., "ibot_head": ...}.
        max_norm: largest L2 norm of a part's gradient; `math.inf` only measures.

    Returns:
        norms: () norm of each part before clipping, by name.
        is_finite: () bool, whether every gradient of every part is finite; for `step_if_finite` and `ema_update_`.
    """
    norms = {}
    for name, module in modules.items():
        parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in parameters])
        clip_grads_with_norm_(parameters, max_norm, norm)
        # Under FSDP2 every rank holds a part of the sum.
        norms[name] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return norms, torch.stack(list(norms.values())).isfinite().all()


def step_if_finite(optimizer: Optimizer, is_finite: Tensor) -> None:
    """Update the parameters if the gradients are finite; else leave parameters, moments and step counts as they are.

    The reference applies a NaN step and gives up after three; here the step is lost and the run goes on. The fused
    kernel reads the flag on the device, in `found_inf`, by which PyTorch's own GradScaler skips steps.

    Args:
        optimizer: fused AdamW, or the wrapper that Accelerate makes of it.
        is_finite: () bool on the device of the parameters, from `clip_gradients`.

    Raises:
        ValueError: if the optimiser is not a fused one and would ignore the flag.
    """
    fused = getattr(optimizer, "optimizer", optimizer)
    if not all(group.get("fused") for group in fused.param_groups):
        raise ValueError(
            f"step_if_finite expects a fused optimiser, which can skip a step on the device; found "
            f"{type(fused).__name__} with fused=False. Use build_optimizer(), or pass fused=True."
        )
    fused.found_inf = (~is_finite).float()
    try:
        optimizer.step()
    finally:
        del fused.found_inf
