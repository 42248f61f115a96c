"""Everything a browser needs to draw a viewer, as plain JSON values: pictures, scales, marks and read-outs."""

from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import numpy as np

from .pictures import colour_picture, heat_picture, scale_colours, slice_picture
from .viewer import Look, Viewer

Overlay = Literal["similarity", "colours", "attention", "none"]
_SERIALS = count()  # answers may overtake each other; the browser draws none that is older than what it shows
# Level and width in HU.
WINDOWS = {"Lung": (-600.0, 1500.0), "Soft tissue": (40.0, 400.0), "Bone": (400.0, 1800.0)}


@dataclass(frozen=True)
class Display:
    """How a visitor wants to see a scan."""

    window: str = "Lung"  # one of WINDOWS, or the name of an own one
    level: float = WINDOWS["Lung"][0]  # HU
    width: float = WINDOWS["Lung"][1]  # HU
    overlay: Overlay = "similarity"
    share: float = 0.05  # of the body in the point's slice that the similarity overlay covers
    is_side_by_side: bool = True

    def __post_init__(self) -> None:
        if not (np.isfinite(self.level) and np.isfinite(self.width) and self.width > 0):
            raise ValueError(
                f"A window should have a level in HU and a width above 0 HU; found level {self.level} and width "
                f"{self.width}. Width is the full span: level -600 width 1500 shows -1350 to 150 HU."
            )


def needs_encoding(viewer: Viewer, display: Display) -> bool:
    """Whether what the visitor wants to see has to be computed first."""
    if display.overlay == "none" or (display.overlay == "similarity" and viewer.point is None):
        return False
    found = [look.features.get(viewer.slice) for look in viewer.looks]
    return any(each is None or (display.overlay == "attention" and each.attention is None) for each in found)


def scene(viewer: Viewer, display: Display) -> dict[str, Any]:
    """The viewer as it stands; no network computes here.

    Args:
        viewer: the scan.
        display: how to show it.

    Returns:
        Plain JSON values; positions in pixels of the scan, slices from the feet, lengths in mm.
    """
    volume, index = viewer.volume, viewer.slice
    rows, columns = volume.voxels.shape[1:]
    _, y_mm, x_mm = volume.spacing_mm
    shown = viewer.looks if display.is_side_by_side else viewer.looks[:1]
    return {
        "serial": next(_SERIALS),
        "slice": index,
        "zMm": [round(float(z), 2) for z in volume.z_mm],
        "size": [rows, columns],
        "sizeMm": [rows * y_mm, columns * x_mm],
        "picture": slice_picture(volume.voxels[index], display.level, display.width, volume.padding_hu),
        "window": f"{display.window}  L {signed(display.level)}  W {display.width:.0f}",
        "overlay": display.overlay,
        "isPending": needs_encoding(viewer, display),
        "panels": [_panel(viewer, look, display) for look in shown],
        "point": _point(viewer),
        "numEncoded": viewer.num_encoded,
        "secondsPerSlice": viewer.seconds_per_slice(),
    }


def signed(value: float) -> str:
    """A number with a real minus sign and no decimals."""
    return f"{value:.0f}".replace("-", "−")


def position_text(position_mm: tuple[float, float, float]) -> str:
    """A place in the patient as radiologists say it, from LPS millimetres: side, front or back, height."""
    x, y, z = position_mm
    return f"{'L' if x >= 0 else 'R'} {abs(x):.1f}   {'P' if y >= 0 else 'A'} {abs(y):.1f}   z {z:.1f} mm".replace(
        "-", "−"
    )


def _point(viewer: Viewer) -> dict[str, Any] | None:
    point = viewer.point
    if point is None:
        return None
    found = viewer.looks[0].features[point.slice]
    patch_hu = found.mean_hu[found.grid.patch_of(point.row, point.column)]
    return {
        "slice": point.slice,
        "row": point.row,
        "column": point.column,
        "position": position_text(viewer.position_mm(point)),
        "hu": signed(viewer.volume.voxels[point.slice, point.row, point.column]),
        "patchHu": signed(patch_hu),
    }


def _panel(viewer: Viewer, look: Look, display: Display) -> dict[str, Any]:
    index, found = viewer.slice, look.features.get(viewer.slice)
    panel: dict[str, Any] = {
        "name": look.name,
        "picture": None,
        "extent": None,
        "scale": None,
        "match": None,
        "profile": viewer.profile(look),
        "best": [{"slice": best, "value": look.matches[best].value} for best in viewer.best_slices(look)],
    }
    if found is None or display.overlay == "none":
        return panel
    if display.overlay == "similarity" and viewer.point is not None:
        low = look.low(display.share)
        panel["picture"] = heat_picture(look.similarity(index), low, 1)
        panel["scale"] = _scale("cosine to the point", f"{low:.2f}", "1.00")
        if index != viewer.point.slice:
            match = look.match(index)
            panel["match"] = {"row": match.row_px, "column": match.column_px, "value": match.value}
    elif display.overlay == "colours":
        panel["picture"] = colour_picture(viewer.colours(look, index))
    elif display.overlay == "attention" and found.attention is not None:
        # In multiples of what every patch would get if all got the same; below that the CT stays as it is.
        attention = found.attention.mean(axis=0) / found.attention.mean()
        high = max(2.0, float(np.percentile(attention, 99.5)))
        panel["picture"] = heat_picture(attention, 1, high)
        panel["scale"] = _scale("times the mean attention of CLS", "1", f"{high:.1f}")
    # The grid of patches may reach beyond the slice.
    grid = found.grid
    panel["extent"] = [
        count * px / size for count, px, size in zip(grid.shape, grid.patch_px, grid.slice_shape, strict=True)
    ]
    return panel


def _scale(label: str, low: str, high: str) -> dict[str, Any]:
    return {"label": label, "low": low, "high": high, "colours": scale_colours()}
