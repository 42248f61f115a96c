"""Separable resampling of a box of a slice: one definition of the weights, a CPU kernel and a dense matrix from it.

Antialiased bicubic resampling, a flip and a Gaussian blur are all linear and act on rows and columns apart, so a crop
is `G A_y X A_xᵀ Gᵀ` with small matrices. Each row of such a matrix is zero except for one short run of pixels, the
band, and only that is stored. The kernels read raw int16 and apply the bands one after another; `dense` spells a
matrix out. device_crops.py makes the same matrices on an accelerator.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..model.image_processing_dinov3_ct import AIR_HU
from .compiling import compiled

BLUR_RADIUS_PX = 4  # the recipe's kernel of 9 pixels
_VECTOR_PX = 32  # pixels that a loop takes at once where vectors are long


@dataclass(frozen=True)
class BandedWeights:
    """A resampling matrix A (size_out, size_in): row i holds `values[i]` from column `start[i]` on, else 0."""

    start: np.ndarray  # (size_out,) int64
    values: np.ndarray  # (size_out, band) float32, each row sums to 1


NO_BLUR = BandedWeights(np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32))


def banded_weights(
    offset_px: float, extent_px: float, size_in: int, size_out: int, flip: bool = False
) -> BandedWeights:
    """Weights that bring the stretch [offset, offset + extent) of one axis to `size_out` pixels.

    Keys' cubic with a = -0.5, widened by the scale when shrinking, over the pixels that the box touches and no others:
    for boxes on pixel edges the same numbers as `F.interpolate(..., mode="bicubic", antialias=True)` of the cut-out
    box. Edges may lie anywhere between pixels.

    Args:
        offset_px: where the box begins, in source pixels; 0 is the outer edge of the first pixel.
        extent_px: length of the box in source pixels.
        size_in: number of source pixels.
        size_out: number of pixels of the crop.
        flip: mirror the crop along this axis.
    """
    # One type for each argument, so that the kernels are compiled once.
    start, values = _cubic_bands(float(offset_px), float(extent_px), int(size_in), int(size_out))
    if flip:
        start, values = start[::-1].copy(), values[::-1].copy()
    return BandedWeights(start, values)


def blur_weights(size: int, sigma_px: float) -> BandedWeights:
    """Weights that blur one axis of a crop: a Gaussian of nine pixels, mirrored at both ends.

    Args:
        size: number of pixels of the crop.
        sigma_px: standard deviation in pixels of the crop, above 0.
    """
    return BandedWeights(*_gaussian_bands(int(size), float(sigma_px)))


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
    slices_hu: Sequence[np.ndarray],
    weights_y: BandedWeights,
    weights_x: BandedWeights,
    padding_hu: int | None = None,
    blur: BandedWeights = NO_BLUR,
) -> np.ndarray:
    """A crop `A_y X A_xᵀ` of every slice, with the fill outside the scanner's field of view read as air.

    Args:
        slices_hu: C slices (H, W) int16 HU as stored.
        weights_y: bands along rows, for `size_in` = H.
        weights_x: bands along columns, for `size_in` = W.
        padding_hu: the stored fill value; those voxels count as -1024 HU before any weight touches them.
        blur: bands along both axes of a square crop.

    Returns:
        (C, size_out_y, size_out_x) float32 HU.
    """
    # Without a fill, air takes its place: to read air as air changes nothing, and spares a second kernel.
    padding = np.int16(AIR_HU if padding_hu is None else padding_hu)
    bands = (weights_y.start, weights_y.values, weights_x.start, weights_x.values, blur.start, blur.values)
    crops_hu = np.empty((len(slices_hu), len(weights_y.start), len(weights_x.start)), dtype=np.float32)
    for slice_hu, crop_hu in zip(slices_hu, crops_hu, strict=True):
        # Arrow's memory is read-only; seeing all slices that way, contiguous, the kernel is compiled once.
        slice_hu = np.ascontiguousarray(slice_hu, dtype=np.int16).view()
        slice_hu.setflags(write=False)
        _resample(slice_hu, *bands, padding, np.float32(AIR_HU), crop_hu)
    return crops_hu


@compiled
def _cubic_bands(offset, extent, size_in, size_out):
    scale = extent / size_out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    low = max(0, math.floor(offset))
    high = min(size_in, math.ceil(offset + extent))
    centres = offset + scale * (np.arange(size_out) + 0.5)
    first = np.empty(size_out, dtype=np.int64)
    last = np.empty(size_out, dtype=np.int64)
    for i in range(size_out):
        first[i] = max(low, math.floor(centres[i] - support + 0.5))
        last[i] = min(high, math.floor(centres[i] + support + 0.5))
    band = (last - first).max()
    start = np.minimum(first, high - band)  # a band that would stick out of the box moves back into it
    values = np.zeros((size_out, band), dtype=np.float32)  # the places gained keep weight 0
    for i in range(size_out):
        total = 0.0
        for j in range(first[i], last[i]):
            weight = _cubic((j + 0.5 - centres[i]) / stretch)
            values[i, j - start[i]] = weight
            total += weight
        for k in range(band):
            values[i, k] /= total
    return start, values


@compiled
def _cubic(x):
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return 0.0


@compiled
def _gaussian_bands(size, sigma):
    # Nine taps as in the recipe; for a sigma below 1 px the outer ones weigh less than 1e-5 and are left out.
    radius = min(BLUR_RADIUS_PX, math.ceil(4.0 * sigma), size - 1)
    gaussian = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    gaussian /= gaussian.sum()
    band = min(2 * radius + 1, size)
    start = np.empty(size, dtype=np.int64)
    values = np.zeros((size, band), dtype=np.float32)
    for i in range(size):
        start[i] = min(max(i - radius, 0), size - band)
        for tap in range(-radius, radius + 1):
            j = abs(i + tap)
            if j >= size:
                j = 2 * (size - 1) - j
            values[i, j - start[i]] += gaussian[tap + radius]
    return start, values


@compiled
def _resample(slice_hu, start_y, values_y, start_x, values_x, blur_start, blur_values, padding, air, crop_hu):
    """Sums run along rows, which lie together in memory; turned, columns are rows; turned again, a crop is upright."""
    top, bottom = start_y.min(), start_y.max() + values_y.shape[1]
    left, right = start_x.min(), start_x.max() + values_x.shape[1]
    # A few columns more than needed: loops of whole vectors have no remainder to be done one by one.
    width = min((right - left + _VECTOR_PX - 1) // _VECTOR_PX * _VECTOR_PX, slice_hu.shape[1])
    left = min(left, slice_hu.shape[1] - width)
    box = np.empty((bottom - top, width), dtype=np.float32)
    shrunk = np.empty((width, len(start_y)), dtype=np.float32)
    _read_box(slice_hu, top, left, padding, air, box)
    _combine_rows_and_turn(box, start_y - top, values_y, shrunk)
    if len(blur_start) == 0:
        _combine_rows_and_turn(shrunk, start_x - left, values_x, crop_hu)
    else:
        # The crop is smaller than the box: here a blur costs less than within the bands above.
        sharp = np.empty((len(start_x), len(start_y)), dtype=np.float32)
        blurred_along_x = np.empty_like(crop_hu)
        _combine_rows(shrunk, start_x - left, values_x, sharp)
        _combine_rows_and_turn(sharp, blur_start, blur_values, blurred_along_x)
        _combine_rows(blurred_along_x, blur_start, blur_values, crop_hu)


@compiled
def _read_box(slice_hu, top, left, padding, air, box):
    """The part of a slice that a crop needs, as float32 with the fill turned into air."""
    height, width = box.shape
    for y in range(height):
        # Taken from a whole slice, a row is known to be contiguous, and is read many pixels at a time.
        row, target = slice_hu[top + y, left : left + width], box[y]
        for x in range(width):
            target[x] = air if row[x] == padding else np.float32(row[x])


@compiled
def _combine_rows(source, start, values, out):
    """Row i of `out` becomes the sum of the rows of `source` from start[i] on, weighted with values[i]."""
    for i in range(len(start)):
        _weighted_sum(source, start[i], values[i], out[i])


@compiled
def _combine_rows_and_turn(source, start, values, out):
    """The same as columns of `out`: four sums at a time are written as four columns."""
    size_out, width = len(start), source.shape[1]
    sums = np.empty((4, width), dtype=np.float32)
    whole = size_out - size_out % 4
    for i in range(0, whole, 4):
        for j in range(4):
            _weighted_sum(source, start[i + j], values[i + j], sums[j])
        sum0, sum1, sum2, sum3 = sums[0], sums[1], sums[2], sums[3]
        for x in range(width):
            target = out[x]
            target[i], target[i + 1], target[i + 2], target[i + 3] = sum0[x], sum1[x], sum2[x], sum3[x]
    for i in range(whole, size_out):
        _weighted_sum(source, start[i], values[i], sums[0])
        out[:, i] = sums[0]


@compiled
def _weighted_sum(source, first, weights, total):
    """`total` becomes the weighted sum of the rows from `first` on: four at a time, read and written once for all."""
    band, width = len(weights), len(total)
    whole = band - band % 4
    for x in range(width):
        total[x] = 0
    for k in range(0, whole, 4):
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        row = first + k
        row0, row1, row2, row3 = source[row], source[row + 1], source[row + 2], source[row + 3]
        for x in range(width):
            total[x] += w0 * row0[x] + w1 * row1[x] + w2 * row2[x] + w3 * row3[x]
    for k in range(whole, band):
        weight, row0 = weights[k], source[first + k]
        for x in range(width):
            total[x] += weight * row0[x]
