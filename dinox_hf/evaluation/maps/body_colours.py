"""Patches of the body as colours of their principal components, air as black; one basis serves all slices."""

import numpy as np

from ...metrics.component_colours import ColourBasis, fit_colour_basis

AIR_BELOW_HU = -950  # healthy lung begins near -900
_DARKEST = 0.02  # never quite black inside the body: black means air
_FEWEST = 3  # patches that span three components


def in_body(mean_hu: np.ndarray) -> np.ndarray:
    """Which patches show more than air, by their mean HU; of any shape."""
    return mean_hu > AIR_BELOW_HU


def fit_body_colours(tokens: np.ndarray, mean_hu: np.ndarray) -> ColourBasis:
    """The basis of the patches inside the body; of all patches where hardly any lies there.

    Args:
        tokens: (…, D).
        mean_hu: (…) of each patch.
    """
    inside = in_body(mean_hu)
    enough = inside.sum() > _FEWEST
    return fit_colour_basis(tokens[inside] if enough else tokens.reshape(-1, tokens.shape[-1]))


def body_colours(tokens: np.ndarray, mean_hu: np.ndarray, basis: ColourBasis) -> np.ndarray:
    """Colours of patches.

    Args:
        tokens: (…, D).
        mean_hu: (…) of each patch.
        basis: of `fit_body_colours`; fitted on all patches, air would take the first component.

    Returns:
        (…, 3) float64 in [0, 1]; air is 0.
    """
    colours = np.zeros((*mean_hu.shape, 3))
    inside = in_body(mean_hu)
    colours[inside] = np.maximum(basis.colours(tokens[inside]), _DARKEST)
    return colours
