"""Crops per second: our kernel against Pillow on the same boxes of the same slice, in turns, and numbers compared.

    python benchmarks/data.py [FOLDER OF A BUILT SET]

Both sides give 2 global and 8 local crops in HU, flipped alike and without blur, which Pillow cannot do in HU. With a
folder, whole batches through the loader are counted as well. Seconds are those of this process on one core, so that a
busy machine disturbs little; still only the ratio of one run means much.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from dinox_hf.data.crops import Box, CropGeometry, CropsConfig, cut_hu, draw_geometries
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.data.loader import PretrainLoader
from dinox_hf.data.masking import MaskingConfig
from dinox_hf.data.slices import SliceSet

ROUNDS, EXAMPLES = 9, 20
LARGEST_DIFFERENCE_HU = 0.01


def main() -> None:
    """Compare, then print one line for each figure."""
    torch.set_num_threads(1)
    compare_with_pillow()
    if len(sys.argv) > 1:
        count_loader(SliceSet(sys.argv[1]))


def compare_with_pillow() -> None:
    rng = np.random.default_rng(0)
    slice_hu = rng.integers(-1024, 2000, (512, 512)).astype(np.int16)
    examples = [whole_pixel_geometries(rng) for _ in range(EXAMPLES)]
    difference = max(
        np.abs(ours - pillow).max()
        for geometries in examples
        for ours, pillow in zip(cut_ours(slice_hu, geometries), cut_pillow(slice_hu, geometries), strict=True)
    )
    if difference > LARGEST_DIFFERENCE_HU:
        raise RuntimeError(
            f"Both sides should agree within {LARGEST_DIFFERENCE_HU} HU; found {difference:.4f} HU. "
            f"The ratio would mean nothing; run tests/data/test_resampling.py."
        )
    seconds = [(timed(cut_ours, slice_hu, examples), timed(cut_pillow, slice_hu, examples)) for _ in range(ROUNDS)]
    ours, pillow = (statistics.median(side) / EXAMPLES for side in zip(*seconds, strict=True))
    ratio = statistics.median(pillow / ours for ours, pillow in seconds)
    print(f"crops of a 512 x 512 slice, one core: ours {1 / ours:.0f} examples/s, Pillow {1 / pillow:.0f} examples/s")
    print(f"median of {ROUNDS} paired ratios: {ratio:.2f} x; largest difference {difference:.4f} HU")


def whole_pixel_geometries(rng: np.random.Generator) -> list[CropGeometry]:
    """Geometries of one example with edges on whole pixels: there, and only there, both sides mean the same crop."""
    global_geometries, local_geometries = draw_geometries(rng, Box(0, 0, 512, 512), CropsConfig())
    return [
        geometry._replace(box=Box(*(float(int(edge)) for edge in geometry.box)), blur_sigma_px=0.0)
        for geometry in global_geometries + local_geometries
    ]


def cut_ours(slice_hu: np.ndarray, geometries: list[CropGeometry]) -> list[np.ndarray]:
    return [cut_hu(slice_hu[None], geometry, None)[0] for geometry in geometries]


def cut_pillow(slice_hu: np.ndarray, geometries: list[CropGeometry]) -> list[np.ndarray]:
    image = Image.fromarray(slice_hu.astype(np.float32))
    crops = []
    for box, size, flip, _ in geometries:
        cut = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        crop = cut.resize((size, size), Image.Resampling.BICUBIC)
        crops.append(np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop))
    return crops


def timed(cut: Callable, slice_hu: np.ndarray, examples: list[list[CropGeometry]]) -> float:
    begin = time.process_time()
    for geometries in examples:
        cut(slice_hu, geometries)
    return time.process_time() - begin


def count_loader(slices: SliceSet) -> None:
    """Whole batches from the memory map, windowed and normalised, in this process."""
    loader = PretrainLoader(
        slices,
        CropsConfig(),
        IntensityConfig(),
        MaskingConfig(),
        patch_size=16,
        batch_size=16,
        accumulate=1,
        seed=0,
    )
    steps = loader.steps()
    next(steps)
    begin = time.process_time()
    for _ in range(ROUNDS):
        next(steps)
    rate = ROUNDS * loader.batch_size / (time.process_time() - begin)
    height, width = slices.pixels(0).shape
    print(f"batches of 2 x 224 + 8 x 96 px from slices of {height} x {width}, no workers: {rate:.0f} examples/s")


if __name__ == "__main__":
    main()
