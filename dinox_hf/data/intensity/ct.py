"""CT: Hounsfield units of a crop to three normalised channels, with jitter of the window.

Window and normalisation together are one straight line, clipped at both ends; `window_lines` gives its numbers to the
loader and to an accelerator alike.

A sibling for another kind of image offers the same names: `IntensityConfig`, `UNCHANGED`, `draw_intensity`,
`window_lines`, `DARKEST`, `BRIGHTEST`, `to_channels`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ...model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from ..compiling import compiled
from ..draws import between, seed
from .noise import white_noise

_MEAN = np.array(Dinov3CTImageProcessor.image_mean)
_STD = np.array(Dinov3CTImageProcessor.image_std)
# (3,) float32: what 0 and 1, the ends of a window, become in each channel.
DARKEST, BRIGHTEST = (-_MEAN / _STD).astype(np.float32), ((1 - _MEAN) / _STD).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class IntensityConfig:
    """Which Hounsfield windows make the three channels, and how far a crop's window may wander.

    Jitter takes the place of the recipe's colour jitter (probability 0.8). CT numbers are calibrated, so it is far
    weaker than the recipe's, and there is no greyscale, hue or solarisation.
    """

    # windows: three windows of one slice. neighbours: slices z-1, z, z+1 through the first window, or those that lie
    # data.neighbour_mm away.
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
    level_shift_hu = between(rng, -config.level_jitter_hu, config.level_jitter_hu)
    width_factor = between(rng, 1 - config.width_jitter, 1 + config.width_jitter)
    noise_sigma_hu = between(rng, 0, config.noise_hu)
    noise_seed = seed(rng)
    if not is_jittered:
        level_shift_hu, width_factor = 0.0, 1.0
    return IntensityDraw(level_shift_hu, width_factor, noise_sigma_hu, noise_seed)


def window_lines(
    config: IntensityConfig, level_shift_hu: float | np.ndarray = 0.0, width_factor: float | np.ndarray = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """A channel is `gain * HU + offset`, kept between DARKEST and BRIGHTEST.

    Args:
        config: the windows.
        level_shift_hu: jitter of one crop, or (N,) of many.
        width_factor: likewise.

    Returns:
        gain and offset, (3,) or (N, 3) float32.
    """
    windows = config.windows if config.channels == "windows" else config.windows[:1] * 3
    levels, widths = np.array(windows).T
    widths = widths * np.asarray(width_factor)[..., None]
    lowest_hu = levels + np.asarray(level_shift_hu)[..., None] - widths / 2
    gain, offset = 1 / (widths * _STD), (-lowest_hu / widths - _MEAN) / _STD
    return gain.astype(np.float32), offset.astype(np.float32)


def to_channels(
    crop_hu: np.ndarray, config: IntensityConfig, draw: IntensityDraw = UNCHANGED, out: np.ndarray | None = None
) -> np.ndarray:
    """Window a crop and normalise it with the image processor's mean and standard deviation.

    Args:
        crop_hu: (1, h, w) float32 HU for `windows`, (3, h, w) for `neighbours`.
        config: the windows.
        draw: the crop's jitter and noise; nothing by default, as at inference.
        out: (3, h, w) float32 to be filled, such as a place in a batch; None makes a new array.

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
        noise = white_noise(torch.tensor([draw.noise_seed]), crop_hu.shape)[0].numpy()
        crop_hu = crop_hu + np.float32(draw.noise_sigma_hu) * noise
    if out is None:
        out = np.empty((3, *crop_hu.shape[1:]), dtype=np.float32)
    gain, offset = window_lines(config, draw.level_shift_hu, draw.width_factor)
    _window(crop_hu, gain, offset, DARKEST, BRIGHTEST, out)
    return out


@compiled
def _window(crop_hu, gain, offset, darkest, brightest, out):
    """Each HU is read once, and each channel written once: three windows of one slice, or one of each of three."""
    for channel in range(3):
        slice_hu = crop_hu[channel % crop_hu.shape[0]]
        a, b, low, high = gain[channel], offset[channel], darkest[channel], brightest[channel]
        for y in range(slice_hu.shape[0]):
            row, target = slice_hu[y], out[channel, y]
            for x in range(slice_hu.shape[1]):
                target[x] = min(max(a * row[x] + b, low), high)
