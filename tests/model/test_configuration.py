import json

import pytest
import torch
from transformers import AutoConfig, DINOv3ViTConfig

from dinox_hf import Dinov3CTConfig, Dinov3CTModel
from dinox_hf.model.configuration_dinov3_ct import PRESETS


def test_vitg16_has_1_13_billion_parameters():
    with torch.device("meta"):
        model = Dinov3CTModel(Dinov3CTConfig.preset("vitg16"))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(1.13, abs=0.01)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_stock_transformers_and_has_whole_heads(name):
    config = Dinov3CTConfig.preset(name)
    assert config.beyond_stock() == []
    assert config.hidden_act == ("silu" if config.use_gated_mlp else "gelu")
    assert (config.num_register_tokens, config.layerscale_value, config.layer_norm_eps) == (4, 1e-5, 1e-6)


def test_an_unknown_preset_names_the_nearest_and_all_others():
    with pytest.raises(ValueError, match=r"'vits61'\. Did you mean 'vits16'\?.*vit7b16"):
        Dinov3CTConfig.preset("vits61")


def test_a_misspelt_override_is_refused():
    with pytest.raises(ValueError, match=r"'drop_path'\. Did you mean 'drop_path_rate'"):
        Dinov3CTConfig.preset("vits16", drop_path=0.3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_attention_heads": 7}, "num_attention_heads=7"),
        ({"pooling": "median"}, "cls, mean, max, cls\\+mean"),
        ({"rope_min_period": 1.0}, "Give both"),
        ({"layer_drop_path_rates": [0.1]}, "each of the 12 layers; found 1"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size must be >= 1; found 0"),
        ({"patch_size": 0}, "patch_size must be >= 1; found 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be >= 1; found 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be >= 1; found -1"),
        ({"num_attention_heads": 0}, "num_attention_heads must be >= 1; found 0"),
        ({"num_register_tokens": -1}, "num_register_tokens must be >= 0; found -1"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be >= 0 and < 1; found 1.0"),
        ({"layer_drop_path_rates": [0.1] * 11 + [-0.1]}, "layer_drop_path_rates must be >= 0 and < 1"),
    ],
)
def test_an_impossible_architecture_says_what_to_change(overrides, message):
    with pytest.raises(ValueError, match=message):
        Dinov3CTConfig.preset("vits16", **overrides)


def test_saved_configurations_come_back_through_autoconfig(tmp_path):
    config = Dinov3CTConfig.preset("vit_tiny", pooling="cls+mean", num_labels=3, out_indices=[1, 4])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, Dinov3CTConfig)
    assert json.loads(loaded.to_json_string()) == json.loads(config.to_json_string())


def test_a_saved_configuration_spells_out_every_field_that_stock_would_default_otherwise(tmp_path):
    Dinov3CTConfig.preset("vit_tiny").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    stock = DINOv3ViTConfig()
    differing = {name for name, value in Dinov3CTConfig().to_dict().items() if getattr(stock, name, value) != value}
    assert {"layerscale_value", "layer_norm_eps", "num_register_tokens"} <= differing - {"model_type"} <= saved.keys()


def test_what_stock_cannot_hold_is_named():
    config = Dinov3CTConfig.preset("vit_tiny", norm_type="rmsnorm", layerscale_value=None, rope_coordinates="max")
    assert config.beyond_stock() == ["norm_type='rmsnorm'", "rope_coordinates='max'", "layerscale_value=None"]
