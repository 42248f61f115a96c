"""Any backbone that an evaluation is given is the one that was saved: ours, stock DINOv3 in its spellings, DINOv2."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from dinox_hf.evaluation.backbones.features import (
    attention_maps,
    load_backbone,
    patch_tokens,
    pooled_features,
    random_twin,
)
from dinox_hf.evaluation.backbones.subject import load_subject

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
STOCK = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**TINY)),
    "dinov2 with registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TINY)),
    "dinov3": lambda: DINOv3ViTModel(DINOv3ViTConfig(**TINY, intermediate_size=64, num_register_tokens=2)),
}


@pytest.fixture(params=STOCK)
def stock(request):
    torch.manual_seed(3)
    model = STOCK[request.param]().eval()
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def test_tokens_and_attention_are_those_of_stock_transformers(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    fields_hu = np.random.default_rng(0).normal(-500, 300, (2, 1, 32, 32)).astype(np.float32)
    size = {"height": 32, "width": 32}
    pixels = backbone.processor(list(fields_hu), size=size, return_tensors="pt")["pixel_values"]
    stock.set_attn_implementation("eager")
    with torch.no_grad():
        expected = stock(pixels, output_attentions=True)
    first = 1 + getattr(stock.config, "num_register_tokens", 0)
    spacing_mm = np.ones((2, 2))
    pooled = pooled_features(backbone, fields_hu, spacing_mm)
    np.testing.assert_allclose(pooled["cls"], expected.last_hidden_state[:, 0], atol=1e-5)
    np.testing.assert_allclose(pooled["mean"], expected.last_hidden_state[:, first:].mean(1), atol=1e-5)
    assert patch_tokens(backbone, fields_hu, spacing_mm).shape == (2, 4, 4, 32)
    attention = expected.attentions[-1][:, :, 0, first:].reshape(2, 2, 4, 4)
    np.testing.assert_allclose(attention_maps(backbone, fields_hu, spacing_mm), attention, atol=1e-5)
    assert type(random_twin(backbone, 0).model) is type(backbone.model)


def test_a_missing_weight_is_refused_and_not_drawn_anew(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in sorted(weights) if "layer.1" in name and name.endswith("weight"))
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing"):
        load_backbone(tmp_path)


def test_random_weights_are_named_by_their_preset():
    with pytest.raises(ValueError, match=r"vits15.*vits16"):
        load_subject("random:vits15", num_random=0)
    subject = load_subject("random:vit_tiny", num_random=1)
    assert subject.backbone.digest != subject.twins[0].digest
