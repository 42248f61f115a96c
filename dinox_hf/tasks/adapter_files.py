"""Adapters on disk: written so that every reader reads all of it, and put only on the base that they belong to."""

import json
import re
from pathlib import Path

from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..model.modeling_dinov3_ct import Dinov3CTPreTrainedModel
from .adaptation import HEAD_MODULES

# What an adapter names where its base lies beside it, wherever both are moved.
LOCAL_BASE = "../base"
_MAGNITUDE = "lora_magnitude_vector"


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    Args:
        model: of `adaptation.adapt`.
        folder: made when missing.
        base: what the adapter names as its base: an id on the Hub, or `LOCAL_BASE`.
    """
    model.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    # peft writes the magnitudes of DoRA without `.weight` and reads both; transformers would pass them over and answer
    # with those of the base.
    tensors = {
        f"{name}.weight" if name.endswith(_MAGNITUDE) else name: value for name, value in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    # The class by which peft would import the base is ours, and nobody else's.
    set_in_json(folder / "adapter_config.json", base_model_name_or_path=base, auto_mapping=None)


def set_in_json(path: Path, **entries: object) -> None:
    """Change entries of a JSON file, which is whole at any time."""
    changed = json.loads(path.read_text()) | entries
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(changed, indent=2, sort_keys=True) + "\n")
    unfinished.replace(path)


def load_adapter(model: Dinov3CTPreTrainedModel, folder: str | Path) -> PeftModel:
    """Put a saved adapter on its base.

    Args:
        model: the base: the same backbone, pooling and number of slices as in training.
        folder: with adapter_config.json and adapter_model.safetensors.

    Raises:
        ValueError: if no adapter lies there, or it was made for another architecture.
    """
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        raise ValueError(
            f"Expected adapter_model.safetensors in {folder}; found none. Name the adapter/ folder that "
            f"training/finetune_*.py wrote."
        )
    refuse_other_base(model, load_file(file))
    return PeftModel.from_pretrained(model, str(folder))


def refuse_other_base(model: Dinov3CTPreTrainedModel, adapter: dict[str, Tensor]) -> None:
    """Compare every tensor of an adapter with the module that it belongs to.

    Raises:
        ValueError: naming the first modules that are missing or of another width.
    """
    problems = []
    modules = dict(model.named_modules())
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
    problems += [f"{head}: not in the adapter" for head in HEAD_MODULES if hasattr(model, head) and head not in heads]
    if problems:
        config = model.config
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
