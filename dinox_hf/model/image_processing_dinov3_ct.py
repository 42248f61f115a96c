"""Hounsfield units to pixel_values: resample, then window, then normalise – the same in training and inference.

Reading DICOM is not done here: `dinox_hf.read_series` gives the slices.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

logger = logging.get_logger(__name__)

AIR_HU = -1024
CHANNELS = ("windows", "neighbours")
# PIL modes that can hold Hounsfield units; all others are photographs of 8 bits.
HU_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
INTERPOLATION = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


def window_hu(voxels_hu: np.ndarray | Tensor, level: float, width: float) -> np.ndarray | Tensor:
    """Show a range of Hounsfield units: level - width/2 becomes 0, level + width/2 becomes 1, the rest is clipped.

    Args:
        voxels_hu: any shape and number type, HU.
        level: centre of the window, HU.
        width: full span of the window, HU.

    Returns:
        float32 in [0, 1], a tensor for a tensor and an array for an array.
    """
    voxels_hu = voxels_hu.float() if isinstance(voxels_hu, Tensor) else np.asarray(voxels_hu, dtype=np.float32)
    return ((voxels_hu - (level - width / 2)) / width).clip(0, 1)


class Dinov3CTImageProcessorKwargs(ImagesKwargs, total=False):
    """Arguments beyond those of every image processor."""

    channels: str
    hu_windows: list | tuple
    padding_hu: int | None
    pixel_mm: float | int | None


class Dinov3CTImageProcessor(PilBackend):
    """Turns CT slices into the three channels a DINOv3 backbone expects.

    Takes (H, W) slices in HU, (3, H, W) neighbouring slices z-1, z, z+1, or lists and batches of them, as numpy
    arrays, tensors or PIL images of mode "I" and "F". Images of 8 bits (arrays of uint8, PIL "L" and "RGB") hold no
    HU: they are scaled by 1/255 like photographs.

    Departs from transformers' processors in the order of steps: HU are resampled before the window clips them, in
    float, where `PilBackend` would round to 256 grey levels on the way.

    A network with `rope_coordinates="metric"` also wants the size of a pixel, which resizing changes:
    `model(**processor(slice_hu, spacing_mm=(0.7, 0.7), return_tensors="pt"))`.

    What comes out has the scale of training. A network that saw whole slices is shown them at `size`, the side of its
    crops. One that saw fields of some centimetres would take a slice squeezed into that for something else: it has
    `pixel_mm`, and a slice of known spacing is resampled to it, whatever its sides become; without a spacing its
    pixels stay as they are. A `size` or `do_resize` named in a call comes first.

    Args:
        channels: "windows" shows one slice through three windows; "neighbours" three slices through the first window.
        hu_windows: three (level, width) pairs in HU: lung, mediastinum, bone.
        padding_hu: the scanner's fill outside the field of view; such voxels become air before resampling.
        size: height and width of the output in pixels, where `do_resize` holds.
        pixel_mm: side of a pixel in mm at which slices of known spacing are shown; `None` for `size` alone.
    """

    valid_kwargs = Dinov3CTImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012
    do_resize = True
    size = {"height": 224, "width": 224}  # noqa: RUF012
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    channels = "windows"
    hu_windows = [[-600, 1500], [40, 400], [400, 1800]]  # noqa: RUF012
    padding_hu = None
    pixel_mm = None

    def _validate_preprocess_kwargs(self, channels: str, hu_windows: Any, size: Any, resample: int, **kwargs: Any):
        """Check at every call what a configuration file or an argument may have got wrong."""
        if channels not in CHANNELS:
            raise ValueError(f"channels must be 'windows' or 'neighbours'; found {channels!r}. Correct the argument.")
        if np.shape(hu_windows) != (3, 2) or min(width for _, width in hu_windows) <= 0:
            raise ValueError(
                f"hu_windows must be three (level, width) pairs with a width above 0 HU; found {hu_windows}. "
                f"Width is the full span: (-600, 1500) shows -1350 to 150 HU."
            )
        if kwargs["do_resize"] and not (size.height and size.width):
            raise ValueError(f"size must name a height and a width in pixels; found {dict(size)}. Name both.")
        if kwargs["do_resize"] and resample not in INTERPOLATION:
            raise ValueError(f"resample must be 2 (bilinear) or 3 (bicubic); found {resample}. Choose one of them.")
        if kwargs["pixel_mm"] is not None and not 0 < kwargs["pixel_mm"] < float("inf"):
            raise ValueError(f"pixel_mm must be > 0 mm; found {kwargs['pixel_mm']}. None resizes to `size` instead.")

    def preprocess(self, images: Any, spacing_mm: Any = None, **kwargs: Any) -> BatchFeature:
        """Return pixel_values, and with the spacing of the slices that of the pixels.

        Args:
            images: as said above.
            spacing_mm: size of a pixel as given, (row, column), the same for all images or one pair for each.
            kwargs: fields of the processor, for this call.

        Returns:
            pixel_values (B, 3, H, W) float32, and with `spacing_mm` also spacing_mm (B, 2) float32, mm per pixel after
            resizing; lists of arrays without `return_tensors`.

        Raises:
            ValueError: if a field, an image or the spacing is not as expected.
        """
        if "size" in kwargs or "do_resize" in kwargs:
            kwargs = {"do_resize": True, "pixel_mm": None} | kwargs
        return super().preprocess(images, spacing_mm, **kwargs)

    def _preprocess_image_like_inputs(
        self, images: Any, spacing_mm: Any, *, pixel_mm: float | None, **kwargs: Any
    ) -> BatchFeature:
        images = self.fetch_images(images)
        if not isinstance(images, list | tuple):
            images = list(images) if not isinstance(images, Image.Image) and images.ndim == 4 else [images]
        images = [_as_tensor(image) for image in images]
        pairs_mm = None if spacing_mm is None else _pairs_mm(spacing_mm, len(images))
        options = [kwargs] * len(images)
        if pixel_mm is not None and pairs_mm is None:
            logger.warning_once(
                f"This network saw pixels of {pixel_mm:.3g} mm; without spacing_mm, slices are taken for such."
            )
        elif pixel_mm is not None:
            sizes = [_size_at(pixel_mm, image, pair) for image, pair in zip(images, pairs_mm.tolist(), strict=True)]
            options = [kwargs | {"do_resize": True, "size": size} for size in sizes]
        pixel_values = [self._pixel_values(image, **how) for image, how in zip(images, options, strict=True)]
        data = {"pixel_values": pixel_values}
        if pairs_mm is not None:
            before, after = (torch.tensor([image.shape[-2:] for image in stage]) for stage in (images, pixel_values))
            data["spacing_mm"] = list(pairs_mm * before / after)
        if kwargs["return_tensors"] is None:
            return BatchFeature(data={name: [value.numpy() for value in values] for name, values in data.items()})
        if len({value.shape for value in pixel_values}) > 1:
            raise ValueError(
                f"Images of one batch must become equally large; found {[tuple(v.shape) for v in pixel_values]}. Give "
                f"them one by one, or name a size for all."
            )
        stacked = {name: torch.stack(values) for name, values in data.items()}
        return BatchFeature(data=stacked, tensor_type=kwargs["return_tensors"])

    def _pixel_values(
        self, image: Tensor, *, do_normalize: bool, image_mean: Any, image_std: Any, **kwargs: Any
    ) -> Tensor:
        """Return (3, H, W) from one image of any kind."""
        # A Hounsfield unit never fits into 8 bits.
        pixels = (
            self._from_photograph(image, **kwargs) if image.dtype == torch.uint8 else self._from_hu(image, **kwargs)
        )
        if not do_normalize:
            return pixels
        return (pixels - pixels.new_tensor(image_mean)[:, None, None]) / pixels.new_tensor(image_std)[:, None, None]

    def _from_hu(
        self, slices_hu: Tensor, *, channels: str, hu_windows: Any, padding_hu: int | None, **kwargs: Any
    ) -> Tensor:
        slices_hu = slices_hu.float()[None] if slices_hu.ndim == 2 else slices_hu.float()
        allowed = (1,) if channels == "windows" else (1, 3)
        if slices_hu.ndim != 3 or len(slices_hu) not in allowed:
            raise ValueError(
                f"With channels={channels!r} an image is (H, W) HU{'' if channels == 'windows' else ' or (3, H, W)'}; "
                f"found {tuple(slices_hu.shape)}. Three neighbouring slices want channels='neighbours'; colour images "
                f"want uint8."
            )
        if padding_hu is not None:
            slices_hu = slices_hu.masked_fill(slices_hu == padding_hu, AIR_HU)
        slices_hu = self._resized(slices_hu, **kwargs)
        if channels == "windows":
            return torch.cat([window_hu(slices_hu, level, width) for level, width in hu_windows])
        return window_hu(slices_hu, *hu_windows[0]).expand(3, -1, -1)

    def _from_photograph(self, image: Tensor, *, do_rescale: bool, rescale_factor: float, **kwargs: Any) -> Tensor:
        image = self._resized(image.float().expand(3, *image.shape[-2:]), **kwargs)
        return image * rescale_factor if do_rescale else image

    @staticmethod
    def _resized(pixels: Tensor, *, do_resize: bool, size: Any, resample: int, **kwargs: Any) -> Tensor:
        if not do_resize or pixels.shape[-2:] == (size.height, size.width):
            return pixels
        mode = INTERPOLATION[resample]
        return F.interpolate(pixels[None], size=(size.height, size.width), mode=mode, antialias=True)[0]


def _as_tensor(image: Any) -> Tensor:
    """Return HU as they are, or a photograph as uint8 with its channels in front."""
    if isinstance(image, Tensor):
        return _channels_first(image)
    if isinstance(image, Image.Image) and image.mode not in HU_MODES:
        image = image.convert("RGB")
    array = np.array(image)
    # torch can hardly compute with unsigned 16 bits, and float32 holds every HU exactly.
    return _channels_first(torch.from_numpy(array if array.dtype == np.uint8 else array.astype(np.float32)))


def _channels_first(image: Tensor) -> Tensor:
    is_photograph = image.dtype == torch.uint8 and image.ndim == 3 and image.shape[-1] == 3
    return image.permute(2, 0, 1) if is_photograph else image


def _size_at(pixel_mm: float, image: Tensor, spacing_mm: list[float]) -> SizeDict:
    """Height and width in pixels of `pixel_mm`, at least one, of an image with (row, column) mm per pixel."""
    sides = [max(1, round(side * mm / pixel_mm)) for side, mm in zip(image.shape[-2:], spacing_mm, strict=True)]
    return SizeDict(height=sides[0], width=sides[1])


def _pairs_mm(spacing_mm: Any, num_images: int) -> Tensor:
    """Return (B, 2) float32 from one (row, column) pair or one for each image."""
    pairs = torch.as_tensor(np.asarray(spacing_mm, dtype=np.float32))
    if pairs.shape not in ((2,), (num_images, 2)) or not ((pairs > 0) & pairs.isfinite()).all():
        raise ValueError(
            f"spacing_mm must be (row, column) mm per pixel, above 0, for all or for each of the {num_images} images; "
            f"found {pairs.tolist()}. Of a volume's (z, y, x) spacing take the last two."
        )
    return pairs.expand(num_images, 2)


__all__ = ["Dinov3CTImageProcessor", "window_hu"]
