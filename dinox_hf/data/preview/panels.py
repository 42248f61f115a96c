"""One view of a scan as a radiologist expects it: true proportions, orientation letters, a scale, outlines on top."""

from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from ...model.image_processing_dinov3_ct import window_hu
from .style import MARK_STYLES, ORANGE, PADDING, SKY, TEXT

_SCALES_MM = (100, 50, 20, 10, 5, 2, 1)
_STROKE = [withStroke(linewidth=2, foreground="black")]
_LABEL_SIZE = (0.24, 0.11)  # width and height of a label as shares of the panel


@dataclass(frozen=True, eq=False)
class Outline:
    """A mask in image pixels, with what is written beside it."""

    mask: np.ndarray  # (h, w) bool
    first_row: int
    first_column: int
    text: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class CTPanel:
    """What one panel shows; rows and columns are those of `hu`."""

    hu: np.ndarray  # (H, W) HU, top row first
    window: tuple[float, float]  # level, width in HU
    spacing_mm: tuple[float, float]  # between rows, between columns
    letters: str  # sides: top, left, bottom, right
    title: str
    padding_hu: int | None = None
    outlines: list[Outline] = field(default_factory=list)
    marks: list[dict] = field(default_factory=list)  # rows of MARK_FEATURES
    lines: list[float] = field(default_factory=list)  # rows where the other slices lie
    has_labels: bool = False
    centre: tuple[float, float] | None = None  # (row, column) of a close-up
    extent_mm: float | None = None  # side of a close-up


def draw_panel(axis: Axes, panel: CTPanel) -> None:
    """Draw one view into a square axis, in true proportions, with black where the image ends."""
    axis.set_facecolor("black")
    # Whole slices have more pixels than the panel and are averaged; a close-up shows the pixels as they are.
    interpolation = "antialiased" if panel.extent_mm is None else "nearest"
    axis.imshow(to_rgb(panel), aspect="auto", interpolation=interpolation)
    for line in panel.lines:
        axis.axhline(line, color=SKY, linewidth=0.7, alpha=0.8, dashes=(6, 4))
    for outline in panel.outlines:
        draw_outline(axis, outline)
    for mark in panel.marks:
        colour, marker, _ = MARK_STYLES[mark["kind"]]
        axis.plot(mark["column"], mark["row"], marker, color=colour, markersize=6, markeredgewidth=1.2)
    side_mm = _set_limits(axis, panel)
    if panel.has_labels:
        _label_outlines(axis, panel.outlines)
    _write_letters(axis, panel.letters)
    _write(axis, 0.03, 0.97, panel.title, va="top", size=8)
    _draw_scale(axis, side_mm)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def to_rgb(panel: CTPanel) -> np.ndarray:
    """(H, W, 3) in [0, 1]: grey through the window, padding in a colour, so that it is not taken for air."""
    rgb = np.repeat(window_hu(panel.hu, *panel.window)[..., None], 3, axis=2)
    if panel.padding_hu is not None:
        rgb[panel.hu == panel.padding_hu] = PADDING
    return rgb


def draw_outline(axis: Axes, outline: Outline) -> None:
    """Draw the line half way between the pixels inside and those outside of a mask.

    Args:
        axis: shows an image whose pixel (row, column) has its centre at (x, y) = (column, row).
        outline: the mask.
    """
    if not outline.mask.any():
        return
    # A rim of zeros closes lines that would end at the edge of the mask's box.
    padded = np.pad(outline.mask.astype(float), 1)
    columns = np.arange(padded.shape[1]) + outline.first_column - 1
    rows = np.arange(padded.shape[0]) + outline.first_row - 1
    axis.contour(columns, rows, padded, levels=[0.5], colors=[ORANGE], linewidths=1.1)


