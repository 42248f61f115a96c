"""A classification head on a Dinov3CT backbone, and five ways to train it on few labels.

What is trained is saved alone: `frozen`, `lora`, `dora` and `partial` become a peft adapter, the head in it, beside a
base that stays as it was; `full` becomes a whole model. Both load through `AutoModelForImageClassification`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors.torch import load_file
from torch import Tensor, nn

from ..model.checkpoint_keys import load_weights
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.modeling_dinov3_ct import Dinov3CTForImageClassification, Dinov3CTModel

Mode = Literal["frozen", "lora", "dora", "partial", "full"]
HEAD_MODULES = ("classifier", "slice_attention")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What the head sees of a lesion."""

    pooling: Literal["cls", "mean", "max", "cls+mean"] = "cls+mean"  # of the tokens of a slice
    kind: Literal["linear", "attention_3d"] = "linear"  # one slice, or several pooled by attention
    num_slices: int = 5  # of attention_3d, the lesion's middle slice among them
    slice_step_mm: float = 2.5  # from one of them to the next

    def __post_init__(self) -> None:
        if self.num_slices < 2 or self.slice_step_mm <= 0:
            raise ValueError(
                f"head.num_slices must be >= 2 and head.slice_step_mm > 0; found {self.num_slices} and "
                f"{self.slice_step_mm}. For a single slice take head.kind=linear."
            )

    @property
    def slices_seen(self) -> int:
        """Slices of one lesion in an example."""
        return self.num_slices if self.kind == "attention_3d" else 1


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


def classifier_config(backbone: Dinov3CTConfig, head: HeadConfig, class_names: tuple[str, ...]) -> Dinov3CTConfig:
    """The backbone's configuration with a head; what pretraining varied at random stays still for so few labels."""
    fields = {name: getattr(backbone, name) for name in Dinov3CTConfig.__annotations__ if not name.startswith("_")}
    still = {"drop_path_rate": 0.0, "layer_drop_path_rates": None}
    still |= {f"pos_embed_{name}": None for name in ("shift", "jitter", "rescale")}
    id2label = dict(enumerate(class_names))
    return Dinov3CTConfig(
        **(fields | still | {"pooling": head.pooling, "num_slices": head.slices_seen}),
        id2label=id2label,
        label2id={name: index for index, name in id2label.items()},
    )


def build_classifier(
    backbone: Dinov3CTModel, head: HeadConfig, class_names: tuple[str, ...]
) -> Dinov3CTForImageClassification:
    """Put a new head on a copy of a backbone; every weight of the backbone arrives, or none.

    Args:
        backbone: pretrained, in any number type.
        head: what it sees.
        class_names: of the classes, class 0 first.
    """
    classifier = Dinov3CTForImageClassification(classifier_config(backbone.config, head, class_names))
    load_weights(classifier.model, backbone.state_dict())
    return classifier


def adapt(
    classifier: Dinov3CTForImageClassification, adaptation: AdaptationConfig
) -> PeftModel | Dinov3CTForImageClassification:
    """Let the head train, and of the backbone what the mode says; the head is saved with either.

    Raises:
        ValueError: if `targets` names no matrix, or `last_blocks` are more than there are.
    """
    # No step uses the mask token: DDP would wait for its gradient.
    classifier.model.embeddings.mask_token.requires_grad_(False)
    if not adaptation.is_adapter:
        return classifier
    saved = [name for name in HEAD_MODULES if hasattr(classifier, name)]
    if adaptation.mode == "partial":
        saved += _last_blocks(classifier, adaptation.last_blocks)
    is_lora = adaptation.mode in ("lora", "dora")
    if is_lora:
        _refuse_no_target(classifier, adaptation.targets)
    # Without a task type: the ones of peft pass a text model's arguments on to forward.
    config = LoraConfig(
        r=adaptation.rank,
        lora_alpha=adaptation.alpha,
        lora_dropout=adaptation.dropout,
        target_modules=adaptation.targets if is_lora else DUMMY_TARGET_MODULES,
        modules_to_save=saved,
        use_dora=adaptation.mode == "dora",
    )
    return get_peft_model(classifier, config)


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


