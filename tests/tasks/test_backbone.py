import json
import re

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.tasks.backbone import build_backbone, read_processor


@pytest.fixture(scope="module")
def stock():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return DINOv3ViTModel(DINOv3ViTConfig(**sizes, patch_size=8, num_register_tokens=4, image_size=32)).eval()


@torch.no_grad()
def test_stock_weights_in_the_hubs_spelling_all_arrive(stock):
    hub_weights = {re.sub(r"^model\.layer\.", "layer.", name): value for name, value in stock.state_dict().items()}
    assert any(name.startswith("layer.0.") for name in hub_weights)
    backbone = build_backbone(hub_weights, stock.config)
    pixel_values = torch.randn(2, 3, 32, 24)
    expected = stock(pixel_values).last_hidden_state
    torch.testing.assert_close(backbone(pixel_values).last_hidden_state, expected, atol=1e-5, rtol=0)


def test_an_unknown_spelling_is_refused_and_no_block_stays_random(stock):
    weights = {name.replace("model.layer.", "encoder.layer."): value for name, value in stock.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing: model\.layer\.0"):
        build_backbone(weights, stock.config)


def test_weights_without_a_configuration_are_refused(stock):
    with pytest.raises(ValueError, match=r"config\.json"):
        build_backbone(stock.state_dict(), None)


def test_bfloat16_weights_become_float32():
    model = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", num_hidden_layers=1))
    backbone = build_backbone({name: value.bfloat16() for name, value in model.state_dict().items()}, model.config)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}


def test_a_stock_processor_gives_its_mean_to_ours(tmp_path):
    stock = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 64, "width": 64}}
    spread = {"image_mean": [0.43, 0.41, 0.3], "image_std": [0.21, 0.2, 0.2]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stock | spread))
    processor = read_processor(tmp_path, None, patch_size=16)
    assert list(processor.image_mean) == spread["image_mean"] and processor.size["height"] == 64


def test_a_size_that_is_no_multiple_of_the_patch_is_refused_with_one_that_is():
    with pytest.raises(ValueError, match=r"multiple of the patch size 16; found 50. Take 48"):
        read_processor(None, 50, patch_size=16)
