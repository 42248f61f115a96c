"""Coordinates in millimetres: what a metric network makes of the spacing of each image of its batch."""

import pytest
import torch

from dinox_hf import Dinov3CTBackbone, Dinov3CTConfig, Dinov3CTForImageClassification, Dinov3CTModel
from dinox_hf.model.modeling_dinov3_ct import metric_coordinates, patch_coordinates

EXTENT_MM = 60.0
PIXELS = torch.randn(4, 3, 12, 20, generator=torch.Generator().manual_seed(1))  # 3 x 5 patches of 4
CANONICAL = torch.tensor([[EXTENT_MM / 12, EXTENT_MM / 20]]).repeat(4, 1)
SPACING = torch.tensor([[5.0, 3.0], [2.0, 2.0], [0.7, 0.9], [4.0, 1.5]])


def network(model_class=Dinov3CTModel, rope_coordinates="metric", **overrides):
    """A small network whose attention tells places apart; one seed, so that all of them share weights."""
    torch.manual_seed(0)
    fields = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    fields |= {"layerscale_value": 0.5, "patch_size": 4, "initializer_range": 0.3, "pos_embed_rescale": None}
    extent_mm = EXTENT_MM if rope_coordinates == "metric" else None
    fields |= {"rope_coordinates": rope_coordinates, "rope_extent_mm": extent_mm} | overrides
    return model_class(Dinov3CTConfig.preset("vit_tiny", **fields)).eval()


@torch.no_grad()
def tokens(model, spacing_mm=None, pixels=PIXELS):
    return model(pixels, spacing_mm=spacing_mm).last_hidden_state


# --- coordinates ---


def test_coordinates_are_millimetres_from_the_middle_over_half_the_extent_by_hand():
    # Two patches of 10 pixels of 1 mm in a column: centres 5 mm above and below the middle. Half of 40 mm is 20 mm.
    (found,) = metric_coordinates((2, 1), 10, torch.tensor([[1.0, 7.0]]), extent_mm=40.0)
    torch.testing.assert_close(found, torch.tensor([[-0.25, 0.0], [0.25, 0.0]]))


def test_at_the_canonical_extent_coordinates_are_those_of_stock_also_of_oblong_images():
    found = metric_coordinates((3, 5), 4, CANONICAL, EXTENT_MM)
    torch.testing.assert_close(found, patch_coordinates((3, 5)).expand(4, -1, -1), atol=2e-7, rtol=0)


def test_the_middle_of_a_crop_keeps_its_distances_when_the_crop_grows():
    small = metric_coordinates((2, 2), 4, torch.tensor([[0.5, 0.5]]), EXTENT_MM)[0]
    large = metric_coordinates((4, 4), 4, torch.tensor([[0.5, 0.5]]), EXTENT_MM)[0].view(4, 4, 2)
    torch.testing.assert_close(large[1:3, 1:3].reshape(4, 2), small)


def test_tables_are_float32_whatever_the_weights_and_the_spacing_are():
    model = network()
    expected = model.rope_embeddings((3, 5), "cpu", SPACING)[0][0]
    found = model.to(torch.bfloat16).rope_embeddings((3, 5), "cpu", SPACING.double())[0][0]
    assert found.shape == (4, 1, 15, 16) and found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_augmentation_stretches_all_images_of_a_layer_alike_and_each_layer_otherwise():
    model = network(pos_embed_rescale=2.0, pos_embed_shift=0.3).train()
    (first, _), (second, _) = model.rope_embeddings((3, 5), "cpu", CANONICAL)
    assert torch.equal(first[0], first[1]) and not torch.allclose(first[0], second[0])


# --- tokens ---


def test_without_spacing_or_at_the_canonical_extent_the_tokens_are_those_of_stock():
    expected = tokens(network(rope_coordinates="separate"))
    assert torch.equal(tokens(network()), expected)
    torch.testing.assert_close(tokens(network(), CANONICAL), expected, atol=1e-5, rtol=0)
    assert (tokens(network(), SPACING) - expected).abs().max() > 0.1


@pytest.mark.parametrize("rope_coordinates", ["separate", "min", "max"])
def test_networks_with_other_coordinates_ignore_the_spacing(rope_coordinates):
    model = network(rope_coordinates=rope_coordinates)
    assert torch.equal(tokens(model, SPACING), tokens(model))


