"""LoRA: the weights that a run starts from stay as they are, and small adapters beside them learn.

Every linear layer of a block computes W x + alpha / rank * B A x (arXiv:2106.09685). A and B are trained, B from 0, so
that the first network is the one that was loaded. The heads train in full; norms, tokens and the patch embedding rest.

Teacher and gram teacher hold the same frozen weights and adapters of their own. The teacher's A and B are the moving
averages of the student's. To average the products B A instead would differ by how A and B move together within the
average, of second order in their steps; but such a teacher has no rank, whereas this one is at every step the weights
it started from and one adapter of some megabytes, which a checkpoint offers beside the merged backbone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.expectation import expect

_ADAPTER = "default"  # peft's name for the only one
_LAYERS = {
    "attention": r"model\.layer\.\d+\.attention\.[qkvo]_proj",
    "all": r"model\.layer\.\d+\.(attention\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
}


@dataclass(frozen=True, kw_only=True)
class LowRankConfig:
    """Adapters beside the linear layers of every block."""

    rank: int = 16  # rows of A and columns of B
    alpha: float = 16.0  # adapters count alpha / rank times; doubling it is like doubling their learning rate
    layers: Literal["attention", "all"] = "all"  # all: the feed-forward too

    def __post_init__(self) -> None:
        expect(self.rank >= 1, "lora.rank", ">= 1", self.rank, "16 is usual; lora: null trains every weight")
        expect(self.alpha > 0, "lora.alpha", "> 0", self.alpha, "equal to lora.rank the factor is 1")


def add_adapters(model: nn.Module, config: LowRankConfig, tell: Callable[[str], None] = print) -> None:
    """Freeze the student's backbone and put adapters beside its layers, likewise in the teachers.

    Args:
        model: a `SelfDistillation` that holds its first weights, not wrapped.
        config: size and place of the adapters; A is drawn here.
        tell: says to the user how much is trained.
    """
    student, teacher = model.student.backbone, model.teacher.backbone
    frozen = [teacher] if model.gram_teacher is None else [teacher, model.gram_teacher]
    for backbone in (student, *frozen):
        inject_adapter_in_model(_peft_config(config), backbone, _ADAPTER)
    first = {name: tensor for name, tensor in student.state_dict().items() if is_adapter(name)}
    for backbone in frozen:
        backbone.load_state_dict(first, strict=False)
        backbone.requires_grad_(False)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(is_adapter(name))
    model.train()  # new layers do not know yet that teachers stay in eval mode
    adapters = sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad)
    trained = sum(parameter.numel() for parameter in model.student.parameters() if parameter.requires_grad)
    tell(
        f"LoRA of rank {config.rank}: {adapters:,} adapter parameters are trained beside "
        f"{num_parameters(student):,} frozen ones of the backbone, and {trained - adapters:,} of the heads."
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter of that name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def num_parameters(backbone: nn.Module) -> int:
    """Parameters of a backbone without those of adapters."""
    return sum(parameter.numel() for name, parameter in backbone.named_parameters() if not is_adapter(name))


def adapter_config(backbone: nn.Module) -> LoraConfig | None:
    """What adapters a backbone has, in peft's words; None if it has none."""
    return getattr(backbone, "peft_config", {}).get(_ADAPTER)


def merged(tensors: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The plain weights W + alpha / rank * B A, under the names of a backbone that never had adapters.

    Args:
        tensors: all weights of an adapted backbone by name, whole.
        config: of `adapter_config`.
    """
    plain = {}
    for name, tensor in tensors.items():
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            a, b = (tensors[f"{layer}.lora_{part}.{_ADAPTER}.weight"] for part in "AB")
            plain[f"{layer}.weight"] = tensor + config.lora_alpha / config.r * (b @ a)
        elif not is_adapter(name):
            plain[name.replace(".base_layer.", ".")] = tensor
    return plain


def save_adapter(folder: Path, tensors: Mapping[str, Tensor], config: LoraConfig) -> None:
    """Write the adapters alone, for `PeftModel.from_pretrained(backbone, folder)`.

    Args:
        folder: made when missing.
        tensors: all weights of an adapted backbone by name, whole.
        config: of `adapter_config`.
    """
    config.save_pretrained(str(folder))
    adapters = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": tensor.contiguous()
        for name, tensor in tensors.items()
        if is_adapter(name)
    }
    save_file(adapters, folder / "adapter_model.safetensors")


def _peft_config(config: LowRankConfig) -> LoraConfig:
    # No task type: those that there are hand the model arguments for text.
    return LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=_LAYERS[config.layers])
