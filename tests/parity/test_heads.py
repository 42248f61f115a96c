"""The projection head against the reference's: logits, bottleneck and every gradient."""

import pytest

from dinox_hf.pretraining.projection_head import ProjectionHead
from tests.parity.fixtures import assert_parity, cases, leaf, load, with_prefix


def our_name(reference_name: str) -> str:
    """`last_layer` is our `prototypes`; a single-layer MLP is a plain linear layer there, a sequence of one here."""
    name = reference_name.replace("last_layer.", "prototypes.")
    return name if name.count(".") > 1 else name.replace("mlp.", "mlp.0.")


@pytest.mark.parametrize("case", cases("dino_head"))
def test_projection_head_matches(case):
    inputs, outputs = load(case)
    hyper = case["hyper"]
    head = ProjectionHead(
        hyper["in_dim"], hyper["hidden_dim"], hyper["bottleneck_dim"], hyper["n_prototypes"], hyper["nlayers"]
    )
    head.load_state_dict({our_name(name): tensor for name, tensor in with_prefix(inputs, "state/").items()})
    tokens = leaf(inputs["x"])
    logits = head(tokens)
    (logits * inputs["grad_weight"]).sum().backward()
    assert_parity(logits, outputs["prototypes_out"], "logits")
    assert_parity(head.bottleneck(tokens), outputs["bottleneck_out"], "bottleneck")
    assert_parity(tokens.grad, outputs["grad_x"], "gradient of the tokens")
    gradients = with_prefix(outputs, "grad_state/")
    assert len(gradients) == len(list(head.parameters()))
    for name, gradient in gradients.items():
        assert_parity(head.get_parameter(our_name(name)).grad, gradient, f"gradient of {name}")
