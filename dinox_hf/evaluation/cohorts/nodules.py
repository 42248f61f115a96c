"""The nodules of a built set, and square fields of millimetres cut around them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import get_dataset_config_names, load_dataset

from ...data.leaks import check_set
from ...data.resampling import AIR_HU, banded_weights, resample
from ...data.schema import CHARACTERISTICS
from ...data.slices import SliceSet

_MASK_SCALE = 1000  # a mask is resampled as int16, where 0 and 1 alone would leave nothing between


@dataclass(frozen=True)
class Nodule:
    """One nodule of the set's second configuration; indices are (z, y, x) of its series."""

    nodule_id: str
    patient_id: str
    series_id: str
    split: str
    diameter_mm: float  # of the circle with the area of the largest consensus outline
    centre_index: tuple[float, float, float]
    ratings: dict[str, list[int]]  # of every reader, by characteristic
    mask_start: tuple[int, int, int]
    mask: np.ndarray  # (z, y, x) bool, where at least half of the readers drew


@dataclass(frozen=True)
class Field:
    """A square of a slice in source pixels; its middle may lie between pixels and its edges outside the slice."""

    middle_yx: tuple[float, float]  # 0 is the outer edge of the first pixel
    extent_yx: tuple[float, float]  # px; differs between axes where the spacing does

    def moved(self, shift_yx: np.ndarray) -> "Field":
        """The same square moved by a share of its own side."""
        middle = tuple(m + s * e for m, s, e in zip(self.middle_yx, shift_yx, self.extent_yx, strict=True))
        return Field(middle, self.extent_yx)


class ScanSet:
    """All splits of a built set, with every slice found by its series and its number.

    Raises:
        ValueError: if the folder is no built set, or a patient or a series of it stands in two splits.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        check_set(folder)
        self.splits = {split: SliceSet(folder, split) for split in splits_of(self.folder)}
        self._first_row = {}
        for split, slices in self.splits.items():
            for row in range(len(slices)):
                self._first_row.setdefault(slices.series_id(row), (split, row))

    @property
    def fingerprint(self) -> str:
        """Names the pixels of all splits."""
        return "+".join(slices.fingerprint for slices in self.splits.values())

    def slice_of(self, nodule: Nodule) -> tuple[SliceSet, int]:
        """The split and row that show the middle of a nodule.

        Raises:
            ValueError: if its series is not in the set.
        """
        if nodule.series_id not in self._first_row:
            raise ValueError(
                f"Every nodule should lie in a series of the set; found nodule {nodule.nodule_id} of series "
                f"{nodule.series_id}, which {self.folder} does not hold. Build the set again."
            )
        split, first_row = self._first_row[nodule.series_id]
        return self.splits[split], first_row + round(nodule.centre_index[0])


def splits_of(folder: Path) -> list[str]:
    """Names of the splits of a built set that hold slices, train first.

    Raises:
        ValueError: if the folder is missing or is not a built set.
    """
    names = {path.name.split("-")[0] for path in (folder / "slices").glob("*.parquet")}
    if not names:
        raise ValueError(
            f"Expected a built set with slices/*.parquet in {folder}; found "
            f"{'no such folder' if not folder.is_dir() else 'none there'}. Build one with "
            f"`python dataset_scripts/build_lidc_idri.py RAW OUT`, or name another with --data."
        )
    return sorted(names, key=lambda name: (name != "train", name))


def read_nodules(folder: str | Path) -> list[Nodule]:
    """All nodules of all splits, in the order of the set.

    Raises:
        ValueError: if the set has no configuration "nodules", or no nodule in it.
    """
    configurations = get_dataset_config_names(str(folder))
    if "nodules" not in configurations:
        raise ValueError(
            f"Expected a configuration 'nodules' in {folder}; found {', '.join(configurations)}. The evaluation needs "
            f"labelled nodules: build the set from a folder that holds the annotations (LIDC XML) beside the scans."
        )
    nodules = [_nodule(row, split) for split, rows in load_dataset(str(folder), "nodules").items() for row in rows]
    if not nodules:
        raise ValueError(
            f"Expected at least one nodule in {folder}; found an empty table. "
            f"Build the set from scans with annotations."
        )
    return nodules


def field_around(nodule: Nodule, spacing_yx_mm: tuple[float, float], field_mm: float) -> Field:
    """The square of `field_mm` whose middle is the nodule's."""
    # The index of a pixel is its centre; half a pixel further counts from the outer edge.
    middle = (nodule.centre_index[1] + 0.5, nodule.centre_index[2] + 0.5)
    return Field(middle, tuple(field_mm / spacing for spacing in spacing_yx_mm))


def cut_field(slices_hu: np.ndarray, field: Field, size_px: int, padding_hu: int | None) -> np.ndarray:
    """Resample a field to `size_px` pixels a side; beyond the border of the slice there is air.

    Args:
        slices_hu: (C, H, W) int16 HU.
        field: where to cut.
        size_px: side of the result.
        padding_hu: the stored fill outside the scanner's view, read as air.

    Returns:
        (C, size_px, size_px) float32 HU.
    """
    return _resampled(slices_hu, field, size_px, int(AIR_HU), padding_hu)


