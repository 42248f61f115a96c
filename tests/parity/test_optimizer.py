"""Parameter multipliers against the reference's table, name by name."""

import re

import pytest

from dinox_hf.pretraining.optimizer import multipliers
from tests.parity.fixtures import cases

TRANSFORMERS_NAMES = [
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^storage_tokens$", "embeddings.register_tokens"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.", "model.layer."),
    (r"\.attn\.qkv\.", ".attention.q_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.(fc1|w2)\.", ".mlp.up_proj."),
    (r"\.mlp\.(fc2|w3)\.", ".mlp.down_proj."),
    (r"\.mlp\.w1\.", ".mlp.gate_proj."),
    (r"^last_layer\.", "prototypes."),
]


def our_name(name: str) -> str:
    for pattern, replacement in TRANSFORMERS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("prefix", ["", "student.backbone."])
@pytest.mark.parametrize("case", cases("param_groups"))
def test_multipliers_match_for_every_parameter(case, prefix):
    blocks = {int(row["name"].split(".")[1]) for row in case["table"] if row["name"].startswith("blocks.")}
    hyper = case["hyper"]
    for row in case["table"]:
        found = multipliers(
            prefix + our_name(row["name"]),
            depth=len(blocks),
            layerwise_decay=hyper.get("layerwise_decay", 1.0),
            patch_embed_lr_multiplier=hyper.get("patch_embed_lr_mult", 1.0),
        )
        assert found.lr == pytest.approx(row["lr_multiplier"], rel=1e-12), row["name"]
        assert found.weight_decay == row["wd_multiplier"], row["name"]
        assert found.is_last_layer == row["is_last_layer"], row["name"]
