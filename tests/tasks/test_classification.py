import re

import pytest
import torch

from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTForImageClassification, Dinov3CTModel, Dinov3CTSliceAttention
from dinox_hf.tasks.adaptation import AdaptationConfig, adapt, parameter_groups
from dinox_hf.tasks.adapter_files import load_adapter, save_adapter
from dinox_hf.tasks.classification import HeadConfig, build_classifier

CLASSES = ("benign", "suspicious")
ADAPTERS = ("frozen", "lora", "dora", "partial")


def backbone(width: int = 24) -> Dinov3CTModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    return Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", **sizes, layerscale_value=0.5)).eval()


def trained(mode: str, head: HeadConfig):
    """A head whose trainable weights have all moved, as after training."""
    model = adapt(build_classifier(backbone(), head, CLASSES), AdaptationConfig(mode=mode, rank=4, last_blocks=1))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def pixels(head: HeadConfig) -> torch.Tensor:
    return torch.randn(*(2, head.slices_seen)[: 1 if head.slices_seen == 1 else 2], 3, 16, 24)


def trainable(model) -> set[str]:
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {re.sub(r"base_model\.model\.|modules_to_save\.default\.|\.default", "", name) for name in names}


@pytest.mark.parametrize(
    ("mode", "pattern"),
    [
        ("frozen", r"classifier\..*"),
        ("lora", r"classifier\..*|.*attention\.[qkvo]_proj\.lora_[AB]\.weight"),
        ("dora", r"classifier\..*|.*attention\.[qkvo]_proj\.lora_([AB]|magnitude_vector)\.weight"),
        ("partial", r"classifier\..*|model\.model\.layer\.2\..*|model\.norm\..*"),
        ("full", r"(?!model\.embeddings\.mask_token).*"),
    ],
)
def test_each_mode_trains_what_it_says_and_nothing_else(mode, pattern):
    classifier = build_classifier(backbone(), HeadConfig(), CLASSES)
    every = {name for name, _ in classifier.named_parameters()}
    found = trainable(adapt(classifier, AdaptationConfig(mode=mode, last_blocks=1)))
    assert found and all(re.fullmatch(pattern, name) for name in found)
    plain = {name for name in every if re.fullmatch(pattern, name)}
    assert plain <= found


@torch.no_grad()
@pytest.mark.parametrize("mode", ADAPTERS)
@pytest.mark.parametrize("kind", ["linear", "attention_3d"])
def test_an_adapter_read_back_gives_the_same_logits_and_merges_exactly(mode, kind, tmp_path):
    head = HeadConfig(kind=kind)
    model, images = trained(mode, head), pixels(head)
    expected = model(images).logits
    save_adapter(model, tmp_path, base="")
    untrained = build_classifier(backbone(), head, CLASSES)
    assert not torch.allclose(untrained(images).logits, expected, atol=1e-2)
    read_back = load_adapter(untrained, tmp_path).eval()
    torch.testing.assert_close(read_back(images).logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(read_back.merge_and_unload()(images).logits, expected, atol=1e-5, rtol=0)
    # The reader behind `from_pretrained` of an adapter's folder is transformers' own.
    by_transformers = build_classifier(backbone(), head, CLASSES)
    loading = by_transformers.load_adapter(str(tmp_path))
    assert not loading.missing_keys and not loading.unexpected_keys
    torch.testing.assert_close(by_transformers.eval()(images).logits, expected, atol=1e-6, rtol=0)


def test_the_head_copies_every_weight_and_leaves_the_backbone_alone():
    network = backbone()
    classifier = build_classifier(network, HeadConfig(), CLASSES)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in classifier.model.state_dict().items())
    with torch.no_grad():
        classifier.model.norm.weight.zero_()
    assert network.norm.weight.abs().sum() > 0
    assert classifier.config.id2label == {0: "benign", 1: "suspicious"}


def test_training_sees_the_backbone_as_inference_does():
    network = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", num_hidden_layers=2, drop_path_rate=0.5))
    classifier, images = build_classifier(network, HeadConfig(), CLASSES), torch.randn(4, 3, 16, 16)
    assert torch.equal(classifier.train()(images).logits, classifier.eval()(images).logits)


