"""Crops cut on the accelerator: the loader ships slices and drawn numbers, two matrix products do the rest.

A crop is `window(A_y X A_xᵀ + noise)` (resampling.py tells why). The matrices are written out in full from the same
numbers that the loader's kernel takes: a GPU does a thousand useless products sooner than it follows a band.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..model.image_processing_dinov3_ct import AIR_HU
from .crops import CropDraw
from .intensity import ct
from .intensity.noise import white_noise
from .resampling import BLUR_RADIUS_PX
from .tensor_record import TensorRecord


@dataclass(frozen=True)
class DrawnCrops(TensorRecord):
    """What chance decided about N crops of one size; crop n shows slice n % B of its batch."""

    # (N, 13) float64: top, left, height, width, flip, blur sigma, noise sigma, 3 gains, 3 offsets of the windows.
    # One tensor, since each is sent from process to process and to the device by itself.
    numbers: Tensor
    noise_seeds: Tensor  # (N,) int64
    size: int  # px
    # Known on the host, so that the device need not be asked whether there is anything to do.
    has_blur: bool
    has_noise: bool

    def spacing_mm(self, slice_spacing_mm: Tensor) -> Tensor:
        """Millimetres per pixel of every crop, (N, 2) float32, from those of the slices, (B, 2)."""
        boxes_mm = self.numbers[:, 2:4] * slice_spacing_mm.repeat(len(self.numbers) // len(slice_spacing_mm), 1)
        return (boxes_mm / self.size).float()


def drawn_crops(draws: Sequence[CropDraw], size: int, intensity: ct.IntensityConfig) -> DrawnCrops:
    """The draws of N crops as tensors; they stand crop-major: crop 0 of all slices, then crop 1, and so on."""
    numbers = np.empty((len(draws), 13))
    for row, (geometry, drawn) in zip(numbers, draws, strict=True):
        row[:7] = *geometry.box, geometry.flip, geometry.blur_sigma_px, drawn.noise_sigma_hu
    level_shifts, width_factors = (
        np.array([getattr(draw.intensity, name) for draw in draws]) for name in ("level_shift_hu", "width_factor")
    )
    numbers[:, 7:10], numbers[:, 10:] = ct.window_lines(intensity, level_shifts, width_factors)
    return DrawnCrops(
        numbers=torch.from_numpy(numbers),
        noise_seeds=torch.tensor([draw.intensity.noise_seed for draw in draws], dtype=torch.int64),
        size=size,
        has_blur=bool((numbers[:, 5] > 0).any()),
        has_noise=bool((numbers[:, 6] > 0).any()),
    )


@dataclass(frozen=True)
class SliceStack(TensorRecord):
    """The slices of a batch, of whatever sizes, with what is needed to read them."""

    slices_hu: Tensor  # (B, C, H, W) int16 HU as stored, each in the top left corner of the largest
    sizes: Tensor  # (B, 2) int64: rows and columns that each really has
    padding_hu: Tensor  # (B,) int16: the fill value to be read as air; air where there is none


def stack_slices(slices_hu: Sequence[Sequence[np.ndarray]], padding_hu: Sequence[int | None]) -> SliceStack:
    """One tensor of B examples, each of C slices (H, W) int16."""
    sizes = [example[0].shape for example in slices_hu]
    rows, columns = np.max(sizes, axis=0)
    # Beyond a slice's own edge all weights are zero; zeros are written only where there is such a beyond.
    make = np.empty if len(set(sizes)) == 1 else np.zeros
    stack = make((len(slices_hu), len(slices_hu[0]), rows, columns), dtype=np.int16)
    for example, target in zip(slices_hu, stack, strict=True):
        for slice_hu, place in zip(example, target, strict=True):
            place[: slice_hu.shape[0], : slice_hu.shape[1]] = slice_hu
    fill = [AIR_HU if padding is None else padding for padding in padding_hu]
    return SliceStack(torch.from_numpy(stack), torch.tensor(sizes), torch.tensor(fill, dtype=torch.int16))


def cut_on_device(stack: SliceStack, drawn: DrawnCrops) -> Tensor:
    """All crops of one size, (N, 3, size, size) float32, on the device that holds the slices. Nothing waits for it."""
    crops_hu = _resampled(stack, drawn)
    noise_sigmas_hu, gains, offsets = drawn.numbers[:, 6:, None, None].float().split([1, 3, 3], dim=1)
    if drawn.has_noise:
        crops_hu = crops_hu + noise_sigmas_hu * white_noise(drawn.noise_seeds, crops_hu.shape[1:])
    windowed = gains * crops_hu + offsets
    for channel, (darkest, brightest) in enumerate(zip(ct.DARKEST, ct.BRIGHTEST, strict=True)):
        windowed[:, channel].clamp_(float(darkest), float(brightest))
    return windowed


def resampling_matrices(
    offset_px: Tensor, extent_px: Tensor, size_in: Tensor, size_out: int, width: int, flips: Tensor | None = None
) -> Tensor:
    """The matrices of `resampling.banded_weights`, in full and of many crops at once, without blur.

    Args:
        offset_px: (N,) float64, where each box begins along this axis.
        extent_px: (N,) float64, its length.
        size_in: (N,) source pixels along this axis.
        size_out: pixels of the crop.
        width: columns of each matrix, the largest of `size_in`; those beyond a crop's own are zero.
        flips: (N,) which crops are mirrored along this axis.

    Returns:
        (N, size_out, width) float32; each row sums to 1.
    """
    place = torch.arange(size_out, device=offset_px.device) + 0.5
    place = place.expand(len(offset_px), -1)
    if flips is not None:
        place = torch.where(flips[:, None], size_out - place, place)
    scale = extent_px / size_out
    centre = offset_px[:, None] + scale[:, None] * place
    # Float32 keeps 1/30,000 px near pixel 500. From the whole pixel below, it keeps as much as is ever needed.
    whole = centre.floor()
    pixel = torch.arange(width, device=offset_px.device)
    distance = (pixel - whole[:, :, None].long()).float() - (centre - whole - 0.5).float()[:, :, None]
    weights = _cubic(distance / scale.clamp(min=1.0).float()[:, None, None])
    low = offset_px.floor().clamp(min=0)
    high = torch.minimum((offset_px + extent_px).ceil(), size_in)
    is_in_box = (pixel >= low[:, None]) & (pixel < high[:, None])
    weights = weights * is_in_box[:, None, :]
    return weights / weights.sum(dim=2, keepdim=True)


def blur_matrices(sigmas_px: Tensor, size: int) -> Tensor:
    """(N, size, size) float32: a Gaussian blur of nine pixels, mirrored at the ends; the identity for a sigma of 0."""
    sigmas = sigmas_px[:, None, None]
    # As many taps as the kernel in resampling.py takes.
    radius = torch.ceil(4 * sigmas).clamp(max=min(BLUR_RADIUS_PX, size - 1))

    def taps(distance: Tensor) -> Tensor:
        gaussian = torch.exp(-0.5 * (distance / sigmas.clamp(min=1e-3)) ** 2)
        return gaussian * (distance.abs() <= radius)

    place = torch.arange(size, device=sigmas_px.device)
    row, column = place[:, None], place[None, :]
    # A pixel is also seen in the mirrors at both ends, but the first in no mirror of its own, nor the last.
    weights = taps((column - row).float())
    weights = weights + taps((-column - row).float()) * (column > 0)
    weights = weights + taps((2 * (size - 1) - column - row).float()) * (column < size - 1)
    return weights / weights.sum(dim=2, keepdim=True)


def _resampled(stack: SliceStack, drawn: DrawnCrops) -> Tensor:
    """Crops in HU, (N, C, size, size) float32: A_y X A_xᵀ."""
    num_slices, channels, _, columns = stack.slices_hu.shape
    num_crops, size = len(drawn.numbers) // num_slices, drawn.size  # of one slice
    slices_hu = torch.where(stack.slices_hu == stack.padding_hu[:, None, None, None], AIR_HU, stack.slices_hu)
    weights_y, weights_x = _both_matrices(stack, drawn)
    # Along y, all crops of a slice share a product: (B, crops * size, H) by (B, H, C * W).
    weights_y = weights_y.unflatten(0, (num_crops, num_slices)).transpose(0, 1).flatten(1, 2)
    # Along x, each crop has its own: (B * crops, size * C, W) by (B * crops, W, size).
    weights_x = weights_x.unflatten(0, (num_crops, num_slices)).transpose(0, 1).flatten(0, 1)
    with _float32_products():
        shrunk = weights_y @ slices_hu.transpose(1, 2).flatten(2).float()
        crops_hu = shrunk.view(-1, size * channels, columns) @ weights_x.mT
    return crops_hu.view(num_slices, num_crops, size, channels, size).permute(1, 0, 3, 2, 4).flatten(0, 1)


def _both_matrices(stack: SliceStack, drawn: DrawnCrops) -> tuple[Tensor, Tensor]:
    """A_y (N, size, H) and A_x (N, size, W), with flip and blur in them."""
    rows, columns = stack.slices_hu.shape[-2:]
    sizes = stack.sizes.repeat(len(drawn.numbers) // len(stack.sizes), 1)
    top, left, height, width, flip, blur_sigmas_px = drawn.numbers[:, :6].unbind(1)
    weights_y = resampling_matrices(top, height, sizes[:, 0], drawn.size, rows)
    weights_x = resampling_matrices(left, width, sizes[:, 1], drawn.size, columns, flip > 0)
    if drawn.has_blur:
        blur = blur_matrices(blur_sigmas_px.float(), drawn.size)
        with _float32_products():
            weights_y, weights_x = blur @ weights_y, blur @ weights_x
    return weights_y, weights_x


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, as in resampling.py."""
    x = x.abs()
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0))


@contextmanager
def _float32_products() -> Iterator[None]:
    """TF32, which training allows itself, keeps 11 bits: it would round half-made crops, in bone by up to 0.5 HU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