def load_adapter(classifier: Dinov3CTForImageClassification, folder: str | Path) -> PeftModel:
    """Put a saved adapter on its base.

    Args:
        classifier: the base: the same backbone, pooling and number of slices as in training.
        folder: with adapter_config.json and adapter_model.safetensors.

    Raises:
        ValueError: if no adapter lies there, or it was made for another architecture.
    """
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        raise ValueError(
            f"Expected adapter_model.safetensors in {folder}; found none. Name the adapter/ folder that "
            f"training/finetune_classification.py wrote."
        )
    refuse_other_base(classifier, load_file(file))
    return PeftModel.from_pretrained(classifier, str(folder))


def refuse_other_base(classifier: Dinov3CTForImageClassification, adapter: dict[str, Tensor]) -> None:
    """Compare every tensor of an adapter with the module that it belongs to.

    Raises:
        ValueError: naming the first modules that are missing or of another width.
    """
    problems = []
    modules = dict(classifier.named_modules())
    for name, tensor in adapter.items():
        module_name, part = _split_adapter_name(name.removeprefix("base_model.model."))
        module = modules.get(module_name)
        if module is None:
            problems.append(f"{module_name}: the base has none")
            continue
        expected = _expected_shape(module, part, tensor)
        if tuple(tensor.shape) != expected:
            problems.append(f"{module_name}.{part}: {tuple(tensor.shape)} in the adapter, {expected} in the base")
    heads = {name.split(".")[2] for name in adapter if name.split(".")[2] in HEAD_MODULES}
    problems += [
        f"{head}: not in the adapter" for head in HEAD_MODULES if hasattr(classifier, head) and head not in heads
    ]
    if problems:
        config = classifier.config
        raise ValueError(
            f"The adapter should fit a base of width {config.hidden_size}, {config.num_hidden_layers} layers, "
            f"pooling {config.pooling!r} and num_slices {config.num_slices}; found {len(problems)} differences: "
            f"{'; '.join(problems[:3])}. Load the base that adapter_config.json names, with the same pooling."
        )


def _split_adapter_name(name: str) -> tuple[str, str]:
    """`layer.0.q_proj` and `lora_A.weight` of "layer.0.q_proj.lora_A.weight"."""
    found = re.fullmatch(r"(.+?)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(?:\.weight)?|[^.]+)", name)
    return found[1], found[2]


def _expected_shape(module: nn.Module, part: str, tensor: Tensor) -> tuple[int, ...]:
    """The shape that a tensor of an adapter has on this module; a rank is free."""
    if part == "lora_A.weight":
        return (tensor.shape[0], module.in_features)
    if part == "lora_B.weight":
        return (module.out_features, tensor.shape[-1])
    if part.startswith("lora_magnitude_vector"):
        return (module.out_features,)
    value = getattr(module, part, None)
    return () if value is None else tuple(value.shape)


def _last_blocks(classifier: Dinov3CTForImageClassification, count: int) -> list[str]:
    depth = classifier.config.num_hidden_layers
    if count > depth:
        raise ValueError(
            f"adaptation.last_blocks must be at most the {depth} blocks of the backbone; found {count}. "
            f"To train all of them take adaptation.mode=full."
        )
    return [*(f"layer.{index}" for index in range(depth - count, depth)), "model.norm"]


def _refuse_no_target(classifier: Dinov3CTForImageClassification, targets: str) -> None:
    names = [name for name, module in classifier.named_modules() if isinstance(module, nn.Linear)]
    if not any(re.fullmatch(targets, name) for name in names):
        raise ValueError(
            f"adaptation.targets must match the full name of a linear layer; {targets!r} matches none of "
            f"{len(names)}, such as {names[0]}. The default is {AdaptationConfig.targets!r}."
        )
