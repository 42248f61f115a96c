import logging

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AutoBackbone, AutoModel, AutoModelForImageClassification

from dinox_hf import Dinov3CTBackbone, Dinov3CTConfig, Dinov3CTForImageClassification, Dinov3CTModel
from dinox_hf.model.modeling_dinov3_ct import (
    Dinov3CTRopePositionEmbedding,
    add_branch,
    patch_coordinates,
    pool_tokens,
    rope_periods,
    rope_table,
)


def tiny(model_class=Dinov3CTModel, seed=0, **overrides):
    """A small model whose layer scale lets every block matter."""
    torch.manual_seed(seed)
    fields = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    fields |= {"layerscale_value": 0.5, "patch_size": 4} | overrides
    return model_class(Dinov3CTConfig.preset("vit_tiny", **fields))


PIXELS = torch.randn(4, 3, 12, 20, generator=torch.Generator().manual_seed(1))  # 3 x 5 patches


# --- tokens ---


def test_tokens_are_cls_registers_patches_and_the_pooler_is_cls():
    output = tiny().eval()(PIXELS)
    assert output.last_hidden_state.shape == (4, 1 + 4 + 15, 32)
    assert torch.equal(output.pooler_output, output.last_hidden_state[:, 0])


def test_forward_tokens_gives_what_the_final_norm_sees():
    model = tiny().eval()
    assert torch.equal(model.norm(model.forward_tokens(PIXELS)), model(PIXELS).last_hidden_state)


def test_patch_embedding_equals_the_strided_convolution_and_drops_incomplete_patches():
    embedding = tiny().embeddings.patch_embeddings
    pixels = torch.randn(2, 3, 14, 21)
    expected = nn.functional.conv2d(pixels, embedding.weight, embedding.bias, stride=4).flatten(2).mT
    torch.testing.assert_close(embedding(pixels), expected, atol=1e-5, rtol=0)


def test_pixels_under_the_mask_are_not_seen():
    model = tiny().eval()
    masks = torch.zeros(4, 15, dtype=torch.bool)
    masks[:, 0] = True
    changed = PIXELS.clone()
    changed[..., :4, :4] += 5.0
    assert torch.equal(model.forward_tokens(PIXELS, masks), model.forward_tokens(changed, masks))
    assert not torch.equal(model.forward_tokens(PIXELS), model.forward_tokens(changed))


def test_an_empty_mask_changes_nothing_yet_keeps_the_mask_token_in_the_graph():
    model = tiny().eval()
    nothing = torch.zeros(4, 15, dtype=torch.bool)
    tokens = model.forward_tokens(PIXELS, nothing)
    assert torch.equal(tokens, model.forward_tokens(PIXELS))
    tokens.sum().backward()
    # DistributedDataParallel would wait for ever for a parameter without gradient.
    assert torch.equal(model.embeddings.mask_token.grad, torch.zeros(1, 1, 32))


@pytest.mark.parametrize("shape", [(4, 1, 12, 20), (3, 12, 20), (4, 3, 3, 20)])
def test_pixel_values_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"pixel_values \(B, 3, height, width\).*found"):
        tiny()(torch.zeros(shape))


# --- position ---


def test_rope_by_hand_on_two_patches():
    # Centres of two patches in a row lie at y = 0 and x = -1/2, 1/2. With one period of 1 an axis, x turns by -pi, pi.
    cos, sin = rope_table(patch_coordinates((1, 2)), rope_periods(4))
    torch.testing.assert_close(cos, torch.tensor([[1.0, -1.0, 1.0, -1.0]] * 2))
    torch.testing.assert_close(sin, torch.zeros(2, 4), atol=1e-6, rtol=0)


def test_rope_augmentation_is_drawn_for_each_layer_and_call_and_only_in_training():
    model = tiny(pos_embed_shift=0.2, pos_embed_jitter=1.2, pos_embed_rescale=2.0)
    tables = [cos for _ in range(2) for cos, _ in model.train().rope_embeddings((3, 5), "cpu")]
    assert not any(torch.equal(a, b) for i, a in enumerate(tables) for b in tables[:i])
    first, second = model.eval().rope_embeddings((3, 5), "cpu")
    assert torch.equal(first[0], second[0])


def test_rope_draws_stay_within_their_limits():
    limits = {"pos_embed_shift": 0.2, "pos_embed_jitter": 1.2, "pos_embed_rescale": 2.0}
    rope = Dinov3CTRopePositionEmbedding(Dinov3CTConfig.preset("vit_tiny", num_hidden_layers=500, **limits))
    shift, jitter, rescale = rope.draw_augmentation("cpu")
    assert shift.abs().max() <= 0.2 < 0.21 and shift.abs().max() > 0.18
    assert 1 / 1.2 <= jitter.min() < 0.86 and 1.17 < jitter.max() <= 1.2
    assert 0.5 <= rescale.min() < 0.53 and 1.9 < rescale.max() <= 2.0


