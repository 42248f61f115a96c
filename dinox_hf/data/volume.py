"""What readers yield: a `Volume` in scanner units, or a `Rejection` that says why there is none."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


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
    loses_scan: bool = False  # True: a CT scan, or a part of one, is lost; False: there was none here


def find_padding_hu(voxels_hu: np.ndarray) -> int | None:
    """Return the constant that the scanner wrote outside its field of view, or None if there is none.

    Decided from the pixels, since PixelPaddingValue often names another value than the one stored (LIDC-IDRI-0001
    declares -2000 and stores -2048). Nothing in a body is darker than air, so padding is the commonest value below
    -1024 HU, if it fills at least 0.5 % of the scan and is ten times as common as the values next to it: a fill is a
    constant, noise below air is scattered. A fill equal to air (-1000, -1024) already is what it should look like and
    counts as no padding.

    Args:
        voxels_hu: (Z, Y, X) int16, HU.

    Returns:
        The fill in HU, as stored, or None.
    """
    darker_than_air = voxels_hu[voxels_hu < -1024]
    # At most 0.5 % of the voxels: no constant among them can reach the share.
    if darker_than_air.size < 0.005 * voxels_hu.size:
        return None
    counts = np.bincount(darker_than_air.astype(np.int32) + 32769, minlength=65538)
    commonest = int(counts.argmax())
    enough = max(0.005 * voxels_hu.size, 10 * counts[commonest - 1], 10 * counts[commonest + 1])
    return commonest - 32769 if counts[commonest] >= enough else None
