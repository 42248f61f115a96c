"""Pictures for a browser: a slice through a window, and maps of patches to lay over it, as PNG in a data URL."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

from ..model.image_processing_dinov3_ct import window_hu

# Inferno runs evenly in lightness and is told apart with every kind of colour blindness.
_COLOUR_MAP = (matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255).round().astype(np.uint8)
# The darkest colours would only darken the CT, and the palest vanish on bright tissue.
_FIRST_COLOUR, _LAST_COLOUR = 70, 220


def slice_picture(slice_hu: np.ndarray, level: float, width: float, padding_hu: int | None) -> str:
    """A slice through a window, grey, in its own pixels.

    Args:
        slice_hu: (H, W) HU.
        level: centre of the window, HU.
        width: full span of the window, HU.
        padding_hu: the fill outside the scanner's view, shown black; None if there is none.

    Returns:
        The PNG as a data URL.
    """
    grey = window_hu(slice_hu, level, width)
    if padding_hu is not None:
        grey = np.where(slice_hu == padding_hu, 0, grey)
    return _data_url(Image.fromarray((grey * 255).round().astype(np.uint8)))


def heat_picture(values: np.ndarray, low: float, high: float) -> str:
    """A map of patches as colours: `low` and below is clear, `high` and above bright.

    Args:
        values: (rows, columns).
        low: of the scale.
        high: of the scale.

    Returns:
        The PNG, one pixel a patch, as a data URL.
    """
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    index = (_FIRST_COLOUR + share * (_LAST_COLOUR - _FIRST_COLOUR)).round().astype(int)
    alpha = (255 * _opacity(share)).round().astype(np.uint8)
    return _data_url(Image.fromarray(np.dstack([_COLOUR_MAP[index], alpha])))


def colour_picture(colours: np.ndarray) -> str:
    """Colours of patches, black being clear.

    Args:
        colours: (rows, columns, 3) in [0, 1].

    Returns:
        The PNG, one pixel a patch, as a data URL.
    """
    alpha = 255 * (colours.max(axis=-1) > 0)
    return _data_url(Image.fromarray(np.dstack([(colours * 255).round(), alpha]).astype(np.uint8)))


def scale_colours(num: int = 9) -> list[str]:
    """The colours of `heat_picture` from low to high, as a style sheet takes them."""
    places = np.linspace(_FIRST_COLOUR, _LAST_COLOUR, num).round().astype(int)
    return [
        f"rgba({red}, {green}, {blue}, {share:.2f})"
        for (red, green, blue), share in zip(_COLOUR_MAP[places], _opacity(np.linspace(0, 1, num)), strict=True)
    ]


def _opacity(share: np.ndarray) -> np.ndarray:
    """Rises quickly at the low end, so that faint colours are seen on bright tissue too."""
    return np.sqrt(share)


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
