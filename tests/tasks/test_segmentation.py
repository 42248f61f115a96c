import json

import pytest
import torch

from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.tasks.adaptation import AdaptationConfig, adapt
from dinox_hf.tasks.segmentation import (
    DecoderConfig,
    Dinov3CTForSegmentation,
    build_decoder,
    load_segmenter,
    save_segmenter,
)


def backbone(width: int = 24) -> Dinov3CTModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", **sizes, pos_embed_rescale=None)).eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("mode", ["frozen", "lora"])
def test_a_head_read_back_gives_the_same_logits(kind, mode, tmp_path):
    network, decoder = backbone(), DecoderConfig(kind=kind)
    network.save_pretrained(tmp_path / "base")
    model = adapt(Dinov3CTForSegmentation(network, decoder, num_classes=3), AdaptationConfig(mode=mode, rank=2))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn_like(parameter)
    images = torch.randn(2, 3, 32, 24)
    model.train()(images)  # moves the running means of the batch norm, which are saved too
    expected = model.eval()(images)
    assert expected.shape == (2, 3, 32, 24)
    save_segmenter(model, tmp_path / "head", str(tmp_path / "base"), decoder, 3)
    torch.testing.assert_close(load_segmenter(tmp_path / "head").eval()(images), expected, atol=1e-6, rtol=0)


def test_the_convolutional_head_is_256_and_128_wide_with_norm_gelu_and_dropout():
    decoder = build_decoder(24, 2, DecoderConfig())
    kinds = [type(layer).__name__ for layer in decoder]
    assert kinds == ["Conv2d", "BatchNorm2d", "GELU", "Dropout2d"] * 2 + ["Conv2d"]
    assert [layer.out_channels for layer in decoder if isinstance(layer, torch.nn.Conv2d)] == [256, 128, 2]
    assert decoder[3].p == 0.1


@torch.no_grad()
def test_a_linear_head_looks_at_one_patch_at_a_time():
    model = Dinov3CTForSegmentation(backbone(), DecoderConfig(kind="linear"))
    tokens = torch.randn(1, 24, 4, 3)
    changed = tokens.clone()
    changed[..., 0, 0] += 1
    moved = (model.decoder(changed) - model.decoder(tokens)).abs().sum(dim=1)[0] > 1e-6
    assert moved.nonzero().tolist() == [[0, 0]]


def test_a_head_on_a_backbone_of_another_width_is_refused(tmp_path):
    backbone().save_pretrained(tmp_path / "base")
    backbone(32).save_pretrained(tmp_path / "other")
    model = adapt(Dinov3CTForSegmentation(backbone(), DecoderConfig()), AdaptationConfig(mode="frozen"))
    save_segmenter(model, tmp_path / "head", str(tmp_path / "base"), DecoderConfig(), 2)
    with pytest.raises(ValueError, match=r"width 32.*\(256, 24, 3, 3\) in the adapter, \(256, 32, 3, 3\) in the base"):
        load_segmenter(tmp_path / "head", base=str(tmp_path / "other"))


def test_a_folder_without_a_head_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"segmentation\.json"):
        load_segmenter(tmp_path)
