"""What readers yield: a `Volume` in scanner units, or a `Rejection` that says why there is none."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

INT16_MIN = -32768
AIR_HU = -1024  # the darkest number of air; nothing in a body is darker
DARKEST_TISSUE_HU = -100  # fat: a scan in which nothing is darker shows no air, or holds no HU


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan in scanner units. Axis order is (z, y, x): z to the head, y to posterior, x to the patient's left."""

    voxels: np.ndarray  # (Z, Y, X) int16, HU for CT, as the scanner stored them after rescale
    z_mm: np.ndarray  # (Z,) slice positions along the normal, increasing
    affine_lps: np.ndarray  # (4, 4) index (x, y, z) -> millimetres, LPS; the only place where spacing comes from
    slice_uids: tuple[str, ...]  # (Z,) SOPInstanceUIDs, so that annotations find their slice; empty for other formats
    series_id: str
    patient_id: str  # the collection's pseudonym; never a name
    modality: Literal["ct", "mr"]
    padding_hu: int | None  # the fill outside the field of view, as stored

    def __str__(self) -> str:
        size = " x ".join(map(str, self.voxels.shape))
        spacing = " x ".join(f"{value:.3g}" for value in self.spacing_mm)
        return f"{self.modality} {self.series_id} of {self.patient_id}: {size} voxels of {spacing} mm (z, y, x)"

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels in millimetres, as (z, y, x)."""
        x_mm, y_mm, z_mm = np.linalg.norm(self.affine_lps[:3, :3], axis=0)
        # Stored decimals such as 0.703125 survive the square root only to 16 digits; 1e-9 mm is far below any scanner.
        return tuple(round(float(value), 9) for value in (z_mm, y_mm, x_mm))


@dataclass(frozen=True)
class Rejection:
    """Files that gave no volume, why, and what to do about it: a line of the ingest report."""

    path: str  # relative to the input folder; `archive.zip/member` for a file inside an archive
    reason: str
    advice: str
    num_files: int = 1
    loses: Literal["nothing", "scan", "annotations"] = "nothing"  # what of a scan, or a part of it, is lost with it


def find_padding_hu(slices_hu: Iterable[np.ndarray]) -> int | None:
    """Return the constant that the scanner wrote outside its field of view, or None if there is none.

    Decided from the pixels, since PixelPaddingValue often names another value than the one stored (LIDC-IDRI-0001
    declares -2000 and stores -2048). Nothing in a body is darker than air, so padding is the commonest value below
    -1024 HU, if it fills at least 0.5 % of the scan and is ten times as common as the values next to it: a fill is a
    constant, noise below air is scattered. A fill equal to air (-1000, -1024) already is what it should look like and
    counts as no padding.

    Args:
        slices_hu: (Y, X) int16 HU each: the slices of a scan, or its (Z, Y, X) voxels.

    Returns:
        The fill in HU, as stored, or None.
    """
    counts = np.zeros(
        AIR_HU - INT16_MIN + 1, dtype=np.int64
    )  # of INT16_MIN … -1025 HU, and one in which nothing falls
    num_voxels = 0
    for slice_hu in slices_hu:
        num_voxels += slice_hu.size
        darkest = slice_hu.min()
        if darkest < AIR_HU:
            # A fill is nearly always the darkest number of its slice, and comparing is quicker than a histogram.
            is_darkest = slice_hu == darkest
            counts[darkest - INT16_MIN] += np.count_nonzero(is_darkest)
            others = slice_hu[(slice_hu < AIR_HU) ^ is_darkest]
            if others.size:
                counts += np.bincount(others.astype(np.intp) - INT16_MIN, minlength=counts.size)
    commonest = int(counts.argmax())
    # Beside the lowest number lies nothing, and index -1 is the empty last one.
    enough = max(0.005 * num_voxels, 10 * counts[commonest - 1], 10 * counts[commonest + 1])
    return commonest + INT16_MIN if counts[commonest] and counts[commonest] >= enough else None