def _label_outlines(axis: Axes, outlines: list[Outline]) -> None:
    """Write beside each outline; where no side is free of other outlines and labels, one goes without."""
    boxes = [_box_of(axis, outline) for outline in outlines]
    taken = list(boxes)
    for outline, box in zip(outlines, boxes, strict=True):
        others = [other for other in taken if other is not box]
        free = [place for place in _places_beside(box) if _is_free(place, others)]
        if free:
            left, bottom, right, top = free[0]
            taken.append(free[0])
            style = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
            options = {"color": ORANGE, "size": 7, "ha": "center", "va": "center", "bbox": style}
            axis.text((left + right) / 2, (bottom + top) / 2, outline.text, transform=axis.transAxes, **options)


def _box_of(axis: Axes, outline: Outline) -> tuple[float, float, float, float]:
    """Left, bottom, right, top in fractions of the panel."""
    num_rows, num_columns = outline.mask.shape
    left, top = outline.first_column - 0.5, outline.first_row - 0.5
    corners = [(left, top + num_rows), (left + num_columns, top)]
    return tuple(axis.transAxes.inverted().transform(axis.transData.transform(corners)).ravel())


def _places_beside(box: tuple[float, float, float, float]) -> list[tuple[float, float, float, float]]:
    """Over, under, left and right of a box, as far as the place lies in the panel, off its title and scale."""
    left, bottom, right, top = box
    (width, height), gap = _LABEL_SIZE, 0.02
    x = float(np.clip((left + right - width) / 2, 0.01, 0.99 - width))
    y = (bottom + top - height) / 2
    corners = [(x, top + gap), (x, bottom - gap - height), (left - gap - width, y), (right + gap, y)]
    return [(u, v, u + width, v + height) for u, v in corners if 0 < u < 1 - width and 0.1 < v < 0.92 - height]


def _is_free(place: tuple[float, float, float, float], others: list[tuple[float, float, float, float]]) -> bool:
    left, bottom, right, top = place
    return all(left > other[2] or right < other[0] or bottom > other[3] or top < other[1] for other in others)


def _set_limits(axis: Axes, panel: CTPanel) -> float:
    """Show a square of the patient around the centre of the view; return its side in millimetres."""
    (num_rows, num_columns), (row_mm, column_mm) = panel.hu.shape, panel.spacing_mm
    row, column = panel.centre or ((num_rows - 1) / 2, (num_columns - 1) / 2)
    side_mm = panel.extent_mm or max(num_rows * row_mm, num_columns * column_mm)
    rows, columns = side_mm / row_mm, side_mm / column_mm
    axis.set(xlim=(column - columns / 2, column + columns / 2), ylim=(row + rows / 2, row - rows / 2))
    return side_mm


def _write_letters(axis: Axes, letters: str) -> None:
    top, left, bottom, right = letters
    _write(axis, 0.5, 0.90, top, ha="center", va="top", size=9, weight="bold")
    _write(axis, 0.03, 0.5, left, ha="left", va="center", size=9, weight="bold")
    _write(axis, 0.5, 0.03, bottom, ha="center", va="bottom", size=9, weight="bold")
    _write(axis, 0.97, 0.5, right, ha="right", va="center", size=9, weight="bold")


def _draw_scale(axis: Axes, side_mm: float) -> None:
    """A bar of a round length, about a third of the side or less."""
    length_mm = next((mm for mm in _SCALES_MM if mm <= 0.37 * side_mm), _SCALES_MM[-1])
    ends = [0.97 - length_mm / side_mm, 0.97]
    outlined = [withStroke(linewidth=4, foreground="black")]
    axis.plot(ends, [0.04, 0.04], transform=axis.transAxes, color=TEXT, linewidth=2, path_effects=outlined)
    _write(axis, sum(ends) / 2, 0.055, f"{length_mm} mm", ha="center", va="bottom", size=7)


def _write(axis: Axes, x: float, y: float, text: str, **options) -> None:
    """Write in fractions of the panel, readable on black and on white."""
    axis.text(x, y, text, transform=axis.transAxes, path_effects=_STROKE, **{"color": TEXT} | options)
