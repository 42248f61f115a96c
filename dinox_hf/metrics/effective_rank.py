"""Effective rank: how many directions of feature space are really in use."""

import torch
from torch import Tensor


def effective_rank(features: Tensor, centre: bool = False) -> Tensor:
    """How many directions the features spread over: 1 is full collapse, the width of the features is the best.

    RankMe (Garrido et al., arXiv:2210.02885), equation 1: exp of the entropy of the normalised singular values

        p_k = sigma_k / sum sigma,   rank = exp(-sum p_k log p_k)

    The paper does not subtract the mean; with `centre=True` we do, which ignores an offset common to all images.

    Args:
        features: (num_images, D) tensor or array, any float dtype.
        centre: subtract the mean feature first.

    Returns:
        () float64 between 1 and min(num_images, D); 0 if all features are zero.

    Raises:
        ValueError: if the features are not a matrix or not finite.
    """
    features = torch.as_tensor(features)
    if features.ndim != 2 or 0 in features.shape or not torch.isfinite(features).all():
        raise ValueError(
            f"effective_rank expects finite features of shape (num_images, D); found shape {tuple(features.shape)} "
            f"with {int((~torch.isfinite(features)).sum())} non-finite values. Pool the tokens to one vector an image."
        )
    # bf16 would count rounding noise as directions.
    features = features.double()
    if centre:
        features = features - features.mean(dim=0)
    singular_values = torch.linalg.svdvals(features)
    total = singular_values.sum()
    if total == 0:
        return total
    shares = singular_values / total
    return torch.special.entr(shares).sum().exp()
