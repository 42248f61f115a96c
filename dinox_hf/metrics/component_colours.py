"""Principal components of features as colours: equal colours mean equal features."""

import numpy as np


def component_colours(features: np.ndarray) -> np.ndarray:
    """First three principal components as red, green and blue.

    Each component is stretched from its 2nd to its 98th percentile. The sign of a component means nothing; it is fixed
    so that the longer tail is bright, and equal features give equal pictures on every machine.

    Args:
        features: (M, D) of all patches that share one basis, D at least 3.

    Returns:
        (M, 3) float64 in [0, 1].
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    scores = centred @ directions[:3].T
    scores *= np.where(np.abs(scores.min(axis=0)) > scores.max(axis=0), -1, 1)
    low, high = np.percentile(scores, (2, 98), axis=0)
    return np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