def test_rope_stays_float32_when_the_weights_are_bfloat16():
    model = tiny().eval()
    before = model.rope_embeddings((3, 5), "cpu")[0]
    after = model.to(torch.bfloat16).rope_embeddings((3, 5), "cpu")[0]
    assert after[0].dtype == torch.float32 and torch.equal(before[0], after[0])


# --- number types, memory ---


def test_bfloat16_weights_give_nearly_the_float32_tokens():
    expected = tiny().eval()(PIXELS).last_hidden_state
    found = tiny().eval().to(torch.bfloat16)(PIXELS).last_hidden_state
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0)


def test_under_autocast_the_residual_stream_stays_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny(drop_path_rate=0.5).train()(PIXELS, torch.rand(4, 15) < 0.5, output_hidden_states=True)
    assert {tokens.dtype for tokens in output.hidden_states} == {torch.float32}


def test_a_model_built_without_memory_and_then_loaded_is_not_garbage(tmp_path):
    model = tiny().eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, Dinov3CTModel)
    assert torch.equal(loaded(PIXELS).last_hidden_state, model(PIXELS).last_hidden_state)
    with torch.device("meta"):
        hollow = Dinov3CTModel(model.config).eval()
    hollow.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(hollow(PIXELS).last_hidden_state, model(PIXELS).last_hidden_state)


@torch.no_grad()
def test_initial_weights_follow_the_recipe():
    model = tiny(hidden_size=256, layerscale_value=1e-5)
    embeddings, layer = model.embeddings, model.model.layer[0]
    limit = (3 * 4 * 4) ** -0.5
    assert 0.99 * limit < embeddings.patch_embeddings.weight.abs().max() <= limit
    assert embeddings.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    assert embeddings.register_tokens.std().item() == pytest.approx(0.02, rel=0.2)
    assert not embeddings.mask_token.any() and not layer.attention.q_proj.bias.any()
    assert layer.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(layer.layer_scale1.lambda1, torch.full((256,), 1e-5))
    assert torch.equal(model.norm.weight, torch.ones(256))


def test_gradient_checkpointing_gives_the_same_gradients_under_stochastic_depth():
    gradients = []
    for num_passes in (1, 2):
        model = tiny(drop_path_rate=0.5).train()
        if num_passes == 2:
            model.activation_checkpointing_enable()
        calls = []
        model.model.layer[0].norm1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(5)
        model(PIXELS).last_hidden_state.square().sum().backward()
        assert len(calls) == num_passes  # the backward pass computes the layer again
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


# --- stochastic depth ---


def test_a_branch_runs_on_kept_samples_only_and_is_scaled_up():
    seen = []

    def branch(tokens):
        seen.append(tokens)
        return torch.ones_like(tokens)

    output = add_branch(torch.zeros(4, 1, 1), branch, kept=torch.tensor([3, 1]))
    assert seen[0].shape == (2, 1, 1)
    assert output.flatten().tolist() == [0.0, 2.0, 0.0, 2.0]


@pytest.mark.parametrize(("batch_size", "rate", "num_kept"), [(4, 0.5, 2), (10, 0.3, 7), (3, 0.9, 1), (1, 0.5, 1)])
def test_the_number_of_kept_samples_is_exact(batch_size, rate, num_kept):
    layer = tiny(drop_path_rate=rate).train().model.layer[0]
    kept = layer.draw_kept(torch.zeros(batch_size, 2, 32))
    assert len(kept) == num_kept == len(set(kept.tolist()))


def test_stochastic_depth_is_drawn_anew_for_both_branches_and_off_in_evaluation():
    layer = tiny(drop_path_rate=0.5).train().model.layer[0]
    tokens = torch.randn(64, 3, 32)
    assert not torch.equal(layer.draw_kept(tokens), layer.draw_kept(tokens))
    untouched = (layer(tokens) == tokens).flatten(1).all(dim=1)
    # Each branch leaves 32 of 64 out; if both drew together, 32 samples would pass untouched, not about 16.
    assert 4 < untouched.sum() < 28
    assert not (layer.eval()(tokens) == tokens).flatten(1).all(dim=1).any()


