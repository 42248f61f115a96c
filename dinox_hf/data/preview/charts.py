"""Charts of a whole set: Hounsfield units, spacing, slices per series, readers per nodule and nodule sizes."""

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .overview import SetOverview
from .style import DIM, GREEN, GRID, ORANGE, PANEL, SKY, TEXT, YELLOW

# Where a calibrated scanner puts them; inflated lung depends on the breath, bone on its density.
LANDMARKS_HU = {"air": (-1000, -1000), "lung": (-920, -750), "water": (0, 0), "bone": (300, 1300)}
_RANGE_HU = (-1150, 1500)
_BIN_HU = 10
_NUM_SAMPLES = 96
_WIDTHS = (2.1, 1.2, 1.2, 0.9, 1.2)


def draw_charts(figure: Figure, overview: SetOverview, bounds: tuple[float, float, float, float]) -> None:
    """Draw the five charts side by side into `bounds` (left, bottom, width, height in fractions of the figure)."""
    left, bottom, width, height = bounds
    grid = figure.add_gridspec(
        *(1, len(_WIDTHS)),
        width_ratios=_WIDTHS,
        left=left + 0.03 * width,
        right=left + width,
        bottom=bottom + 0.16 * height,
        top=bottom + 0.86 * height,
        wspace=0.22,
    )
    charts = (_draw_hu, _draw_spacing, _draw_slices, _draw_readers, _draw_diameters)
    for column, draw in enumerate(charts):
        axis = figure.add_subplot(grid[0, column])
        _dress(axis)
        draw(axis, overview)


def sample_rows(overview: SetOverview, num: int = _NUM_SAMPLES) -> np.ndarray:
    """Rows spread evenly over the set, at most `num`."""
    return np.unique(np.linspace(0, overview.num_slices - 1, num).round().astype(int))


def count_hu(overview: SetOverview, rows: np.ndarray) -> tuple[np.ndarray, Counter]:
    """Count the values of some slices.

    Args:
        overview: the set.
        rows: which slices.

    Returns:
        (65536,) counts of -32768..32767 HU without padding, and counts of padding by its value.
    """
    counts, padding = np.zeros(65536, dtype=np.int64), Counter()
    starts = np.array([series.first_row for series in overview.series])
    for row in rows:
        series = overview.series[int(np.searchsorted(starts, row, side="right")) - 1]
        values = np.bincount(overview.slice_hu(int(row)).ravel().astype(np.int32) + 32768, minlength=65536)
        if series.padding_hu is not None:
            padding[series.padding_hu] += int(values[series.padding_hu + 32768])
            values[series.padding_hu + 32768] = 0
        counts += values
    return counts, padding


def _draw_hu(axis: Axes, overview: SetOverview) -> None:
    rows = sample_rows(overview)
    counts, padding = count_hu(overview, rows)
    total = counts.sum() + padding.total()
    low, high = _RANGE_HU
    shown = counts[low + 32768 : high + 32768].reshape(-1, _BIN_HU).sum(axis=1)
    # Over five decades; the names of the landmarks stand above the highest bar. Limits come before the bars, since a
    # set of nothing but padding has none.
    top = 100 * max(shown.max() / total, 1e-4) * 8
    axis.set_ylim(top / 10**5.5, top)
    axis.set(yscale="log", xlim=_RANGE_HU, autoscale_on=False)
    axis.stairs(100 * shown / total, np.arange(low, high + 1, _BIN_HU), fill=True, color=SKY)
    _mark_landmarks(axis)
    notes = [f"padding {value} HU: {100 * count / total:.1f} %" for value, count in padding.most_common(3)]
    outside = total - shown.sum() - padding.total()
    notes += [f"outside this range: {100 * outside / total:.2g} %"] if outside else []
    text = "\n".join(notes).replace("-", "−")
    ground = {"facecolor": PANEL, "alpha": 0.7, "linewidth": 0, "pad": 2} if notes else None
    axis.text(0.98, 0.84, text, transform=axis.transAxes, color=TEXT, size=8, ha="right", va="top", bbox=ground)
    title = f"Hounsfield units in {len(rows):,} of {overview.num_slices:,} slices"
    _label(axis, title, "HU", f"% of voxels per {_BIN_HU} HU")


