"""One page to look at: the three planes through a point of a scan, as CT, as colours and as likeness to the point."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ..evaluation.figures import LUNG_WINDOW
from ..model.image_processing_dinov3_ct import window_hu
from .scan_slices import ScanSlices
from .volume_features import VolumeFeatures
from .volume_maps import colour_slices

_MARK = "#E69F00"  # orange that colour-blind readers see too
_COLUMN_INCHES = 2.4


def draw_planes(
    path: str | Path,
    scan: ScanSlices,
    features: VolumeFeatures,
    similarity: np.ndarray,
    voxel: tuple[float, float, float],
) -> None:
    """Draw axial, coronal and sagittal planes, each in millimetres, the head up.

    Args:
        path: PNG, PDF or SVG.
        scan: the CT.
        features: of it.
        similarity: (Z, rows, columns), of `similarity_from` the same point.
        voxel: the point, index (z, y, x) of the scan.
    """
    index = tuple(round(value) for value in voxel)
    likeness = (features.grid.on_slice(values) for values in similarity)
    columns = {
        "CT, lung window": through_point((window_hu(slice_hu, *LUNG_WINDOW) for slice_hu in scan), index),
        "principal components": through_point(colour_slices(features), index),
        "cosine with the patch": through_point(likeness, index),
    }
    z_mm, y_mm, x_mm = scan.spacing_mm
    aspects = (y_mm / x_mm, z_mm / x_mm, z_mm / y_mm)
    marks = ((index[2], index[1]), (index[2], index[0]), (index[1], index[0]))
    first = columns["CT, lung window"]
    heights = [plane.shape[0] * aspect for plane, aspect in zip(first, aspects, strict=True)]
    height = _COLUMN_INCHES * sum(heights) / first[0].shape[1] + 0.4
    figure, axes = plt.subplots(3, 3, figsize=(8.2, height), height_ratios=heights, layout="constrained")
    for column, (title, planes) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=10)
        for row, (plane, aspect, mark) in enumerate(zip(planes, aspects, marks, strict=True)):
            axis = axes[row, column]
            is_map = plane.ndim == 2 and column == 2
            shown = axis.imshow(
                plane,
                cmap="viridis" if is_map else "gray",
                vmin=0,
                vmax=1,
                aspect=aspect,
                origin="upper" if row == 0 else "lower",
            )
            axis.plot(*mark, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=_MARK)
            axis.set(xticks=[], yticks=[])
    for row, name in enumerate(("axial", "coronal", "sagittal")):
        axes[row, 0].set_ylabel(name)
    figure.colorbar(shown, ax=axes[:, 2], shrink=0.5, label="cosine; below 0 as 0")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None} if str(path).endswith(".png") else None)
    plt.close(figure)


def through_point(slices: Iterable[np.ndarray], index: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """Axial (H, W), coronal (Z, W) and sagittal (Z, H) planes through a voxel; one slice is in memory at a time.

    Args:
        slices: (H, W) or (H, W, C), from the feet.
        index: (z, y, x).
    """
    axial, coronal, sagittal = None, [], []
    for z, values in enumerate(slices):
        if z == index[0]:
            axial = np.array(values)
        coronal.append(np.array(values[index[1]]))
        sagittal.append(np.array(values[:, index[2]]))
    return axial, np.stack(coronal), np.stack(sagittal)
