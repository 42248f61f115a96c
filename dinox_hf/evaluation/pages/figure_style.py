"""One style for every figure of an evaluation: print size, type, colours that all readers tell apart, PNG and SVG."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from ...model.image_processing_dinov3_ct import window_hu

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito: told apart by colour-blind readers as well; no two things differ in colour alone.
BLUE, GREY, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#7F7F7F", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
OUTLINE = SKY  # on a grey CT and on every colour of the heat over it
BAND = "#F4F4F4"  # behind every other row
PRINT_WIDTH = 7.2  # inches: the text width of a page with two columns; no figure is wider
MIN_TYPE = 7.0  # points, at that width
DPI = 250  # of the PNG, and of images inside the SVG
LUNG_WINDOW = (-600.0, 1500.0)  # level, width in HU
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    # Equal numbers give equal files; letters become outlines, so that an SVG looks the same without the font.
    "svg.hashsalt": "dinox",
    "svg.fonttype": "path",
}


@contextmanager
def style(**changes: Any) -> Iterator[None]:
    """Draw and save inside it; changes are settings of matplotlib by name, a dot written as two underscores."""
    with plt.rc_context(_STYLE | {name.replace("__", "."): value for name, value in changes.items()}):
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and, beside it under the same name, as SVG; then close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    figure.savefig(path.with_suffix(".svg"), dpi=DPI, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def show_ct(axis: Axes, slice_hu: np.ndarray) -> None:
    """A CT slice in the lung window, without ticks."""
    axis.imshow(window_hu(slice_hu, *LUNG_WINDOW), cmap="gray", vmin=0, vmax=1)
    bare(axis)


def outline(axis: Axes, mask: np.ndarray, colour: str = OUTLINE, linestyle: str = "solid") -> None:
    """The border of a mask; nothing where it is empty or fills the image."""
    if mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.1, linestyles=[linestyle])


def bare(axis: Axes) -> None:
    """No ticks, grid or frame: for images."""
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def band(axis: Axes, position: int) -> None:
    """Shade every other row of a chart with one row an entry."""
    if position % 2:
        axis.axhspan(position - 0.5, position + 0.5, color=BAND, zorder=0)
