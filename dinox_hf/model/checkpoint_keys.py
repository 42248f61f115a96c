"""Names of the same weights in Meta's releases, in files on the Hub and in our models, both ways (not shipped).

Files on the Hub write `layer.i` where transformers 5 and we write `model.layer.i`; the rest is equal. Meta's own
layout fuses queries, keys and values, and calls register tokens "storage tokens".
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

StateDict = dict[str, Tensor]

META_TO_OURS = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "storage_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings",
    "norm": "norm",
}
META_BLOCK_TO_OURS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.up_proj",
    "mlp.w3": "mlp.down_proj",
}
# Recomputed from the configuration (periods), applied to the biases here (bias_mask), or used in pretraining only (the
# norm for CLS tokens of local crops, which the reference leaves out of evaluation).
META_NOT_WEIGHTS = re.compile(r"rope_embed\.periods|.*\.bias_mask|local_cls_norm\.(weight|bias)")


def load_weights(model: nn.Module, weights: StateDict) -> None:
    """Fill a Dinov3CTModel with weights in any of the three spellings, every one of them or none.

    Raises:
        ValueError: naming each weight that is missing, left over, or of another shape.
    """
    expected = model.state_dict()
    # A model without registers still has an empty weight for them; Meta's has none.
    empty = {name: value for name, value in expected.items() if value.numel() == 0}
    found = empty | without_zero_key_biases(to_ours(weights), expected)
    mend = (
        "Build the model with the checkpoint's configuration: depth, registers, use_gated_mlp, layerscale_value and "
        "biases decide which weights exist."
    )
    refuse_other_tensors("The checkpoint", expected, found, mend)
    model.load_state_dict(found)


def refuse_other_tensors(holder: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], mend: str) -> None:
    """Weights are taken all or none: names and shapes have to agree.

    Args:
        holder: what was read, to begin the message with.
        expected: of the model.
        found: what was read.
        mend: one sentence on what to change.

    Raises:
        ValueError: naming each tensor that is missing, left over, or of another shape.
    """
    problems = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected: {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name}: expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    if problems:
        raise ValueError(
            f"{holder} should hold exactly the {len(expected)} tensors of the model; found {len(problems)} "
            f"differences:\n  " + "\n  ".join(problems) + f"\n{mend}"
        )


def to_ours(weights: StateDict) -> StateDict:
    """Rename Meta's or the Hub's weights to ours; names we do not know stay as they are."""
    if any(name.startswith("blocks.") for name in weights):
        return meta_to_ours(weights)
    return {re.sub(r"^layer\.", "model.layer.", name): value for name, value in weights.items()}


def meta_to_ours(meta: StateDict) -> StateDict:
    """Rename Meta's weights to ours and split queries, keys and values; a key bias that is masked to 0 is left out."""
    ours: StateDict = {}
    for name, value in meta.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if META_NOT_WEIGHTS.fullmatch(name):
            continue
        if block and block[2] in ("attn.qkv.weight", "attn.qkv.bias"):
            kind = block[2].removeprefix("attn.qkv.")
            parts = "qv" if kind == "bias" and _is_key_masked(meta, name) else "qkv"
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                if part in parts:
                    ours[f"model.layer.{block[1]}.attention.{part}_proj.{kind}"] = rows
        elif block:
            ours[f"model.layer.{block[1]}.{_renamed(block[2], META_BLOCK_TO_OURS)}"] = value
        else:
            ours[_renamed(name, META_TO_OURS)] = value.reshape(1, 1, -1) if name == "mask_token" else value
    return ours


def ours_to_meta(ours: StateDict) -> StateDict:
    """Rename our weights to Meta's layout; where queries have a bias and keys have none, the key bias becomes zeros.

    The reference makes its buffers, `bias_mask` and `rope_embed.periods`, itself.
    """
    to_meta = {new: old for old, new in META_TO_OURS.items()}
    # up_proj and down_proj are w2 and w3 of a gated block, fc1 and fc2 of a plain one.
    other_mlp = ("mlp.fc1", "mlp.fc2") if any(".gate_proj." in name for name in ours) else ("mlp.w2", "mlp.w3")
    block_to_meta = {new: old for old, new in META_BLOCK_TO_OURS.items() if old not in other_mlp}
    meta: StateDict = {}
    for name, value in ours.items():
        layer = re.fullmatch(r"model\.layer\.(\d+)\.(.+)", name)
        part = layer and re.fullmatch(r"attention\.[qkv]_proj\.(weight|bias)", layer[2])
        if part:
            siblings = [ours.get(f"model.layer.{layer[1]}.attention.{p}_proj.{part[1]}") for p in "qkv"]
            fused = torch.cat([torch.zeros_like(value) if rows is None else rows for rows in siblings])
            meta[f"blocks.{layer[1]}.attn.qkv.{part[1]}"] = fused
        elif layer:
            meta[f"blocks.{layer[1]}.{_renamed(layer[2], block_to_meta)}"] = value
        elif value.numel():
            meta[_renamed(name, to_meta)] = value.reshape(1, -1) if name == "embeddings.mask_token" else value
    return meta


def without_zero_key_biases(weights: StateDict, expected: StateDict) -> StateDict:
    """Leave out key biases that the model does not have, provided they are zero.

    Raises:
        ValueError: if one is not: under RoPE a key bias changes the tokens.
    """
    surplus = [name for name in weights if name.endswith("k_proj.bias") and name not in expected]
    for name in surplus:
        if weights[name].any():
            raise ValueError(
                f"The model has no key bias, so the checkpoint's should be absent or zero; found values up to "
                f"{weights[name].abs().max():.3g} in {name}. Build the model with key_bias=True."
            )
    return {name: value for name, value in weights.items() if name not in surplus}


def _is_key_masked(meta: StateDict, bias_name: str) -> bool:
    mask = meta.get(f"{bias_name}_mask")
    if mask is None:
        return False
    query, key, value = mask.chunk(3)
    if key.any() or not (query == 1).all() or not (value == 1).all():
        raise ValueError(
            f"{bias_name}_mask should be 1 for queries and values and 0 for keys; found other values. "
            f"Multiply the bias by its mask and leave the mask out of the checkpoint."
        )
    return True


def _renamed(name: str, names: dict[str, str]) -> str:
    """Rename a weight by its longest known beginning: `norm1.weight` by `norm1`, `ls1.gamma` by itself."""
    if name in names:
        return names[name]
    stem, dot, kind = name.rpartition(".")
    return f"{names.get(stem, stem)}{dot}{kind}"
