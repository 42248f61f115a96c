"""CT: Hounsfield units of a crop to three normalised channels, with jitter of the window.

A sibling for another kind of image offers the same four names: `IntensityConfig`, `UNCHANGED`, `draw_intensity`,
`to_channels`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...model.image_processing_dinov3_ct import Dinov3CTImageProcessor, window_hu

_MEAN = np.array(Dinov3CTImageProcessor.image_mean, dtype=np.float32)[:, None, None]
_STD = np.array(Dinov3CTImageProcessor.image_std, dtype=np.float32)[:, None, None]


@dataclass(frozen=True, kw_only=True)
class IntensityConfig:
    """Which Hounsfield windows make the three channels, and how far a crop's window may wander.

    Jitter takes the place of the recipe's colour jitter (probability 0.8). CT numbers are calibrated, so it is far
    weaker than the recipe's, and there is no greyscale, hue or solarisation.
    """

    # windows: three windows of one slice. neighbours: slices z-1, z, z+1 through the first window.
    channels: Literal["windows", "neighbours"] = "windows"
    windows: tuple[tuple[float, float], ...] = tuple(
        (float(level), float(width)) for level, width in Dinov3CTImageProcessor.hu_windows
    )  # (level, width) in HU: lung, mediastinum, bone
    jitter_probability: float = 0.8  # each crop on its own
    level_jitter_hu: float = 50.0  # levels move together by up to this much, as a calibration error would
    width_jitter: float = 0.2  # widths are multiplied by 1 - 0.2 to 1 + 0.2
    noise_hu: float = 0.0  # white noise with a standard deviation of 0 to this much; 0 for none

    def __post_init__(self) -> None:
        if len(self.windows) != 3 or any(width <= 0 for _, width in self.windows):
            raise ValueError(
                f"intensity.windows must be three pairs [level, width] with widths > 0 HU; found {self.windows}. "
                f"Width is the full span: [-600, 1500] shows -1350 to 150 HU."
            )
        if not 0 <= self.jitter_probability <= 1:
            raise ValueError(
                f"intensity.jitter_probability must be between 0 and 1; found {self.jitter_probability}. "
                f"0 means never, 1 always."
            )
        if self.level_jitter_hu < 0 or self.noise_hu < 0 or not 0 <= self.width_jitter < 1:
            raise ValueError(
                f"intensity.level_jitter_hu and noise_hu must be >= 0 HU, and width_jitter from 0 to below 1; found "
                f"{self.level_jitter_hu}, {self.noise_hu} and {self.width_jitter}. 0 switches one off."
            )


@dataclass(frozen=True)
class IntensityDraw:
    """What chance decided about the intensities of one crop."""

    level_shift_hu: float = 0.0
    width_factor: float = 1.0
    noise_sigma_hu: float = 0.0
    noise_seed: int = 0


UNCHANGED = IntensityDraw()


def draw_intensity(rng: np.random.Generator, config: IntensityConfig) -> IntensityDraw:
    """Jitter of one crop; always takes the same number of draws, so that a probability moves no other draw."""
    is_jittered = rng.random() < config.jitter_probability
    level_shift_hu = rng.uniform(-config.level_jitter_hu, config.level_jitter_hu)
    width_factor = rng.uniform(1 - config.width_jitter, 1 + config.width_jitter)
    noise_sigma_hu = rng.uniform(0, config.noise_hu)
    noise_seed = int(rng.integers(2**63))
    if not is_jittered:
        level_shift_hu, width_factor = 0.0, 1.0
    return IntensityDraw(level_shift_hu, width_factor, noise_sigma_hu, noise_seed)


def to_channels(crop_hu: np.ndarray, config: IntensityConfig, draw: IntensityDraw = UNCHANGED) -> np.ndarray:
    """Window a crop and normalise it with the image processor's mean and standard deviation.

    Args:
        crop_hu: (1, h, w) float32 HU for `windows`, (3, h, w) for `neighbours`.
        config: the windows.
        draw: the crop's jitter and noise; nothing by default, as at inference.

    Returns:
        (3, h, w) float32.

    Raises:
        ValueError: if the number of slices is not the one that `config.channels` needs.
    """
    num_slices = 1 if config.channels == "windows" else 3
    if len(crop_hu) != num_slices:
        raise ValueError(
            f"intensity.channels={config.channels!r} makes three channels of {num_slices} slice(s); found a crop of "
            f"shape {crop_hu.shape}. Take SliceSet.pixels for windows and SliceSet.neighbours for neighbours."
        )
    if draw.noise_sigma_hu > 0:
        noise = np.random.default_rng(draw.noise_seed).standard_normal(crop_hu.shape, dtype=np.float32)
        crop_hu = crop_hu + np.float32(draw.noise_sigma_hu) * noise
    # Three windows of the one slice, or the first window of the three slices.
    windows = config.windows if num_slices == 1 else config.windows[:1] * 3
    slices = [crop_hu[0]] * 3 if num_slices == 1 else crop_hu
    channels = np.empty((3, *crop_hu.shape[1:]), dtype=np.float32)
    for channel, slice_hu, (level, width) in zip(channels, slices, windows, strict=True):
        channel[:] = window_hu(slice_hu, level + draw.level_shift_hu, width * draw.width_factor)
    channels -= _MEAN
    channels /= _STD
    return channels
