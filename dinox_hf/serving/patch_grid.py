"""Where the patches of a slice lie in its scan: from patches to pixels and back, in whole slices and in tiles."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..data.resampling import AIR_HU, banded_weights, resample


@dataclass(frozen=True)
class PatchGrid:
    """Patches laid over a slice from its first corner on; the last ones may reach beyond it, where there is air."""

    slice_shape: tuple[int, int]  # (H, W) pixels of the scan
    patch_px: tuple[float, float]  # side of a patch in these pixels, (y, x); a fraction where the slice is resampled
    patch_size: int  # side of a patch in pixels of the network

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        # A patch that would hold less than a millionth of itself is rounding.
        return tuple(math.ceil(n / px - 1e-6) for n, px in zip(self.slice_shape, self.patch_px, strict=True))

    def canvas(self, slices_hu: np.ndarray, padding_hu: int | None) -> np.ndarray:
        """Slices at the network's resolution, with the fill outside the scanner's view and beyond the edges as air.

        Args:
            slices_hu: (C, H, W) int16 HU.
            padding_hu: the fill as stored; None if there is none.

        Returns:
            (C, rows * patch_size, columns * patch_size) float32 HU, resampled as in training.
        """
        extents = [count * px for count, px in zip(self.shape, self.patch_px, strict=True)]
        sizes = [max(math.ceil(extent), n) for extent, n in zip(extents, self.slice_shape, strict=True)]
        wide = np.full((len(slices_hu), *sizes), AIR_HU, dtype=np.int16)
        wide[:, : self.slice_shape[0], : self.slice_shape[1]] = slices_hu
        weights = [
            banded_weights(0, extent, size, count * self.patch_size)
            for extent, size, count in zip(extents, sizes, self.shape, strict=True)
        ]
        return resample(wide, *weights, padding_hu)

    def mean_of_patches(self, canvas: np.ndarray) -> np.ndarray:
        """(rows, columns) means of a (rows * patch_size, columns * patch_size) picture."""
        rows, columns = self.shape
        return canvas.reshape(rows, self.patch_size, columns, self.patch_size).mean(axis=(1, 3))

    def patch_of(self, row_px: float, column_px: float) -> tuple[int, int]:
        """The patch that holds a point of the slice; the index of a pixel is its centre.

        Raises:
            ValueError: if the point is outside the slice.
        """
        point = (row_px, column_px)
        # Half a pixel around its centre belongs to a pixel.
        if not all(-0.5 <= p <= n - 0.5 for p, n in zip(point, self.slice_shape, strict=True)):
            raise ValueError(
                f"A point should lie in the slice of {self.slice_shape[0]} rows and {self.slice_shape[1]} columns; "
                f"found row {row_px:g}, column {column_px:g}. Count from 0, rows first."
            )
        found = (int((p + 0.5) / px) for p, px in zip(point, self.patch_px, strict=True))
        return tuple(min(index, count - 1) for index, count in zip(found, self.shape, strict=True))

    def on_slice(self, values: np.ndarray) -> np.ndarray:
        """Values of patches at every pixel of the slice, bilinear between the middles of patches.

        Args:
            values: (rows, columns) or (rows, columns, C).

        Returns:
            (H, W) or (H, W, C) float32.
        """
        along_rows, along_columns = self._interpolation
        return np.einsum("hr,rc...,wc->hw...", along_rows, values.astype(np.float32), along_columns, optimize=True)

    def affine(self, scan_affine_lps: np.ndarray) -> np.ndarray:
        """(4, 4) from (column, row, slice) of patches to millimetres; a patch's place is its middle.

        Args:
            scan_affine_lps: (4, 4) from (x, y, z) of voxels to millimetres.
        """
        y_px, x_px = self.patch_px
        to_voxel = np.diag([x_px, y_px, 1.0, 1.0])
        to_voxel[:2, 3] = (x_px - 1) / 2, (y_px - 1) / 2
        return scan_affine_lps @ to_voxel

    @cached_property
    def _interpolation(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(
            _bilinear(n, count, px) for n, count, px in zip(self.slice_shape, self.shape, self.patch_px, strict=True)
        )


def make_grid(
    slice_shape: tuple[int, int],
    spacing_yx_mm: tuple[float, float],
    patch_size: int,
    pixel_mm: float | None = None,
) -> PatchGrid:
    """The patches of a slice.

    Args:
        slice_shape: (H, W).
        spacing_yx_mm: size of its pixels, (y, x).
        patch_size: of the network, in pixels.
        pixel_mm: the size to which pixels are resampled for the network; None leaves those of the scan.
    """
    scale = (1.0, 1.0) if pixel_mm is None else tuple(pixel_mm / mm for mm in spacing_yx_mm)
    return PatchGrid(tuple(map(int, slice_shape)), tuple(patch_size * s for s in scale), patch_size)


def tile_starts(count: int, side: int, overlap: float) -> list[int]:
    """Where tiles of `side` patches begin along an axis of `count`: evenly spread, the last one ending with it.

    Args:
        count: patches of the axis.
        side: of a tile; one tile covers an axis that is no longer.
        overlap: the least share of a tile that its neighbour covers too.
    """
    if side >= count:
        return [0]
    step = max(1, math.floor(side * (1 - overlap)))
    num_tiles = math.ceil((count - side) / step) + 1
    return np.linspace(0, count - side, num_tiles).round().astype(int).tolist()


def _bilinear(num_pixels: int, num_patches: int, patch_px: float) -> np.ndarray:
    """(num_pixels, num_patches) weights; beyond the middle of the outermost patch its value goes on."""
    place = np.clip((np.arange(num_pixels) + 0.5) / patch_px - 0.5, 0, num_patches - 1)
    low = np.minimum(np.floor(place).astype(int), max(num_patches - 2, 0))
    share = place - low
    weights = np.zeros((num_pixels, num_patches), dtype=np.float32)
    rows = np.arange(num_pixels)
    weights[rows, low] = 1 - share
    weights[rows, np.minimum(low + 1, num_patches - 1)] += share
    return weights
