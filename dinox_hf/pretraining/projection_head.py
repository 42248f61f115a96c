"""Projection head: from a token to one logit per prototype. Used in training only; a published backbone has none."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Compare a token with learned prototypes: MLP, then a point on the unit sphere, then a dot product with each.

    DINO (arXiv:2104.14294), appendix C, without batch norm and, as in DINOv3, without weight norm on the prototypes.

    Args:
        in_dim: width of the backbone's tokens.
        hidden_dim: width between the layers of the MLP.
        bottleneck_dim: dimensions of the sphere.
        num_prototypes: logits per token (K).
        num_layers: linear layers of the MLP, with exact GELU between them; 1 is a single projection.

    Raises:
        ValueError: if `num_layers` is below one.
    """

    def __init__(
        self, in_dim: int, hidden_dim: int, bottleneck_dim: int, num_prototypes: int, num_layers: int = 3
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(
                f"ProjectionHead expects num_layers >= 1; found {num_layers}. The recipe uses 3; "
                f"1 projects straight onto the bottleneck."
            )
        widths = [in_dim, *[hidden_dim] * (num_layers - 1), bottleneck_dim]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.prototypes = nn.Linear(bottleneck_dim, num_prototypes, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights from a normal of standard deviation 0.02, cut off at ±2; biases start at 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def bottleneck(self, tokens: Tensor) -> Tensor:
        """(..., in_dim) -> (..., bottleneck_dim) of length one."""
        return F.normalize(self.mlp(tokens), dim=-1, eps=1e-12)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., in_dim) -> (..., num_prototypes) logits, not yet divided by a temperature."""
        return self.prototypes(self.bottleneck(tokens))