def _mark_landmarks(axis: Axes) -> None:
    transform = axis.get_xaxis_transform()
    for name, (first, last) in LANDMARKS_HU.items():
        if first == last:
            axis.axvline(first, color=YELLOW, linewidth=0.9, alpha=0.8, dashes=(3, 2))
        else:
            # Behind the bars, so that they keep their colour.
            axis.axvspan(first, last, color=YELLOW, alpha=0.15, linewidth=0, zorder=0)
        # Air and lung are neighbours: one to the left, one to the right.
        side, place = ("right", first - 12) if name == "air" else ("center", (first + last) / 2)
        if name == "water":
            side, place = "left", first + 12
        axis.text(place, 0.97, name, transform=transform, color=YELLOW, size=8, ha=side, va="top")


def _draw_spacing(axis: Axes, overview: SetOverview) -> None:
    z_mm, y_mm, x_mm = np.array([series.spacing_mm for series in overview.series]).T
    is_square = np.abs(y_mm - x_mm) < 1e-3 * x_mm
    alpha = 0.9 if len(z_mm) < 50 else 0.4
    axis.scatter(x_mm[is_square], z_mm[is_square], s=22, color=SKY, alpha=alpha, linewidths=0)
    if not is_square.all():
        odd = ~is_square
        axis.hlines(z_mm[odd], y_mm[odd], x_mm[odd], color=ORANGE, linewidth=1)
        axis.scatter(x_mm[odd], z_mm[odd], s=22, color=ORANGE, label="not square: columns")
        axis.scatter(y_mm[odd], z_mm[odd], s=22, facecolors="none", edgecolors=ORANGE, label="not square: rows")
        axis.legend(frameon=False, labelcolor=TEXT, fontsize=7, loc="lower left", handletextpad=0)
    axis.set(xlim=(0, 1.15 * max(x_mm.max(), y_mm.max())), ylim=(0, 1.2 * z_mm.max()))
    _label(axis, "Spacing, one point a series", "of pixels (mm)", "of slices (mm)")


def _draw_slices(axis: Axes, overview: SetOverview) -> None:
    numbers = np.array([series.num_slices for series in overview.series])
    axis.hist(numbers, bins=np.linspace(0, 1.05 * numbers.max() + 1, 22), color=SKY)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _label(axis, f"Slices per series, median {np.median(numbers):.0f}", "slices", "series")


def _draw_readers(axis: Axes, overview: SetOverview) -> None:
    counts = Counter(nodule["num_readers"] for nodule in overview.nodules)
    if not counts:
        _say_none(axis, "Readers per nodule")
        return
    numbers = list(range(1, max(4, *counts) + 1))
    bars = axis.bar(numbers, [counts[number] for number in numbers], color=GREEN, width=0.7)
    axis.bar_label(bars, fmt="{:,.0f}", color=TEXT, size=8, padding=2)
    axis.set(xticks=numbers, ylim=(0, 1.18 * max(counts.values())))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _label(axis, "Readers per nodule", "readers who outlined it", "nodules")


def _draw_diameters(axis: Axes, overview: SetOverview) -> None:
    diameters = np.array([nodule["diameter_mm"] for nodule in overview.nodules])
    if not len(diameters):
        _say_none(axis, "Diameter of nodules")
        return
    axis.hist(diameters, bins=np.arange(0, max(32, diameters.max() + 2), 2), color=GREEN)
    axis.set_xlim(0, None)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _label(axis, f"Diameter of nodules, median {np.median(diameters):.1f} mm", "mm", "nodules")


def _say_none(axis: Axes, title: str) -> None:
    axis.set(xticks=[], yticks=[])
    axis.text(0.5, 0.5, "this set lists\nno nodules", transform=axis.transAxes, color=DIM, ha="center", va="center")
    _label(axis, title, "", "")


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title, color=TEXT, size=9.5, loc="left")
    axis.set_xlabel(x, color=DIM, size=8.5, labelpad=2)
    axis.set_ylabel(y, color=DIM, size=8.5, labelpad=3)


def _dress(axis: Axes) -> None:
    axis.set_facecolor(PANEL)
    axis.tick_params(colors=DIM, labelsize=8, length=2)
    axis.spines[:].set_visible(False)
    axis.grid(color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
