"""The whole network reproduces the reference: evaluation, masks, two crop sizes in training mode, and gradients.

The reference may hold norms of its own for CLS and register tokens (`cls_norm`) and for those of local crops in
training (`local_cls_norm`). They belong to pretraining, not to our model, and are applied here to its tokens.
"""

import pytest
import torch
from torch import nn

from dinox_hf.hub.state_files import meta_state
from dinox_hf.model.checkpoint_keys import load_weights, meta_to_ours, ours_to_meta
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from tests.parity.fixtures import assert_parity, cases, find, leaf, load, with_prefix

RESCALED = "pos_embed_rope_rescale_coords"
REFERENCE_ONLY_NORMS = ("cls_norm.", "local_cls_norm.")


class Reference:
    """Our model with a case's weights, and the reference's norms around it."""

    def __init__(self, hyper, state):
        self.model = Dinov3CTModel(config_of(hyper, state))
        load_weights(self.model, {n: v for n, v in state.items() if not n.startswith(REFERENCE_ONLY_NORMS)})
        self.cls_norm = self.norm("cls_norm", state) or self.model.norm
        self.local_cls_norm = self.norm("local_cls_norm", state) or self.cls_norm

    def norm(self, name, state):
        if f"{name}.weight" not in state:
            return None
        config = self.model.config
        norm = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}[config.norm_type](
            config.hidden_size, eps=config.layer_norm_eps
        )
        norm.load_state_dict(with_prefix(state, f"{name}."))
        return norm

    def tokens(self, images, masks=None, cls_norm=None):
        """Normed tokens by name, from one resolution."""
        tokens = self.model.forward_tokens(images, masks)
        num_prefix = 1 + self.model.config.num_register_tokens
        prefix = (cls_norm or self.cls_norm)(tokens[:, :num_prefix])
        patches = self.model.norm(tokens[:, num_prefix:])
        return {"prenorm": tokens, "cls": prefix[:, 0], "registers": prefix[:, 1:], "patches": patches}

    def gradients(self):
        """Gradients of all parameters, under the reference's names."""
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        if self.local_cls_norm is not self.model.norm:
            gradients |= {f"local_cls_norm.{name}": p.grad for name, p in self.local_cls_norm.named_parameters()}
        if self.cls_norm is not self.model.norm:
            gradients |= {f"cls_norm.{name}": p.grad for name, p in self.cls_norm.named_parameters()}
        return ours_to_meta(gradients)


def config_of(hyper, state):
    """The architecture of a case; sizes that `hyper` does not spell out are read off the weights."""
    ours = meta_to_ours(state)
    first = "model.layer.0."
    return Dinov3CTConfig(
        patch_size=hyper["patch_size"],
        num_channels=state["patch_embed.proj.weight"].shape[1],
        hidden_size=hyper["embed_dim"],
        intermediate_size=ours[f"{first}mlp.up_proj.weight"].shape[0],
        num_hidden_layers=hyper["depth"],
        num_attention_heads=hyper["num_heads"],
        use_gated_mlp=f"{first}mlp.gate_proj.weight" in ours,
        mlp_bias=f"{first}mlp.up_proj.bias" in ours,
        query_bias=f"{first}attention.q_proj.bias" in ours,
        key_bias=f"{first}attention.k_proj.bias" in ours,
        value_bias=f"{first}attention.v_proj.bias" in ours,
        proj_bias=f"{first}attention.o_proj.bias" in ours,
        norm_type="layernorm" if "norm.bias" in state else "rmsnorm",
        layer_norm_eps=hyper["norm_eps"],
        layerscale_value=1e-5 if f"{first}layer_scale1.lambda1" in ours else None,
        num_register_tokens=hyper.get("n_storage_tokens", 0),
        rope_theta=hyper["rope_base"],
        rope_coordinates=hyper.get("pos_embed_rope_normalize_coords", "separate"),
        pos_embed_rescale=hyper.get(RESCALED),
    )


def reference_of(case):
    """The network of a case; `state_of` names another case to take the weights from."""
    hyper = case["hyper"]
    inputs, outputs = load(case)
    owner = hyper.get("state_of")
    source = inputs if owner is None else load(next(c for c in find("vit") if c["case"] == owner))[0]
    return Reference(hyper, with_prefix(source, "state/")), inputs, outputs


def assert_tokens(found, outputs, way):
    expected = with_prefix(outputs, f"{way}/")
    assert expected
    for name, tokens in expected.items():
        assert_parity(found[name], tokens, f"{way}/{name}")


@pytest.mark.parametrize("case", [c for c in cases("vit") if c.marks or RESCALED not in c.values[0]["hyper"]])
def test_tokens_and_gradients_match_the_reference(case):
    reference, inputs, outputs = reference_of(case)
    masks = inputs["global_masks"]
    reference.model.eval()
    assert_tokens(reference.tokens(inputs["global_images"]), outputs, "eval")
    assert_tokens(reference.tokens(inputs["global_images"], masks), outputs, "eval_masked")

    reference.model.train()
    images = leaf(inputs["global_images"])
    global_tokens = reference.tokens(images, masks)
    local_tokens = reference.tokens(inputs["local_images"], cls_norm=reference.local_cls_norm)
    assert_tokens(global_tokens, outputs, "train_global_masked")
    assert_tokens(local_tokens, outputs, "train_local")

    weights = with_prefix(inputs, "grad_weight/")
    found = {"global_cls": global_tokens["cls"], "global_patches": global_tokens["patches"]}
    found |= {"local_cls": local_tokens["cls"]}
    sum((found[name] * weight).sum() for name, weight in weights.items()).backward()
    assert_parity(images.grad, outputs["grad_global_image"], "grad_global_image")
    gradients = reference.gradients()
    for name, gradient in with_prefix(outputs, "grad_param/").items():
        assert_parity(gradients[name], gradient, f"grad_param/{name}")


@pytest.mark.parametrize("case", cases("vit", hyper=RESCALED))
def test_every_layer_and_crop_size_has_its_own_rope_rescale(case, monkeypatch):
    reference, inputs, outputs = reference_of(case)
    reference.model.train()
    num_layers = reference.model.config.num_hidden_layers
    for resolution, cls_norm in enumerate((reference.cls_norm, reference.local_cls_norm)):
        draws = (torch.zeros(num_layers, 2), torch.ones(num_layers, 2), inputs["rescale"][:, resolution, None])
        monkeypatch.setattr(reference.model.rope_embeddings, "draw_augmentation", lambda device, draws=draws: draws)
        way = ("global", "local")[resolution]
        assert_tokens(reference.tokens(inputs[f"{way}_images"], cls_norm=cls_norm), outputs, f"train_{way}")


@pytest.mark.parametrize("case", [c for c in cases("vit") if c.marks or "state_of" not in c.values[0]["hyper"]])
def test_an_export_in_metas_layout_is_the_reference_state_tensor_by_tensor(case):
    inputs, _ = load(case)
    state = with_prefix(inputs, "state/")
    written = meta_state(reference_of(case)[0].model)
    # Norms of pretraining alone have no place in a backbone; what a mask hides of a bias does not count.
    kept = {name: value for name, value in state.items() if "cls_norm" not in name}
    assert written.keys() == kept.keys()
    for name, value in kept.items():
        torch.testing.assert_close(written[name], value * kept.get(f"{name}_mask", 1.0), msg=name)
