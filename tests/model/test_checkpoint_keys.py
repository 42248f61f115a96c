import pytest
import torch
from transformers import DINOv3ViTModel

from dinox_hf import Dinov3CTConfig, Dinov3CTModel
from dinox_hf.model.checkpoint_keys import load_weights, meta_to_ours, ours_to_meta


def tiny(**overrides):
    fields = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    model = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", **(fields | overrides)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def released(model):
    """A checkpoint as Meta ships it: fused rows, masked key bias, buffers and the norm of pretraining."""
    meta = ours_to_meta(model.state_dict())
    for name in [name for name in meta if name.endswith("qkv.bias")]:
        rows = meta[name].view(3, -1)
        rows[1] = 7.0  # whatever stands under the mask does not count
        meta[f"{name}_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(rows.shape[1])
    extras = {"rope_embed.periods": torch.ones(2), "local_cls_norm.weight": torch.ones(16)}
    return meta | extras | {"local_cls_norm.bias": torch.zeros(16)}


def assert_equal_weights(found, expected):
    torch.testing.assert_close(found.state_dict(), expected.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("use_gated_mlp", [False, True])
@pytest.mark.parametrize("num_register_tokens", [0, 4])
def test_a_released_checkpoint_loads_by_key(use_gated_mlp, num_register_tokens):
    source = tiny(use_gated_mlp=use_gated_mlp, num_register_tokens=num_register_tokens)
    target = tiny(use_gated_mlp=use_gated_mlp, num_register_tokens=num_register_tokens)
    load_weights(target, released(source))
    assert_equal_weights(target, source)


def test_the_fused_rows_are_queries_keys_values_in_this_order():
    fused = torch.arange(6.0).view(6, 1)
    ours = meta_to_ours({"blocks.3.attn.qkv.weight": fused})
    rows = [ours[f"model.layer.3.attention.{part}_proj.weight"].flatten().tolist() for part in "qkv"]
    assert rows == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


def test_files_of_the_hub_spell_layers_without_model(tmp_path):
    source, target = tiny(), tiny()
    load_weights(target, {name.removeprefix("model."): value for name, value in source.state_dict().items()})
    assert_equal_weights(target, source)
    load_weights(target := tiny(), source.state_dict())
    assert_equal_weights(target, source)


def test_names_survive_the_way_to_meta_and_back():
    ours = tiny(use_gated_mlp=True, key_bias=True).state_dict()
    torch.testing.assert_close(dict(meta_to_ours(ours_to_meta(ours))), dict(ours), atol=0, rtol=0)
    assert {"blocks.1.mlp.w3.weight", "blocks.0.ls1.gamma", "storage_tokens"} <= ours_to_meta(ours).keys()


def test_every_missing_unexpected_and_misshapen_weight_is_listed():
    weights = released(tiny())
    del weights["blocks.1.norm2.bias"]
    weights["cls_norm.weight"] = torch.ones(16)
    weights["norm.weight"] = torch.ones(8)
    target = tiny()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match="found 3 differences") as error:
        load_weights(target, weights)
    for line in (
        "missing: model.layer.1.norm2.bias",
        "unexpected: cls_norm.weight",
        "norm.weight: expected (16,), found (8,)",
    ):
        assert line in str(error.value)
    torch.testing.assert_close(dict(target.state_dict()), before, atol=0, rtol=0)


def test_a_key_bias_is_dropped_when_zero_and_refused_otherwise():
    source, target = tiny(), tiny()
    weights = ours_to_meta(source.state_dict())  # holds zeros where keys have no bias
    load_weights(target, weights)
    assert_equal_weights(target, source)
    weights["blocks.1.attn.qkv.bias"][16:32] = 0.25
    with pytest.raises(ValueError, match=r"0\.25 in model\.layer\.1\.attention\.k_proj\.bias.*key_bias=True"):
        load_weights(target, weights)
    load_weights(with_bias := tiny(key_bias=True), weights)
    assert with_bias.model.layer[1].attention.k_proj.bias.eq(0.25).all()


def test_a_mask_that_hides_more_than_keys_is_refused():
    weights = released(tiny())
    weights["blocks.0.attn.qkv.bias_mask"][0] = 0.0
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.bias_mask should be 1"):
        meta_to_ours(weights)


def test_stock_checkpoints_load_through_from_pretrained(tmp_path):
    source = tiny()
    fields = {name: value for name, value in source.config.to_dict().items() if name != "model_type"}
    stock = DINOv3ViTModel(DINOv3ViTModel.config_class(**fields))
    stock.load_state_dict(source.state_dict())
    stock.save_pretrained(tmp_path)
    assert_equal_weights(Dinov3CTModel.from_pretrained(tmp_path), source)
