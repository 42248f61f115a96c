"""One page to look at: the three planes through a point of a scan, as CT, as colours and as likeness to the point."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ..evaluation.pages.figure_style import LUNG_WINDOW, ORANGE, PRINT_WIDTH, bare, save, style
from ..model.image_processing_dinov3_ct import window_hu
from .scan_slices import ScanSlices
from .volume_features import VolumeFeatures
from .volume_maps import colour_slices

_COLUMN_INCHES = 2.1


def draw_planes(
    path: Path,
    scan: ScanSlices,
    features: VolumeFeatures,
    similarity: np.ndarray,
    voxel: tuple[float, float, float],
) -> None:
    """Draw axial, coronal and sagittal planes, each in millimetres, the head up.

    Args:
        path: of the PNG; an SVG is written beside it.
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
    with style():
        figure, axes = plt.subplots(3, 3, figsize=(PRINT_WIDTH, height), height_ratios=heights, layout="constrained")
        for column, (title, planes) in enumerate(columns.items()):
            axes[0, column].set_title(title)
            cmap = "viridis" if column == 2 else "gray"  # of colours, none is asked for
            for row, (plane, aspect, mark) in enumerate(zip(planes, aspects, marks, strict=True)):
                origin = "upper" if row == 0 else "lower"
                shown = axes[row, column].imshow(plane, cmap, vmin=0, vmax=1, aspect=aspect, origin=origin)
                axes[row, column].plot(*mark, "o", markersize=8, markerfacecolor="none", markeredgecolor=ORANGE)
                bare(axes[row, column])
        for axis, name in zip(axes[:, 0], ("axial", "coronal", "sagittal"), strict=True):
            axis.set_ylabel(name)
        figure.colorbar(shown, ax=axes[:, 2], shrink=0.5, label="cosine; below 0 as 0")
        save(figure, path)


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