def test_every_image_of_a_batch_has_the_tokens_that_it_has_alone():
    model = network()
    alone = [tokens(model, SPACING[i : i + 1], PIXELS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(tokens(model, SPACING), torch.cat(alone), atol=1e-5, rtol=0)


@torch.no_grad()
def test_images_that_skip_a_branch_take_their_tables_with_them():
    layer = network().model.layer[0]
    table = network().rope_embeddings((3, 5), "cpu", SPACING)[0]
    hidden, kept = torch.randn(4, 20, 32), (torch.tensor([2, 0]), torch.tensor([1, 2]))
    found = layer(hidden, position_embeddings=table, kept=kept)

    def alone(image):
        own = tuple(part[image : image + 1] for part in table)
        return layer.attention(layer.norm1(hidden[image : image + 1]), own)[0]

    expected = hidden.clone()
    for image in (2, 0):
        expected[image] += 2 * layer.layer_scale1(alone(image))[0]
    for image in (1, 2):
        expected[image] += 2 * layer.layer_scale2(layer.mlp(layer.norm2(expected[image])))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_gradient_checkpointing_gives_the_same_gradients_with_spacing_and_stochastic_depth():
    gradients = []
    for is_checkpointed in (False, True):
        model = network(drop_path_rate=0.5, pos_embed_rescale=2.0).train()
        if is_checkpointed:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)
        model(PIXELS, spacing_mm=SPACING).last_hidden_state.square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kernel", ["eager", "sdpa_maps", "flex_attention"])
def test_every_kernel_gives_the_tokens_of_sdpa(kernel):
    model = network()
    expected = tokens(model, SPACING)
    model.set_attn_implementation(kernel)
    with torch.compiler.set_stance("force_eager"):  # compiling takes a minute
        torch.testing.assert_close(tokens(model, SPACING), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_attention_rows_feature_maps_and_classifier_follow_the_spacing():
    model, maps, classifier = network(), network(Dinov3CTBackbone), network(Dinov3CTForImageClassification)
    maps.load_state_dict(model.state_dict())
    classifier.model.load_state_dict(model.state_dict())
    patches = tokens(model, SPACING)[:, 5:].mT.unflatten(-1, (3, 5))
    assert torch.equal(maps(PIXELS, spacing_mm=SPACING).feature_maps[-1], patches)
    expected = classifier.classifier(tokens(model, SPACING)[:, 0])
    assert torch.equal(classifier(PIXELS, spacing_mm=SPACING).logits, expected)
    told, silent = model.cls_attention_rows(PIXELS, SPACING)[-1], model.cls_attention_rows(PIXELS)[-1]
    assert (told - silent).abs().max() > 1e-3


def test_bfloat16_networks_take_the_spacing_too():
    model = network(initializer_range=0.1)
    expected = tokens(model, SPACING)
    found = tokens(model.to(torch.bfloat16), SPACING, PIXELS.to(torch.bfloat16))
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("shape", [(2,), (3, 2), (4, 3)])
def test_spacing_of_another_shape_is_named(shape):
    with pytest.raises(ValueError, match=r"spacing_mm must be \(B, 2\).*each of the 4 images; found"):
        network()(PIXELS, spacing_mm=torch.ones(shape))


# --- configuration ---


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rope_coordinates": "metric"}, "go together; found 'metric' and None"),
        ({"rope_extent_mm": 300.0}, "go together; found 'separate' and 300.0"),
        ({"rope_coordinates": "metric", "rope_extent_mm": 0.0}, "rope_extent_mm must be > 0 mm; found 0.0"),
    ],
)
def test_an_extent_belongs_to_metric_coordinates_and_is_positive(overrides, message):
    with pytest.raises(ValueError, match=message):
        Dinov3CTConfig.preset("vit_tiny", **overrides)


def test_a_saved_metric_network_comes_back_metric(tmp_path):
    model = network()
    model.save_pretrained(tmp_path)
    assert torch.equal(tokens(Dinov3CTModel.from_pretrained(tmp_path).eval(), SPACING), tokens(model, SPACING))