def test_every_layer_may_have_a_rate_of_its_own():
    model = tiny(layer_drop_path_rates=[0.0, 0.75]).train()
    kept = [layer.draw_kept(torch.zeros(8, 2, 32)) for layer in model.model.layer]
    assert kept[0] is None and len(kept[1]) == 2


# --- attention ---


@torch.no_grad()
def test_cls_attention_rows_equal_the_first_rows_of_the_full_maps():
    model = tiny().eval()
    tokens = model(PIXELS).last_hidden_state
    rows = model.cls_attention_rows(PIXELS)
    assert [tuple(r.shape) for r in rows] == [(4, 2, 1, 20)] * 2
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(PIXELS).last_hidden_state, tokens)
    model.set_attn_implementation("eager")
    eager = model(PIXELS, output_attentions=True)
    torch.testing.assert_close(eager.last_hidden_state, tokens, atol=1e-5, rtol=0)
    for row, full in zip(rows, eager.attentions, strict=True):
        torch.testing.assert_close(row, full[:, :, :1], atol=1e-6, rtol=0)


@torch.no_grad()
def test_cls_attention_rows_leave_the_tokens_of_sdpa_as_they_are():
    model = tiny().eval()
    expected = model(PIXELS).last_hidden_state
    model.set_attn_implementation("sdpa_maps")
    assert torch.equal(model(PIXELS).last_hidden_state, expected)


@torch.no_grad()
def test_a_registered_attention_is_dispatched_to_in_every_layer():
    calls = []

    def stand_in(module, query, key, value, attention_mask, scaling, dropout, **kwargs):
        """What a flash kernel is handed, and the (B, T, heads, head size) it gives back."""
        calls.append((tuple(query.shape), attention_mask, scaling, dropout, module.is_causal))
        output = nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
        return output.transpose(1, 2), None

    AttentionInterface.register("stand_in_for_a_kernel", stand_in)
    model = tiny().eval()
    expected = model(PIXELS).last_hidden_state
    model.set_attn_implementation("stand_in_for_a_kernel")
    torch.testing.assert_close(model(PIXELS).last_hidden_state, expected, atol=1e-6, rtol=0)
    assert calls == [((4, 2, 20, 16), None, 0.25, 0.0, False)] * 2


def test_a_missing_kernel_falls_back_to_sdpa_and_says_so(caplog):
    model = tiny()
    with caplog.at_level(logging.WARNING):
        model.set_attn_implementation("flash_attention_3")
    assert model.config._attn_implementation == "sdpa"
    assert "'flash_attention_3' cannot be used" in caplog.text and "'sdpa'" in caplog.text
    with pytest.raises(ValueError, match="flash_atention"):
        model.set_attn_implementation("flash_atention")


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_agrees_with_sdpa():
    model = tiny().eval()
    expected = model(PIXELS).last_hidden_state
    model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):  # compiling it takes a minute
        torch.testing.assert_close(model(PIXELS).last_hidden_state, expected, atol=1e-5, rtol=0)


# --- heads and Auto classes ---


def test_pooling_by_hand():
    tokens = torch.tensor([[[1.0], [9.0], [2.0], [6.0]]])  # CLS, one register, two patches
    pooled = {p: pool_tokens(tokens, 1, p).flatten().tolist() for p in ("cls", "mean", "max", "cls+mean")}
    assert pooled == {"cls": [1.0], "mean": [4.0], "max": [6.0], "cls+mean": [1.0, 4.0]}


def test_a_classifier_takes_over_a_backbone_and_gives_a_loss(tmp_path):
    backbone = tiny()
    backbone.save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3, pooling="cls+mean")
    assert isinstance(model, Dinov3CTForImageClassification)
    assert torch.equal(model.model.norm.weight, backbone.norm.weight)
    output = model(PIXELS, labels=torch.tensor([0, 1, 2, 0]))
    expected = nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2, 0]))
    assert output.logits.shape == (4, 3)
    torch.testing.assert_close(output.loss, expected)


def test_a_backbone_is_read_back_out_of_a_classifier(tmp_path):
    classifier = tiny(Dinov3CTForImageClassification)
    classifier.save_pretrained(tmp_path)
    model = Dinov3CTModel.from_pretrained(tmp_path)
    torch.testing.assert_close(model.state_dict(), classifier.model.state_dict(), atol=0, rtol=0)


def test_auto_classes_know_our_configuration():
    config = tiny().config
    assert type(AutoModel.from_config(config)) is Dinov3CTModel
    assert type(AutoBackbone.from_config(config)) is Dinov3CTBackbone
    assert type(AutoModelForImageClassification.from_config(config)) is Dinov3CTForImageClassification
