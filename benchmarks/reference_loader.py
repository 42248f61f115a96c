"""What people do today: a 16-bit PNG per slice, decoded and cut with Pillow, stacked as tensors."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinox_hf.data.crops import Box, CropGeometry, draw_geometries
from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor

PNG_OFFSET_HU = 32768  # 16-bit PNG knows no negative numbers
MEAN, STD = (
    torch.tensor(values)[:, None, None]
    for values in (Dinov3CTImageProcessor.image_mean, Dinov3CTImageProcessor.image_std)
)


def write_png(slice_hu: np.ndarray, path: Path) -> None:
    """One slice (H, W) int16."""
    Image.fromarray((slice_hu.astype(np.int32) + PNG_OFFSET_HU).astype(np.uint16)).save(path)


def read_png(path: Path) -> np.ndarray:
    """(H, W) float32 HU."""
    return np.asarray(Image.open(path), dtype=np.float32) - PNG_OFFSET_HU


def whole_pixel_geometries(rng: np.random.Generator, rows: int, columns: int) -> list[CropGeometry]:
    """2 global and 8 local crops with edges on whole pixels: only there do Pillow and we mean the same box."""
    drawn = draw_geometries(rng, Box(0, 0, rows, columns), CropsConfig())
    return [
        geometry._replace(box=Box(*(float(int(edge)) for edge in geometry.box)), blur_sigma_px=0.0)
        for geometry in drawn[0] + drawn[1]
    ]


def crops_in_8_bits(
    slices_hu: list[np.ndarray], geometries: list[CropGeometry], config: IntensityConfig
) -> list[Tensor]:
    """The fast way: window to 256 grey levels first, and cut one RGB image of three windows or three slices."""
    windows = config.windows if len(slices_hu) == 1 else config.windows[:1] * 3
    slices_hu = slices_hu * 3 if len(slices_hu) == 1 else slices_hu
    channels = [
        ((slice_hu - (level - width / 2)) * (255 / width)).clip(0, 255).astype(np.uint8)
        for slice_hu, (level, width) in zip(slices_hu, windows, strict=True)
    ]
    image = Image.fromarray(np.stack(channels, axis=-1))
    crops = [np.array(cut(image, geometry)) for geometry in geometries]
    return [(torch.from_numpy(crop).permute(2, 0, 1).float().div(255) - MEAN) / STD for crop in crops]


def crops_in_float(
    slices_hu: list[np.ndarray], geometries: list[CropGeometry], config: IntensityConfig
) -> list[Tensor]:
    """The exact way: cut HU in Pillow's mode F, one image for each slice, then window."""
    windows = torch.tensor(config.windows if len(slices_hu) == 1 else config.windows[:1] * 3)
    level, width = windows[:, 0, None, None], windows[:, 1, None, None]
    images = [Image.fromarray(slice_hu) for slice_hu in slices_hu]
    crops = []
    for geometry in geometries:
        crop_hu = torch.from_numpy(np.stack([np.asarray(cut(image, geometry)) for image in images]))
        crops.append((((crop_hu - (level - width / 2)) / width).clamp(0, 1) - MEAN) / STD)
    return crops


def cut(image: Image.Image, geometry: CropGeometry) -> Image.Image:
    """One crop, resized and perhaps flipped."""
    top, left, height, width = geometry.box
    crop = image.crop((left, top, left + width, top + height))
    crop = crop.resize((geometry.output_size,) * 2, Image.Resampling.BICUBIC)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if geometry.flip else crop


class ReferenceLoader:
    """Batches of 2 global and 8 local crops from PNG files.

    Args:
        paths: one PNG for each slice of a series, in z order.
        config: windows, and whether a sample is one slice or three.
        crops_of: `crops_in_8_bits` or `crops_in_float`.
    """

    def __init__(self, paths: list[Path], config: IntensityConfig, crops_of: Callable) -> None:
        self.paths, self.config, self.crops_of = paths, config, crops_of
        self.reach = 1 if config.channels == "neighbours" else 0

    def __call__(self, rows: list[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(B, 2, 3, 224, 224) and (B, 8, 3, 96, 96) float32."""
        samples = [self.sample(row, rng) for row in rows]
        return torch.stack([torch.stack(crops[:2]) for crops in samples]), torch.stack(
            [torch.stack(crops[2:]) for crops in samples]
        )

    def sample(self, row: int, rng: np.random.Generator) -> list[Tensor]:
        """Ten crops of one slice, or of three."""
        places = np.clip(range(row - self.reach, row + self.reach + 1), 0, len(self.paths) - 1)
        slices_hu = [read_png(self.paths[place]) for place in places]
        return self.crops_of(slices_hu, whole_pixel_geometries(rng, *slices_hu[0].shape), self.config)