@pytest.mark.parametrize(
    ("width", "head", "message"),
    [
        (32, HeadConfig(), r"width 32.*found \d+ differences.*\(4, 24\) in the adapter, \(4, 32\) in the base"),
        (24, HeadConfig(pooling="cls"), r"pooling 'cls'.*classifier\.weight: \(2, 48\) in the adapter, \(2, 24\)"),
        (24, HeadConfig(kind="attention_3d"), r"num_slices 5.*slice_attention: not in the adapter"),
    ],
)
def test_an_adapter_for_another_base_is_refused_with_what_was_found(width, head, message, tmp_path):
    trained("lora", HeadConfig()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_adapter(build_classifier(backbone(width), head, CLASSES), tmp_path)


def test_a_head_of_slices_does_not_fit_a_base_of_single_ones(tmp_path):
    trained("lora", HeadConfig(kind="attention_3d")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"slice_attention\.hidden: the base has none"):
        load_adapter(build_classifier(backbone(), HeadConfig(), CLASSES), tmp_path)


def test_targets_that_match_nothing_are_refused():
    classifier = build_classifier(backbone(), HeadConfig(), CLASSES)
    with pytest.raises(ValueError, match=r"'query' matches none of .*The default is"):
        adapt(classifier, AdaptationConfig(targets="query"))


def test_more_last_blocks_than_there_are_are_refused():
    with pytest.raises(ValueError, match="at most the 3 blocks"):
        adapt(build_classifier(backbone(), HeadConfig(), CLASSES), AdaptationConfig(mode="partial", last_blocks=4))


def test_the_head_has_its_own_rate_and_vectors_no_decay():
    model = adapt(build_classifier(backbone(), HeadConfig(), CLASSES), AdaptationConfig())
    groups = parameter_groups(model, lr=1e-4, head_lr=1e-2, weight_decay=0.1)
    sizes = {(group["lr"], group["weight_decay"]): sum(p.numel() for p in group["params"]) for group in groups}
    assert sizes == {(1e-2, 0.1): 2 * 48, (1e-2, 0.0): 2, (1e-4, 0.1): 3 * 4 * 8 * (24 + 24)}


def test_slices_of_equal_score_are_averaged_and_one_slice_passes_unchanged():
    pool, slices = Dinov3CTSliceAttention(6), torch.randn(2, 5, 6)
    with torch.no_grad():
        assert torch.allclose(pool(slices[:, :1]), slices[:, 0])
        pool.score.weight.zero_()
        torch.testing.assert_close(pool(slices), slices.mean(dim=1))


def test_attention_follows_the_slice_that_scores_highest():
    pool = Dinov3CTSliceAttention(1, hidden_width=1)
    with torch.no_grad():
        pool.hidden.weight.fill_(1.0)
        pool.hidden.bias.zero_()
        pool.score.weight.fill_(100.0)
        assert pool(torch.tensor([[[0.0], [0.5], [2.0]]])).item() == pytest.approx(2.0)


def test_a_stack_of_slices_needs_a_head_for_it():
    classifier = build_classifier(backbone(), HeadConfig(), CLASSES)
    with pytest.raises(ValueError, match=r"num_slices=1 pixel_values should be \(B, channels, height, width\); found"):
        classifier(torch.randn(1, 5, 3, 16, 16))
    stacked = Dinov3CTForImageClassification(
        build_classifier(backbone(), HeadConfig(kind="attention_3d"), CLASSES).config
    )
    with pytest.raises(ValueError, match=r"num_slices=5 pixel_values should be \(B, slices, channels"):
        stacked(torch.randn(1, 3, 16, 16))


@torch.no_grad()
def test_slices_of_one_lesion_share_its_spacing():
    torch.manual_seed(0)
    metric = {"rope_coordinates": "metric", "rope_extent_mm": 32.0, "num_hidden_layers": 2, "layerscale_value": 0.5}
    network = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", **metric))
    single = build_classifier(network, HeadConfig(), CLASSES).eval()
    stacked = build_classifier(network, HeadConfig(kind="attention_3d"), CLASSES).eval()
    stacked.classifier.load_state_dict(single.classifier.state_dict())
    images, spacing_mm = torch.randn(2, 3, 16, 16), torch.tensor([[1.0, 1.0], [0.5, 0.7]])
    expected = single(images, spacing_mm=spacing_mm).logits
    assert not torch.allclose(expected, single(images).logits, atol=1e-4)
    torch.testing.assert_close(stacked(images[:, None], spacing_mm=spacing_mm).logits, expected)
    torch.testing.assert_close(stacked(torch.stack([images] * 3, 1), spacing_mm=spacing_mm).logits, expected)
