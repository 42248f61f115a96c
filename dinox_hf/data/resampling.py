"""Separable resampling of a box of a slice: one definition of the weights, a CPU kernel and a dense matrix from it.

Antialiased bicubic resampling, a flip and a Gaussian blur are all linear and act on rows and columns apart, so a crop
is `A_y X A_xᵀ` with two small matrices. Each row of such a matrix is zero except for one short run of pixels, the
band, and only that is stored. The kernels read raw int16 and apply the bands; `dense` spells the matrices out, for two
matrix products on an accelerator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np

from ..model.image_processing_dinov3_ct import AIR_HU

_BLUR_RADIUS_PX = 4  # the recipe's kernel of 9 pixels


def _compiled(function: Callable) -> Callable:
    """Compile once per machine, not once per process; where nothing may be written, once per process after all."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # Numba finds neither the package nor the user's cache folder writable
        return numba.njit(nogil=True)(function)


@dataclass(frozen=True)
class BandedWeights:
    """A resampling matrix A (size_out, size_in): row i holds `values[i]` from column `start[i]` on, else 0."""

    start: np.ndarray  # (size_out,) int64
    values: np.ndarray  # (size_out, band) float32, each row sums to 1


def banded_weights(
    offset_px: float,
    extent_px: float,
    size_in: int,
    size_out: int,
    flip: bool = False,
    blur_sigma_px: float = 0.0,
) -> BandedWeights:
    """Weights that bring the stretch [offset, offset + extent) of one axis to `size_out` pixels.

    Keys' cubic with a = -0.5, widened by the scale when shrinking, over the pixels that the box touches and no others:
    for boxes on pixel edges the same numbers as `F.interpolate(..., mode="bicubic", antialias=True)` of the cut-out
    box. Edges may lie anywhere between pixels. A blur acts on the resampled axis, mirrored at its ends.

    Args:
        offset_px: where the box begins, in source pixels; 0 is the outer edge of the first pixel.
        extent_px: length of the box in source pixels.
        size_in: number of source pixels.
        size_out: number of pixels of the crop.
        flip: mirror the crop along this axis.
        blur_sigma_px: standard deviation of the Gaussian in pixels of the crop; 0 for none.
    """
    # One type for each argument, so that the kernels are compiled once.
    start, values = _cubic_bands(float(offset_px), float(extent_px), int(size_in), int(size_out))
    if blur_sigma_px > 0:
        start, values = _blurred_bands(start, values, float(blur_sigma_px))
    if flip:
        start, values = start[::-1].copy(), values[::-1].copy()
    return BandedWeights(start, values)


def dense(weights: BandedWeights, size_in: int) -> np.ndarray:
    """The same weights as a full matrix (size_out, size_in) float32.

    A crop is `dense_y @ slice_hu @ dense_x.T`, once the slice's padding has been turned into air.
    """
    size_out, band = weights.values.shape
    matrix = np.zeros((size_out, size_in), dtype=np.float32)
    columns = weights.start[:, None] + np.arange(band)
    np.put_along_axis(matrix, columns, weights.values, axis=1)
    return matrix


def resample(
    slices_hu: np.ndarray, weights_y: BandedWeights, weights_x: BandedWeights, padding_hu: int | None = None
) -> np.ndarray:
    """A crop `A_y X A_xᵀ` of every slice, with the fill outside the scanner's field of view read as air.

    Args:
        slices_hu: (C, H, W) int16 HU as stored.
        weights_y: bands along rows, for `size_in` = H.
        weights_x: bands along columns, for `size_in` = W.
        padding_hu: the stored fill value; those voxels count as -1024 HU before any weight touches them.

    Returns:
        (C, size_out_y, size_out_x) float32 HU.
    """
    # Without a fill, air takes its place: to read air as air changes nothing, and spares a second kernel.
    padding = np.int16(AIR_HU if padding_hu is None else padding_hu)
    # Arrow's memory is read-only; seeing all slices that way, contiguous, the kernel is compiled once.
    slices_hu = np.ascontiguousarray(slices_hu, dtype=np.int16).view()
    slices_hu.setflags(write=False)
    top, bottom = _reach(weights_y)
    left, right = _reach(weights_x)
    rows = np.empty((len(weights_y.start), right - left), dtype=np.float32)
    columns = np.empty((len(weights_x.start), len(weights_y.start)), dtype=np.float32)
    crops_hu = np.empty((len(slices_hu), *columns.T.shape), dtype=np.float32)
    # Sums of whole rows run over contiguous memory. Columns are summed the same way, on the transpose.
    for slice_hu, crop_hu in zip(slices_hu, crops_hu, strict=True):
        box_hu = _read_box(slice_hu, top, bottom, left, right, padding)
        _combine_rows(box_hu, weights_y.start - top, weights_y.values, rows)
        _combine_rows(rows.T.copy(), weights_x.start - left, weights_x.values, columns)
        crop_hu[:] = columns.T
    return crops_hu


