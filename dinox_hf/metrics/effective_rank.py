"""Effective rank: how many directions of feature space are really in use."""

import numpy as np


def effective_rank(features: np.ndarray, centre: bool = False) -> float:
    """How many directions the features spread over: 1 is full collapse, the width of the features is the best.

    RankMe (Garrido et al., arXiv:2210.02885), equation 1: exp of the entropy of the normalised singular values

        p_k = sigma_k / sum sigma,   rank = exp(-sum p_k log p_k)

    The paper does not subtract the mean; with `centre=True` we do, which ignores an offset common to all images.

    Args:
        features: (num_images, D) any float dtype.
        centre: subtract the mean feature first.

    Returns:
        Between 1 and min(num_images, D); 0 if all features are zero.

    Raises:
        ValueError: if the features are not a matrix or not finite.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.size == 0 or not np.isfinite(features).all():
        raise ValueError(
            f"effective_rank expects finite features of shape (num_images, D); found shape {features.shape} with "
            f"{int((~np.isfinite(features)).sum())} non-finite values. Pool the tokens to one vector an image."
        )
    if centre:
        features = features - features.mean(axis=0)
    singular_values = np.linalg.svd(features, compute_uv=False)
    if singular_values.sum() == 0:
        return 0.0
    shares = singular_values / singular_values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))
