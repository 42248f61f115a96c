"""Global, local and gram-teacher crops of one slice: where they lie, and how they are cut.

Everything random is drawn first, as plain numbers; cutting is then a pure function of the slice and those numbers. The
loader cuts here, or it sends slices and numbers, and device_crops.py cuts on the accelerator.
HU are resampled before they are windowed, so a window never clips what a blur or a shrink still needs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .crops_config import CropsConfig
from .draws import between
from .intensity import ct
from .resampling import NO_BLUR, banded_weights, blur_weights, resample

NUM_GLOBAL_CROPS = 2
_CROP_TRIES = 10
_FIELD_CANDIDATES = 8
_FIELD_STRIDE_PX = 4  # a field is judged on every fourth pixel of every fourth row


class Box(NamedTuple):
    """A rectangle of a slice in source pixels; edges may lie between pixels."""

    top: float
    left: float
    height: float
    width: float


class CropGeometry(NamedTuple):
    """Where one crop lies in its slice, and what happens to it on the way out."""

    box: Box
    output_size: int  # px, square
    flip: bool = False
    blur_sigma_px: float = 0.0  # px of the output

    def spacing_mm(self, slice_spacing_yx_mm: tuple[float, float]) -> tuple[float, float]:
        """Millimetres per pixel of the crop, (y, x): those of its box over its pixels. A flip leaves them alone."""
        y_mm, x_mm = slice_spacing_yx_mm
        return self.box.height * y_mm / self.output_size, self.box.width * x_mm / self.output_size


class CropDraw(NamedTuple):
    """All that chance decided about one crop."""

    geometry: CropGeometry
    intensity: ct.IntensityDraw


@dataclass(frozen=True)
class ExampleDraws:
    """The draws for all crops of one slice."""

    global_crops: list[CropDraw]  # 2
    local_crops: list[CropDraw]  # num_local
    gram_crops: list[CropDraw]  # 2, the global crops undistorted; none without a gram_size


@dataclass(frozen=True)
class Crops:
    """All crops of one slice, float32 and normalised."""

    global_crops: np.ndarray  # (2, 3, S, S)
    local_crops: np.ndarray  # (L, 3, s, s)
    gram_crops: np.ndarray | None  # (2, 3, G, G) the global crops undistorted; None without a gram_size


class MultiCrop:
    """Cuts the crops of an example: 2 global, `num_local` local and, with a `gram_size`, 2 for the gram teacher."""

    def __init__(self, crops: CropsConfig, intensity: ct.IntensityConfig) -> None:
        self.crops = crops
        self.intensity = intensity

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """How many crops of which size in pixels there are of each kind, by their name in `ExampleDraws`."""
        kinds = {
            "global_crops": (NUM_GLOBAL_CROPS, self.crops.global_size),
            "local_crops": (self.crops.num_local, self.crops.local_size),
            "gram_crops": (NUM_GLOBAL_CROPS, self.crops.gram_size),
        }
        return {name: (num, size) for name, (num, size) in kinds.items() if size}

    def __call__(
        self,
        slices_hu: Sequence[np.ndarray],
        spacing_yx_mm: tuple[float, float],
        padding_hu: int | None,
        rng: np.random.Generator,
    ) -> Crops:
        """Draw everything for one example, then cut; arguments as those of `draw`."""
        draws = self.draw(slices_hu, spacing_yx_mm, padding_hu, rng)
        cut = {
            name: self.cut(slices_hu, padding_hu, getattr(draws, name), size) for name, (_, size) in self.kinds.items()
        }
        return Crops(**{"gram_crops": None, **cut})

    def draw(
        self,
        slices_hu: Sequence[np.ndarray],
        spacing_yx_mm: tuple[float, float],
        padding_hu: int | None,
        rng: np.random.Generator,
    ) -> ExampleDraws:
        """Draw everything for one example from `rng`.

        Args:
            slices_hu: C slices (H, W) int16 HU; C is 1, or 3 neighbours of which the middle one is the example.
            spacing_yx_mm: size of a pixel, (y, x).
            padding_hu: the stored fill value, read as air; None if there is none.
            rng: the example's own generator; nothing else is random.
        """
        zoom = draw_zoom(rng, self.crops.zoom_jitter)
        field = draw_field(rng, slices_hu[len(slices_hu) // 2], self.crops, spacing_yx_mm, padding_hu, zoom)
        global_geometries, local_geometries = draw_geometries(rng, field, self.crops)
        gram_size = self.crops.gram_size
        return ExampleDraws(
            global_crops=[CropDraw(each, ct.draw_intensity(rng, self.intensity)) for each in global_geometries],
            local_crops=[CropDraw(each, ct.draw_intensity(rng, self.intensity)) for each in local_geometries],
            gram_crops=[CropDraw(undistorted(each, gram_size), ct.UNCHANGED) for each in global_geometries]
            if gram_size
            else [],
        )

    def cut(
        self,
        slices_hu: Sequence[np.ndarray],
        padding_hu: int | None,
        draws: Sequence[CropDraw],
        size: int,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """The drawn crops of one slice, (num, 3, size, size) float32: in `out`, places in a batch, if given."""
        if out is None:
            out = np.empty((len(draws), 3, size, size), dtype=np.float32)
        for crop, (geometry, intensity) in zip(out, draws, strict=True):
            ct.to_channels(cut_hu(slices_hu, geometry, padding_hu), self.intensity, intensity, out=crop)
        return out


def draw_zoom(rng: np.random.Generator, jitter: float | None) -> float:
    """A log-uniform factor in [1/jitter, jitter]; without jitter 1, and nothing is drawn."""
    return 1.0 if jitter is None else math.exp(between(rng, -math.log(jitter), math.log(jitter)))


def draw_field(
    rng: np.random.Generator,
    slice_hu: np.ndarray,
    config: CropsConfig,
    spacing_yx_mm: tuple[float, float],
    padding_hu: int | None,
    zoom: float = 1.0,
) -> Box:
    """The part of a slice from which all crops of an example come.

    A square of `field_mm` times `zoom`, cut short where the slice is smaller. Up to eight places are drawn, and the
    first is taken of which `field_share` lies within `field_hu`, or else the one that comes nearest. By default that
    is "not mostly air". The rule looks at CT numbers and at nothing else, so that no label can leak into the choice.
    """
    rows, columns = slice_hu.shape
    if config.field_mm is None:
        return Box(0.0, 0.0, float(rows), float(columns))
    height, width = (min(zoom * config.field_mm / mm, n) for mm, n in zip(spacing_yx_mm, slice_hu.shape, strict=True))
    least, most = config.field_share
    best, smallest_miss = None, math.inf
    for _ in range(_FIELD_CANDIDATES):
        field = Box(between(rng, 0, rows - height), between(rng, 0, columns - width), height, width)
        share = _share_within(slice_hu, field, config.field_hu, padding_hu)
        miss = max(least - share, share - most, 0.0)
        if miss < smallest_miss:
            best, smallest_miss = field, miss
        if miss == 0:
            break
    return best


def draw_geometries(
    rng: np.random.Generator, field: Box, config: CropsConfig
) -> tuple[list[CropGeometry], list[CropGeometry]]:
    """Geometry of the 2 global and of all local crops of a field."""
    blur_first, blur_second, blur_local = config.blur_probability
    global_geometries = [
        draw_crop(rng, field, config.global_scale, config.global_size, blur, config)
        for blur in (blur_first, blur_second)
    ]
    local_geometries = [
        draw_crop(rng, field, config.local_scale, config.local_size, blur_local, config)
        for _ in range(config.num_local)
    ]
    return global_geometries, local_geometries


def draw_crop(
    rng: np.random.Generator,
    field: Box,
    scale: tuple[float, float],
    output_size: int,
    blur_probability: float,
    config: CropsConfig,
) -> CropGeometry:
    """One crop of a field: a random resized box, perhaps flipped, perhaps blurred."""
    box = draw_box(rng, field, scale, config.aspect_ratio)
    flip = rng.random() < config.horizontal_flip
    sigma = between(rng, *config.blur_sigma) if rng.random() < blur_probability else 0.0
    return CropGeometry(box, output_size, bool(flip), sigma)


def draw_box(
    rng: np.random.Generator, field: Box, scale: tuple[float, float], aspect_ratio: tuple[float, float]
) -> Box:
    """RandomResizedCrop: area uniform in `scale`, aspect log-uniform, ten tries, else the largest central box.

    Unlike the usual implementation, edges are not rounded to pixels: a field of 60 mm is only some 90 pixels wide,
    and there a local crop would otherwise know few places.
    """
    low, high = math.log(aspect_ratio[0]), math.log(aspect_ratio[1])
    for _ in range(_CROP_TRIES):
        area = field.height * field.width * between(rng, *scale)
        aspect = math.exp(between(rng, low, high))
        height, width = math.sqrt(area / aspect), math.sqrt(area * aspect)
        if height <= field.height and width <= field.width:
            top = field.top + between(rng, 0, field.height - height)
            left = field.left + between(rng, 0, field.width - width)
            return Box(top, left, height, width)
    height = min(field.height, field.width / aspect_ratio[0])
    width = min(field.width, field.height * aspect_ratio[1])
    return Box(field.top + (field.height - height) / 2, field.left + (field.width - width) / 2, height, width)


def undistorted(geometry: CropGeometry, output_size: int) -> CropGeometry:
    """The gram teacher's view of a global crop: same box and same flip, so that patches lie on each other; no blur."""
    return geometry._replace(output_size=output_size, blur_sigma_px=0.0)


def cut_hu(slices_hu: np.ndarray | Sequence[np.ndarray], geometry: CropGeometry, padding_hu: int | None) -> np.ndarray:
    """One crop of all C slices (H, W) int16, as (C, output_size, output_size) float32 HU."""
    rows, columns = slices_hu[0].shape
    box, size, flip, sigma = geometry
    weights_y = banded_weights(box.top, box.height, rows, size)
    weights_x = banded_weights(box.left, box.width, columns, size, flip)
    blur = blur_weights(size, sigma) if sigma > 0 else NO_BLUR
    return resample(slices_hu, weights_y, weights_x, padding_hu, blur)


def _share_within(slice_hu: np.ndarray, field: Box, range_hu: tuple[float, float], padding_hu: int | None) -> float:
    top, left = int(field.top), int(field.left)
    bottom, right = math.ceil(field.top + field.height), math.ceil(field.left + field.width)
    pixels = slice_hu[top:bottom:_FIELD_STRIDE_PX, left:right:_FIELD_STRIDE_PX]
    is_within = (pixels >= range_hu[0]) & (pixels <= range_hu[1])
    if padding_hu is not None:
        is_within &= pixels != padding_hu
    return float(is_within.mean())
