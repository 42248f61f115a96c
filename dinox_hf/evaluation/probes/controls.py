"""What needs no training at all: nodule size and raw pixels. A backbone is worth what it adds to them."""

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh

NUM_COMPONENTS = 64


def pixel_components(pixels: np.ndarray, num_components: int = NUM_COMPONENTS) -> Callable[[np.ndarray], np.ndarray]:
    """Principal components of raw pixels, fitted on the rows of one fold only.

    From the n x n matrix of inner products, which all folds share: with more pixels than images this is the cheap side
    of the same decomposition.

    Args:
        pixels: (n, P) one flattened image a row.
        num_components: how many to keep.

    Returns:
        A function of the rows to fit on, (n,) bool, that returns the components (n, num_components) of all rows.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    products = pixels @ pixels.T

    def components(rows: np.ndarray) -> np.ndarray:
        to_rows = products[:, rows]
        mean_product = products[np.ix_(rows, rows)].mean()
        centred = to_rows - to_rows.mean(axis=1, keepdims=True) - to_rows[rows].mean(axis=0) + mean_product
        num_rows = int(rows.sum())
        first = max(0, num_rows - num_components)
        variances, directions = eigh(centred[rows], subset_by_index=(first, num_rows - 1))
        # Centring leaves one direction without variance; dividing by it would blow up rounding errors.
        kept = variances > 1e-9 * variances.max()
        return centred @ directions[:, kept][:, ::-1] / np.sqrt(variances[kept][::-1])

    return components


def with_size(features: np.ndarray, diameter_mm: np.ndarray) -> np.ndarray:
    """Features with the nodule's diameter as one more column."""
    return np.concatenate([features, diameter_mm[:, None]], axis=1)