def _reach(weights: BandedWeights) -> tuple[int, int]:
    """First pixel that any band touches, and the one after the last."""
    return int(weights.start.min()), int(weights.start.max()) + weights.values.shape[1]


@_compiled
def _cubic_bands(offset, extent, size_in, size_out):
    scale = extent / size_out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    low = max(0, math.floor(offset))
    high = min(size_in, math.ceil(offset + extent))
    band = min(2 * math.ceil(support) + 1, high - low)
    start = np.empty(size_out, dtype=np.int64)
    values = np.zeros((size_out, band), dtype=np.float32)
    for i in range(size_out):
        centre = offset + scale * (i + 0.5)
        first = max(low, math.floor(centre - support + 0.5))
        last = min(high, math.floor(centre + support + 0.5))
        # A band that would stick out of the box moves back into it; the places gained keep weight 0.
        start[i] = min(first, high - band)
        total = 0.0
        for j in range(first, last):
            total += _cubic((j + 0.5 - centre) / stretch)
        for j in range(first, last):
            values[i, j - start[i]] = _cubic((j + 0.5 - centre) / stretch) / total
    return start, values


@_compiled
def _cubic(x):
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0


@_compiled
def _blurred_bands(start, values, sigma):
    """Bands of G A, where G blurs the size_out pixels that A makes. Starts must be in increasing order."""
    size_out, band = values.shape
    # Nine taps as in the recipe; for a sigma below 1 px the outer ones weigh less than 1e-5 and are left out.
    radius = min(_BLUR_RADIUS_PX, math.ceil(4.0 * sigma), size_out - 1)
    gaussian = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    gaussian /= gaussian.sum()
    high = start[-1] + band
    wide = 0
    for i in range(size_out):
        wide = max(wide, start[min(i + radius, size_out - 1)] + band - start[max(i - radius, 0)])
    blurred_start = np.empty(size_out, dtype=np.int64)
    blurred = np.zeros((size_out, wide), dtype=np.float32)
    for i in range(size_out):
        blurred_start[i] = min(start[max(i - radius, 0)], high - wide)
        for tap in range(-radius, radius + 1):
            j = abs(i + tap)
            if j >= size_out:
                j = 2 * (size_out - 1) - j
            shift = start[j] - blurred_start[i]
            for k in range(band):
                blurred[i, shift + k] += gaussian[tap + radius] * values[j, k]
    return blurred_start, blurred


@_compiled
def _read_box(slice_hu, top, bottom, left, right, padding):
    """The part of a slice that a crop needs, as float32 with the fill turned into air."""
    box_hu = np.empty((bottom - top, right - left), dtype=np.float32)
    for y in range(bottom - top):
        row, target = slice_hu[top + y, left:right], box_hu[y]
        for x in range(right - left):
            target[x] = np.float32(AIR_HU) if row[x] == padding else np.float32(row[x])
    return box_hu


@_compiled
def _combine_rows(source, start, values, out):
    """Row i of `out` becomes the sum of the rows of `source` from start[i] on, weighted with values[i]."""
    for i in range(out.shape[0]):
        total = out[i]
        for x in range(out.shape[1]):
            total[x] = 0
        for k in range(values.shape[1]):
            weight, row = values[i, k], source[start[i] + k]
            for x in range(out.shape[1]):
                total[x] += weight * row[x]