def cut_mask(nodule: Nodule, slice_shape: tuple[int, int], field: Field, size_px: int) -> np.ndarray:
    """The nodule's mask on its middle slice, resampled like the slice: (size_px, size_px) bool, never empty.

    A pixel is inside when at least half of it is; of a nodule smaller than that, the fullest pixel.

    Raises:
        ValueError: if the mask does not lie in the slice.
    """
    start, size = nodule.mask_start[1:], nodule.mask.shape[1:]
    if any(first < 0 or first + n > m for first, n, m in zip(start, size, slice_shape, strict=True)):
        raise ValueError(
            f"The mask of nodule {nodule.nodule_id} should lie in its slice of {tuple(slice_shape)} pixels; found "
            f"{tuple(size)} from row {start[0]}, column {start[1]} on. It was drawn on images of another size: "
            f"build the set again."
        )
    mask = np.zeros(slice_shape, dtype=np.int16)
    z = min(max(round(nodule.centre_index[0]) - nodule.mask_start[0], 0), len(nodule.mask) - 1)
    outline = nodule.mask[z] if nodule.mask[z].any() else nodule.mask.any(axis=0)
    top, left = nodule.mask_start[1:]
    mask[top : top + outline.shape[0], left : left + outline.shape[1]] = outline * _MASK_SCALE
    inside = _resampled(mask[None], field, size_px, 0, None)[0]
    return inside >= min(_MASK_SCALE / 2, inside.max())


def cut_nodules(
    scans: ScanSet,
    nodules: list[Nodule],
    field_mm: float,
    size_px: int,
    channels: str,
    shifts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A field of every nodule and its mask.

    Args:
        scans: where the slices are.
        nodules: N of them.
        field_mm: side of the field.
        size_px: side of the result.
        channels: "windows" cuts the middle slice, "neighbours" the slices below and above as well.
        shifts: (N, 2) how far the field moves off the nodule, in sides of the field; None centres it.

    Returns:
        (N, C, size_px, size_px) float32 HU and (N, size_px, size_px) bool.
    """
    fields_hu, masks = [], []
    for index, nodule in enumerate(nodules):
        slices, row = scans.slice_of(nodule)
        slices_hu = slices.neighbours(row) if channels == "neighbours" else slices.pixels(row)[None]
        field = field_around(nodule, slices.spacing_mm(row)[1:], field_mm)
        field = field if shifts is None else field.moved(shifts[index])
        fields_hu.append(cut_field(slices_hu, field, size_px, slices.padding_hu(row)))
        masks.append(cut_mask(nodule, slices_hu.shape[1:], field, size_px))
    return np.stack(fields_hu), np.stack(masks)


def _resampled(slices: np.ndarray, field: Field, size_px: int, fill: int, padding: int | None) -> np.ndarray:
    """Cut the pixels that the field touches, fill what lies outside, resample."""
    # One pixel more than the field touches, so that the box never loses its edge to rounding.
    low = [int(np.floor(m - e / 2)) - 1 for m, e in zip(field.middle_yx, field.extent_yx, strict=True)]
    high = [int(np.ceil(m + e / 2)) + 1 for m, e in zip(field.middle_yx, field.extent_yx, strict=True)]
    window = np.full((len(slices), high[0] - low[0], high[1] - low[1]), fill, dtype=np.int16)
    inner = [slice(max(0, a), max(0, min(n, b))) for a, b, n in zip(low, high, slices.shape[1:], strict=True)]
    outer = [slice(i.start - a, i.stop - a) for i, a in zip(inner, low, strict=True)]
    if all(i.stop > i.start for i in inner):
        window[:, outer[0], outer[1]] = slices[:, inner[0], inner[1]]
    # The box in the window's own pixels: it begins between pixel 1 and pixel 2 of each axis.
    offset = [m - e / 2 - a for m, e, a in zip(field.middle_yx, field.extent_yx, low, strict=True)]
    weights_y = banded_weights(offset[0], field.extent_yx[0], window.shape[1], size_px)
    weights_x = banded_weights(offset[1], field.extent_yx[1], window.shape[2], size_px)
    return resample(window, weights_y, weights_x, padding)


def _nodule(row: dict[str, Any], split: str) -> Nodule:
    return Nodule(
        nodule_id=row["nodule_id"],
        patient_id=row["patient_id"],
        series_id=row["series_id"],
        split=split,
        diameter_mm=row["diameter_mm"],
        centre_index=tuple(row["centre_index"]),
        ratings={name: list(row[name]) for name in CHARACTERISTICS},
        mask_start=tuple(row["mask_start"]),
        mask=np.array(row["mask"], dtype=bool),
    )
