"""What a contact sheet shows of a series: chosen by a rule and not by eye, read once, turned into panels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from .overview import SeriesEntry, SetOverview
from .panels import CTPanel, Outline

WINDOWS = dict(zip(("lung", "mediastinum", "bone"), map(tuple, Dinov3CTImageProcessor.hu_windows), strict=True))
CLOSE_UP_MM = 60.0


@dataclass(frozen=True, eq=False)
class SeriesPicture:
    """Pixels and findings of one series."""

    series: SeriesEntry
    slices_hu: dict[int, np.ndarray]  # by slice index, (H, W) HU: low, key and high
    low: int  # slice index: half way from the feet to key
    key: int  # slice index: through the largest nodule, or half way
    high: int  # slice index: half way from key to the head
    coronal_hu: np.ndarray  # (Z, W) HU, feet first
    coronal_row: int
    nodules: list[dict]  # rows with masks, the largest first
    marks: list[dict]


def choose_series(overview: SetOverview, series_ids: Sequence[str] | None = None, num: int = 4) -> list[SeriesEntry]:
    """Those asked for, or `num` spread evenly over the patients: one of each, with nodules if there is such a one.

    Raises:
        ValueError: if a series is not in the set.
    """
    if series_ids:
        return _find_series(overview, series_ids)
    with_nodules = {nodule["series_id"] for nodule in overview.nodules}
    by_patient: dict[str, list[SeriesEntry]] = {}
    for series in sorted(overview.series, key=lambda entry: entry.series_id not in with_nodules):
        by_patient.setdefault(series.patient_id, []).append(series)
    patients = sorted(by_patient)
    firsts = [by_patient[patient][0] for patient in patients]
    if len(firsts) > num:
        return [firsts[index] for index in np.linspace(0, len(firsts) - 1, num).round().astype(int)]
    others = [series for patient in patients for series in by_patient[patient][1:]]
    return (firsts + others)[:num]


def _find_series(overview: SetOverview, series_ids: Sequence[str]) -> list[SeriesEntry]:
    by_id = {series.series_id: series for series in overview.series}
    unknown = [name for name in series_ids if name not in by_id]
    if unknown:
        raise ValueError(
            f"--series should name series of {overview.folder}; found {', '.join(map(repr, unknown))}. It holds "
            f"{len(by_id):,}, such as {', '.join(list(by_id)[:3])}."
        )
    return [by_id[name] for name in series_ids]


def take_pictures(overview: SetOverview, shown: Sequence[SeriesEntry]) -> list[SeriesPicture]:
    """Read the pixels and findings of what is shown."""
    nodules = overview.nodules_of([series.series_id for series in shown])
    return [
        _take_picture(
            overview,
            series,
            [nodule for nodule in nodules if nodule["series_id"] == series.series_id],
            [mark for mark in overview.marks or [] if mark["series_id"] == series.series_id],
        )
        for series in shown
    ]


def _take_picture(overview: SetOverview, series: SeriesEntry, nodules: list[dict], marks: list[dict]) -> SeriesPicture:
    nodules = sorted(nodules, key=lambda nodule: -nodule["diameter_mm"])
    last = series.num_slices - 1
    key, coronal_row = last // 2, None
    if nodules:
        areas = np.array(nodules[0]["mask"], dtype=np.uint8).sum(axis=(1, 2))
        key = nodules[0]["first_slice"] + int(areas.argmax())
        coronal_row = round(nodules[0]["centre_index"][1])
    low, high = key // 2, (key + last + 1) // 2
    kept, lines = {}, []
    for index, slice_hu in enumerate(overview.slices_hu(series)):
        coronal_row = len(slice_hu) // 2 if coronal_row is None else coronal_row
        lines.append(slice_hu[coronal_row])
        if index in (low, key, high):
            kept[index] = slice_hu
    return SeriesPicture(series, kept, low, key, high, np.stack(lines), coronal_row, nodules, marks)


def panels_of(picture: SeriesPicture) -> list[CTPanel]:
    """Coronal, low, key slice in three windows, high, and a close-up if there is a nodule."""
    key = picture.key
    panels = [_coronal(picture), _axial(picture, picture.low, "lung"), _axial(picture, key, "lung", has_labels=True)]
    panels += [
        _axial(picture, key, "mediastinum"),
        _axial(picture, key, "bone"),
        _axial(picture, picture.high, "lung"),
    ]
    return panels + ([_close_up(picture)] if picture.nodules else [])


def _coronal(picture: SeriesPicture) -> CTPanel:
    series = picture.series
    z_mm, _, x_mm = series.spacing_mm
    return CTPanel(
        hu=picture.coronal_hu[::-1],
        window=WINDOWS["lung"],
        spacing_mm=(z_mm, x_mm),
        letters="HRFL",
        title=f"coronal   row {picture.coronal_row + 1}",
        padding_hu=series.padding_hu,
        outlines=_coronal_outlines(picture),
        lines=[series.num_slices - 1 - index for index in (picture.low, picture.key, picture.high)],
    )


def _axial(picture: SeriesPicture, index: int, window: str, has_labels: bool = False) -> CTPanel:
    series = picture.series
    return CTPanel(
        hu=picture.slices_hu[index],
        window=WINDOWS[window],
        spacing_mm=series.spacing_mm[1:],
        letters="ARPL",
        title=f"{window}   slice {index + 1} / {series.num_slices}",
        padding_hu=series.padding_hu,
        outlines=_axial_outlines(picture.nodules, index),
        marks=[mark for mark in picture.marks if mark["slice_index"] == index],
        has_labels=has_labels,
    )


def _close_up(picture: SeriesPicture) -> CTPanel:
    largest = picture.nodules[0]
    return replace(
        _axial(picture, picture.key, "lung"),
        title="largest nodule   " + _describe(largest, ", "),
        centre=tuple(largest["centre_index"][1:]),
        extent_mm=max(CLOSE_UP_MM, 1.6 * largest["diameter_mm"]),
    )


def _axial_outlines(nodules: list[dict], index: int) -> list[Outline]:
    found = []
    for nodule in nodules:
        first, row, column = nodule["mask_start"]
        if first <= index < first + len(nodule["mask"]):
            mask = np.array(nodule["mask"][index - first], dtype=bool)
            found.append(Outline(mask, row, column, _describe(nodule, "\n")))
    return found


def _coronal_outlines(picture: SeriesPicture) -> list[Outline]:
    """With the head up, as the view is drawn."""
    found = []
    for nodule in picture.nodules:
        mask = np.array(nodule["mask"], dtype=bool)
        first, first_row, column = nodule["mask_start"]
        if first_row <= picture.coronal_row < first_row + mask.shape[1]:
            cut = mask[::-1, picture.coronal_row - first_row]
            found.append(Outline(cut, picture.series.num_slices - first - len(mask), column))
    return found


def _describe(nodule: dict, joint: str) -> str:
    number = nodule["num_readers"]
    return f"{nodule['diameter_mm']:.1f} mm{joint}{number} reader{'s' if number > 1 else ''}"
