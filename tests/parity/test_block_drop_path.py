"""Stochastic depth by batch subset reproduces the reference's block when both keep the same samples."""

import pytest
import torch

from dinox_hf.model.checkpoint_keys import meta_to_ours
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTLayer
from tests.parity.fixtures import assert_parity, cases, load, with_prefix


def layer_of(case, state):
    """One layer with the weights of a case, whose names lack the `blocks.0.` of a whole network."""
    hyper = case["hyper"]
    weights = {
        name.removeprefix("model.layer.0."): value
        for name, value in meta_to_ours({f"blocks.0.{name}": value for name, value in state.items()}).items()
    }
    width = state["attn.proj.weight"].shape[0]
    config = Dinov3CTConfig(
        hidden_size=width,
        intermediate_size=weights["mlp.up_proj.weight"].shape[0],
        num_attention_heads=hyper["num_heads"],
        num_hidden_layers=1,
        layer_norm_eps=hyper["norm_eps"],
        use_gated_mlp="mlp.gate_proj.weight" in weights,
        query_bias="attention.q_proj.bias" in weights,
        key_bias="attention.k_proj.bias" in weights,
        value_bias="attention.v_proj.bias" in weights,
        layerscale_value=1.0 if "layer_scale1.lambda1" in weights else None,
        attn_implementation="sdpa",
    )
    layer = Dinov3CTLayer(config, hyper["drop_path"])
    layer.load_state_dict(weights)
    return layer.train()


@pytest.mark.parametrize("case", cases("block_drop_path"))
def test_a_layer_that_keeps_given_samples_matches_the_reference(case):
    inputs, outputs = load(case)
    layer = layer_of(case, with_prefix(inputs, "state/"))
    for name in with_prefix(outputs, "y_"):
        kept = (inputs[f"attn_kept_{name}"], inputs[f"mlp_kept_{name}"])
        tokens = layer(inputs[f"x_{name}"], kept=kept)
        assert_parity(tokens, outputs[f"y_{name}"], f"y_{name}")


@pytest.mark.parametrize("case", cases("block_drop_path"))
def test_a_layer_keeps_as_many_samples_as_the_reference(case):
    inputs, _ = load(case)
    layer = layer_of(case, with_prefix(inputs, "state/"))
    batches = with_prefix(inputs, "x_").values()
    kept = [layer.draw_kept(tokens) for tokens in batches]
    assert [len(samples) for samples in kept] == case["hyper"]["kept"]
    scales = [len(tokens) / len(samples) for tokens, samples in zip(batches, kept, strict=True)]
    assert torch.tensor(scales).tolist() == pytest.approx(case["hyper"]["scale"])
