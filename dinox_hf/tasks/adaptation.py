"""Five ways to train a head on few labels, from the head alone to everything.

What is trained is saved alone: `frozen`, `lora`, `dora` and `partial` become a peft adapter, the head in it, beside a
base that stays as it was; `full` becomes a whole model.
"""

import re
from dataclasses import dataclass
from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn

from ..model.modeling_dinov3_ct import Dinov3CTPreTrainedModel

Mode = Literal["frozen", "lora", "dora", "partial", "full"]
HEAD_MODULES = ("classifier", "slice_attention", "decoder")  # what a model of this room puts on its backbone, `model`


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """Which weights beside the head may change."""

    mode: Mode = "lora"
    rank: int = 8  # of the update of one matrix, for lora and dora
    alpha: float = 16.0  # the update is scaled by alpha / rank
    dropout: float = 0.1  # of the input of the update
    # The matrices that are adapted, by their full name. The MLP too: layer\.\d+\.(attention\.[qkvo]|mlp\.\w+)_proj
    targets: str = r".*\.layer\.\d+\.attention\.[qkvo]_proj"
    last_blocks: int = 2  # trained by `partial`, with the final norm

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1 or self.last_blocks < 1:
            raise ValueError(
                f"adaptation.rank and last_blocks must be >= 1, alpha > 0 and dropout from 0 to below 1; found "
                f"{self.rank}, {self.last_blocks}, {self.alpha} and {self.dropout}. The defaults suit a few "
                f"hundred labels."
            )

    @property
    def is_adapter(self) -> bool:
        """Whether peft saves what was trained; otherwise it is the whole model."""
        return self.mode != "full"


def adapt(model: Dinov3CTPreTrainedModel, adaptation: AdaptationConfig) -> PeftModel | Dinov3CTPreTrainedModel:
    """Let the head train, and of the backbone what the mode says; the head is saved with either.

    Raises:
        ValueError: if `targets` names no matrix, or `last_blocks` are more than there are.
    """
    # No step uses the mask token: DDP would wait for its gradient.
    model.model.embeddings.mask_token.requires_grad_(False)
    if not adaptation.is_adapter:
        return model
    saved = [name for name in HEAD_MODULES if hasattr(model, name)]
    if adaptation.mode == "partial":
        saved += _last_blocks(model, adaptation.last_blocks)
    is_lora = adaptation.mode in ("lora", "dora")
    if is_lora:
        _refuse_no_target(model, adaptation.targets)
    # Without a task type: the ones of peft pass a text model's arguments on to forward.
    config = LoraConfig(
        r=adaptation.rank,
        lora_alpha=adaptation.alpha,
        lora_dropout=adaptation.dropout,
        target_modules=adaptation.targets if is_lora else DUMMY_TARGET_MODULES,
        modules_to_save=saved,
        use_dora=adaptation.mode == "dora",
    )
    return get_peft_model(model, config)


def parameter_groups(model: nn.Module, lr: float, head_lr: float, weight_decay: float) -> list[dict]:
    """Trainable parameters for AdamW: the head and the rest at their own rates, vectors without decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_head = any(f"{head}." in name for head in HEAD_MODULES)
            groups.setdefault((is_head, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": group, "lr": head_lr if is_head else lr, "weight_decay": weight_decay if is_matrix else 0.0}
        for (is_head, is_matrix), group in groups.items()
    ]


def _last_blocks(model: Dinov3CTPreTrainedModel, count: int) -> list[str]:
    depth = model.config.num_hidden_layers
    if count > depth:
        raise ValueError(
            f"adaptation.last_blocks must be at most the {depth} blocks of the backbone; found {count}. "
            f"To train all of them take adaptation.mode=full."
        )
    return [*(f"layer.{index}" for index in range(depth - count, depth)), "model.norm"]


def _refuse_no_target(model: Dinov3CTPreTrainedModel, targets: str) -> None:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not any(re.fullmatch(targets, name) for name in names):
        raise ValueError(
            f"adaptation.targets must match the full name of a linear layer; {targets!r} matches none of "
            f"{len(names)}, such as {names[0]}. The default is {AdaptationConfig.targets!r}."
        )
