"""The contact sheet: a row of panels per series, and below them charts of what all series have in common."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .charts import draw_charts
from .overview import SetOverview
from .panels import draw_panel
from .pictures import SeriesPicture, choose_series, panels_of, take_pictures
from .style import BACKGROUND, DIM, MARK_STYLES, ORANGE, PADDING, SKY, TEXT

DPI = 130
# Inches.
_CELL, _GAP, _MARGIN = 2.4, 0.06, 0.15
_LABEL, _HEADER, _CHARTS, _CAPTION = 0.34, 0.95, 2.75, 0.45


def draw_contact_sheet(overview: SetOverview, path: Path, series_ids: Sequence[str] | None = None) -> Path:
    """Draw the sheet.

    Args:
        overview: the set.
        path: the PNG.
        series_ids: which series to show; by default four, spread over the patients.

    Returns:
        The path.

    Raises:
        ValueError: if a series is not in the set, or the path cannot be a PNG.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"The picture should be a PNG; found {path.name!r}. Choose a name that ends in .png.")
    pictures = take_pictures(overview, choose_series(overview, series_ids))
    sheet = _Sheet(num_rows=len(pictures), num_columns=7 if any(picture.nodules for picture in pictures) else 6)
    _write_header(sheet, overview)
    for number, picture in enumerate(pictures):
        _draw_series(sheet, picture, sheet.height - _HEADER - number * (_CELL + _LABEL))
    bounds = sheet.place(_MARGIN, _CAPTION, sheet.width - 2 * _MARGIN, _CHARTS)
    draw_charts(sheet.figure, overview, bounds)
    _write_caption(sheet, overview, len(pictures))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the software stamp equal sets give equal files.
    sheet.figure.savefig(path, dpi=DPI, facecolor=BACKGROUND, metadata={"Software": None})
    return path


class _Sheet:
    """A figure that is laid out in inches from its lower left corner."""

    def __init__(self, num_rows: int, num_columns: int) -> None:
        self.num_columns = num_columns
        self.width = num_columns * _CELL + 2 * _MARGIN - _GAP
        self.height = _HEADER + num_rows * (_CELL + _LABEL) + _CHARTS + _CAPTION
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI, facecolor=BACKGROUND)

    def place(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Inches to fractions of the figure."""
        return left / self.width, bottom / self.height, width / self.width, height / self.height

    def write(self, left: float, bottom: float, text: str, **options) -> None:
        self.figure.text(left / self.width, bottom / self.height, text, **options)


def _draw_series(sheet: _Sheet, picture: SeriesPicture, top: float) -> None:
    series = picture.series
    sheet.write(_MARGIN, top - 0.1, series.patient_id, color=TEXT, size=11, weight="bold", va="top")
    facts = _facts(picture)
    sheet.write(sheet.width - _MARGIN, top - 0.1, facts, color=DIM, size=9, va="top", ha="right")
    panels = panels_of(picture)
    for column in range(sheet.num_columns):
        left, bottom = _MARGIN + column * _CELL, top - _LABEL - _CELL + _GAP
        if column < len(panels):
            axis = sheet.figure.add_axes(sheet.place(left, bottom, _CELL - _GAP, _CELL - _GAP))
            draw_panel(axis, panels[column])
        else:
            middle = (left + _CELL / 2, bottom + _CELL / 2)
            sheet.write(*middle, "no nodule of 3 mm\nor more listed", color=DIM, size=9, ha="center", va="center")


def _facts(picture: SeriesPicture) -> str:
    series = picture.series
    rows, columns = picture.slices_hu[picture.key].shape
    z_mm, y_mm, x_mm = series.spacing_mm
    padding = "no padding" if series.padding_hu is None else f"padding {series.padding_hu} HU".replace("-", "−")
    # The end of a UID tells series apart.
    name = series.series_id if len(series.series_id) <= 24 else "…" + series.series_id[-12:]
    return "   ·   ".join(
        [
            f"{series.num_slices} slices of {rows} × {columns}",
            f"{z_mm:.2f} mm between slices",
            f"pixels of {y_mm:.3f} × {x_mm:.3f} mm",
            padding,
            f"series {name}",
        ]
    )


def _write_header(sheet: _Sheet, overview: SetOverview) -> None:
    name = overview.folder.resolve().name
    sheet.write(_MARGIN, sheet.height - 0.15, name, color=TEXT, size=19, weight="bold", va="top")
    sheet.write(_MARGIN, sheet.height - 0.58, _counts(overview), color=TEXT, size=11.5, va="top")
    handles = [
        Line2D([], [], color=ORANGE, linewidth=1.5, label="nodule, at least half of its readers"),
        Line2D([], [], color=SKY, linewidth=1, dashes=(4, 2), label="where the axial slices lie"),
        Patch(facecolor=PADDING, label="padding"),
    ]
    if overview.marks is not None:
        handles += [
            Line2D([], [], color=colour, marker=marker, linestyle="", label=words)
            for colour, marker, words in MARK_STYLES.values()
        ]
    corner = ((sheet.width - _MARGIN + 0.05) / sheet.width, (sheet.height - 0.1) / sheet.height)
    options = {"frameon": False, "labelcolor": TEXT, "fontsize": 9, "handlelength": 1.6, "borderaxespad": 0}
    sheet.figure.legend(handles=handles, loc="upper right", bbox_to_anchor=corner, ncols=len(handles), **options)


def _counts(overview: SetOverview) -> str:
    counts = {
        "patient": overview.num_patients,
        "series": len(overview.series),
        "slice": overview.num_slices,
        "nodule": len(overview.nodules),
    }
    if overview.marks is not None:
        counts["mark"] = len(overview.marks)
    return "   ·   ".join(
        f"{count:,} {name}{'' if count == 1 or name == 'series' else 's'}" for name, count in counts.items()
    )


def _write_caption(sheet: _Sheet, overview: SetOverview, num_shown: int) -> None:
    text = (
        f"{num_shown} of {len(overview.series):,} series, picked by rule and not by eye; Hounsfield units as stored. "
        "Seen from the feet: the patient's right (R) is on the left. For checking data, not for diagnosis."
    )
    sheet.write(_MARGIN, 0.14, text, color=DIM, size=8.5, va="bottom")
