"""Same weights, same pixels, same tokens as transformers' DINOv3ViTModel, each layer named."""

import pytest
import torch
from transformers import DINOv3ViTBackbone, DINOv3ViTConfig, DINOv3ViTModel

from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTBackbone, Dinov3CTModel
from tests.parity.fixtures import assert_parity

ATOL = 1e-5
METRIC = {"rope_coordinates": "metric", "rope_extent_mm": 300.0}


def randomised(model):
    """Weights far from their initial values, so that layer scale, biases and mask token all have a say."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def pair(**overrides):
    """Our model and stock DINOv3 of the same architecture, sharing weights."""
    config = Dinov3CTConfig.preset("vit_tiny", num_hidden_layers=3, **overrides)
    ours = randomised(Dinov3CTModel(config))
    fields = {name: value for name, value in config.to_dict().items() if name in DINOv3ViTConfig.__annotations__}
    stock = DINOv3ViTModel(DINOv3ViTConfig(**fields)).eval()
    stock.load_state_dict(ours.state_dict())
    return ours, stock


@pytest.mark.parametrize("num_register_tokens", [0, 4])
@pytest.mark.parametrize("use_gated_mlp", [False, True])
@pytest.mark.parametrize("is_masked", [False, True])
@torch.no_grad()
def test_tokens_of_every_layer_equal_stock(use_gated_mlp, num_register_tokens, is_masked):
    ours, stock = pair(use_gated_mlp=use_gated_mlp, num_register_tokens=num_register_tokens)
    pixel_values = torch.randn(2, 3, 40, 56)  # 5 x 7 patches: a mistaken axis would show
    masks = torch.rand(2, 35) < 0.4 if is_masked else None
    found = ours(pixel_values, masks, output_hidden_states=True)
    expected = stock(pixel_values, masks, output_hidden_states=True)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, atol=ATOL, rtol=0)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=ATOL, rtol=0)
    for layer, (mine, theirs) in enumerate(zip(found.hidden_states, expected.hidden_states, strict=True)):
        torch.testing.assert_close(mine, theirs, atol=ATOL, rtol=ATOL, msg=lambda text, n=layer: f"layer {n}: {text}")


@torch.no_grad()
def test_feature_maps_equal_the_stock_backbone():
    ours, stock = pair(out_features=["stage1", "stage3"])
    ours_maps, stock_maps = Dinov3CTBackbone(ours.config).eval(), DINOv3ViTBackbone(stock.config).eval()
    ours_maps.load_state_dict(ours.state_dict())
    stock_maps.load_state_dict(ours.state_dict())
    stock_maps.out_features = ["stage1", "stage3"]
    pixel_values = torch.randn(2, 3, 40, 56)
    found, expected = ours_maps(pixel_values).feature_maps, stock_maps(pixel_values).feature_maps
    assert [tuple(m.shape) for m in found] == [(2, 96, 5, 7)] * 2
    torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)


def test_gradients_of_the_weights_equal_stock():
    ours, stock = pair(use_gated_mlp=True)
    pixel_values, masks, weight = torch.randn(2, 3, 40, 40), torch.rand(2, 25) < 0.4, torch.randn(2, 30, 96)
    for model in (ours, stock):
        (model(pixel_values, masks).last_hidden_state * weight).sum().backward()
    expected = {name: parameter.grad for name, parameter in stock.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert_parity(parameter.grad, expected[name], name)


@torch.no_grad()
def test_a_metric_network_gives_the_tokens_of_stock_at_its_canonical_extent_and_no_others():
    ours, stock = pair()
    metric = Dinov3CTModel(Dinov3CTConfig.from_dict(ours.config.to_dict() | METRIC)).eval()
    metric.load_state_dict(stock.state_dict())
    pixel_values = torch.randn(2, 3, 40, 56)
    canonical = torch.tensor([[300 / 40, 300 / 56]]).repeat(2, 1)
    expected = stock(pixel_values).last_hidden_state
    for spacing_mm in (None, canonical):
        found = metric(pixel_values, spacing_mm=spacing_mm).last_hidden_state
        torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)
    half = metric(pixel_values, spacing_mm=canonical / 2).last_hidden_state
    assert (half - expected).abs().max() > 100 * ATOL
