import pytest
import torch

from dinox_hf.pretraining.projection_head import ProjectionHead


def test_logits_are_cosines_times_the_length_of_the_prototypes_by_hand():
    head = ProjectionHead(2, 8, 2, 2, num_layers=1)
    with torch.no_grad():
        head.mlp[0].weight.copy_(torch.eye(2))
        head.prototypes.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 1.6]]))


def test_hidden_layers_are_joined_by_exact_gelu():
    head = ProjectionHead(1, 1, 1, 1, num_layers=2)
    with torch.no_grad():
        for layer in (head.mlp[0], head.mlp[2]):
            layer.weight.fill_(1.0)
    # GELU(-1) = -1 x Phi(-1) with the error function; the tanh approximation gives -0.15881.
    assert head.mlp(torch.tensor([[-1.0]])).item() == pytest.approx(-0.1586553, abs=1e-6)


def test_the_bottleneck_has_length_one_whatever_the_token():
    head = ProjectionHead(6, 8, 4, 10)
    tokens = torch.randn(2, 5, 6) * 100
    torch.testing.assert_close(head.bottleneck(tokens).norm(dim=-1), torch.ones(2, 5))
    assert head(tokens).shape == (2, 5, 10)


def test_weights_start_as_a_normal_of_0_02_and_biases_at_zero():
    head = ProjectionHead(64, 256, 64, 512)
    for name, parameter in head.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05)


def test_three_layers_have_the_widths_of_the_recipe():
    shapes = {name: tuple(parameter.shape) for name, parameter in ProjectionHead(3, 5, 2, 7).named_parameters()}
    assert shapes == {
        "mlp.0.weight": (5, 3),
        "mlp.0.bias": (5,),
        "mlp.2.weight": (5, 5),
        "mlp.2.bias": (5,),
        "mlp.4.weight": (2, 5),
        "mlp.4.bias": (2,),
        "prototypes.weight": (7, 2),
    }


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match=r"num_layers >= 1; found 0"):
        ProjectionHead(2, 2, 2, 2, num_layers=0)
