"""Storage, reading and crops against what people do today, with the numbers of both sides compared.

    python benchmarks/data.py [FOLDER OF A BUILT SET]

Today: a 16-bit PNG per slice, decoded and cut with Pillow (reference_loader.py). Both sides give 2 global and 8 local
crops without blur, which Pillow cannot do in HU. Without a folder a synthetic series is built first. Seconds are those
of this process on one core, and both sides take turns: only the ratios of one run mean much. Files are in the page
cache after the first turn.
"""

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from reference_loader import (
    STD,
    ReferenceLoader,
    crops_in_8_bits,
    crops_in_float,
    cut,
    read_png,
    whole_pixel_geometries,
    write_png,
)
from usage import show_help

from dinox_hf.data.crops import cut_hu
from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.intensity.ct import IntensityConfig, to_channels
from dinox_hf.data.loader import LoaderSettings, PretrainLoader
from dinox_hf.data.masking import MaskingConfig
from dinox_hf.data.resampling import banded_weights, resample
from dinox_hf.data.schema import write_slices
from dinox_hf.data.slices import SliceSet
from dinox_hf.data.sources.phantom import phantom_volume

ROUNDS, BATCH = 9, 16
NUM_PNG = 48  # slices of the set that are written as PNG too
LARGEST_DIFFERENCE_HU = 0.01
README = """---
configs:
- config_name: slices
  data_files:
  - {split: train, path: slices/train-*.parquet}
---
"""


def main() -> None:
    """One line for each figure."""
    show_help(__doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        slices = SliceSet(sys.argv[1] if len(sys.argv) > 1 else build_phantom(Path(folder) / "set"))
        paths = [Path(folder) / f"{row}.png" for row in range(min(NUM_PNG, len(slices)))]
        for row, path in enumerate(paths):
            write_png(slices.pixels(row), path)
        print_sizes(slices, paths)
        compare_reading(slices, paths)
        compare_with_torch(slices)
        compare_crops(slices)
        for channels in ("neighbours", "windows"):
            compare_loaders(slices, paths, channels)


def build_phantom(folder: Path) -> Path:
    """A synthetic chest series of 512 x 512."""
    (folder / "slices").mkdir(parents=True)
    write_slices(
        phantom_volume(seed=0, size=512, num_slices=NUM_PNG)[0], folder / "slices/train-00000-of-00001.parquet"
    )
    (folder / "README.md").write_text(README)
    return folder


def print_sizes(slices: SliceSet, paths: list[Path]) -> None:
    shards = (slices.folder / "slices").glob(f"{slices.split}-*.parquet")
    parquet = sum(shard.stat().st_size for shard in shards) / len(slices)
    png = statistics.mean(path.stat().st_size for path in paths)
    height, width = slices.pixels(0).shape
    cache = slices.pixels(0).nbytes + 4 * height  # int16, and where each row begins
    print(f"{len(slices)} slices, the first of {height} x {width}. Bytes per slice:")
    print(f"  Parquet {parquet / 1e3:.0f} kB, memory-mapped cache {cache / 1e3:.0f} kB, 16-bit PNG {png / 1e3:.0f} kB")


def compare_reading(slices: SliceSet, paths: list[Path]) -> None:
    def ours() -> list[np.ndarray]:
        return [slices.pixels(row).copy() for row in range(len(paths))]

    def png() -> list[np.ndarray]:
        return [read_png(path) for path in paths]

    if any((one != other).any() for one, other in zip(ours(), png(), strict=True)):
        raise RuntimeError("Both sides should read the same HU; found others. The ratio would mean nothing.")
    report("reading a slice, page cache warm; equal HU", ours, png, "PNG", len(paths))


def compare_with_torch(slices: SliceSet) -> None:
    """Resampling against F.interpolate in float64, on every size that crops come in."""
    rng = np.random.default_rng(0)
    worst_hu = 0.0
    for row in range(0, len(slices), max(1, len(slices) // 8)):
        slice_hu = slices.pixels(row)
        for box, size, _, _ in whole_pixel_geometries(rng, *slice_hu.shape):
            top, left, height, width = (int(edge) for edge in box)
            weights = (
                banded_weights(top, height, slice_hu.shape[0], size),
                banded_weights(left, width, slice_hu.shape[1], size),
            )
            part = torch.from_numpy(slice_hu[top : top + height, left : left + width].astype(np.float64))
            expected = F.interpolate(part[None, None], (size, size), mode="bicubic", antialias=True)[0, 0].numpy()
            worst_hu = max(worst_hu, np.abs(resample([slice_hu], *weights)[0] - expected).max())
    narrowest = min(width for _, width in IntensityConfig().windows)
    print(
        f"kernel against F.interpolate(antialias=True) in float64: at most {worst_hu:.1e} HU, "
        f"{worst_hu / narrowest:.1e} of the narrowest window"
    )


def compare_crops(slices: SliceSet) -> None:
    """Crops of one slice in HU, without reading and windowing; on noise, the worst case of any resampling."""
    rng = np.random.default_rng(0)
    slice_hu = rng.integers(-1024, 2000, slices.pixels(0).shape).astype(np.int16)
    examples = [whole_pixel_geometries(rng, *slice_hu.shape) for _ in range(BATCH)]

    def ours() -> list[np.ndarray]:
        return [cut_hu([slice_hu], geometry, None)[0] for geometries in examples for geometry in geometries]

    def pillow() -> list[np.ndarray]:
        image = Image.fromarray(slice_hu.astype(np.float32))
        return [np.asarray(cut(image, geometry)) for geometries in examples for geometry in geometries]

    difference = max(np.abs(one - other).max() for one, other in zip(ours(), pillow(), strict=True))
    if difference > LARGEST_DIFFERENCE_HU:
        raise RuntimeError(
            f"Both sides should agree within {LARGEST_DIFFERENCE_HU} HU; found {difference:.4f} HU. "
            f"The ratio would mean nothing; run tests/data/test_resampling.py."
        )
    report(f"crops alone, of noise; largest difference {difference:.4f} HU", ours, pillow, "Pillow, mode F", BATCH)


def compare_loaders(slices: SliceSet, paths: list[Path], channels: str) -> None:
    """Whole batches of normalised float32 crops, ours with masks too, in this process."""
    intensity = IntensityConfig(channels=channels)
    sharp = CropsConfig(blur_probability=(0.0, 0.0, 0.0))
    print(f"{channels}, batches of {BATCH}:")
    print(f"  {difference_in_float(slices, paths, intensity)}")
    full, blurred, sending = (
        Batches(slices, crops, intensity)
        for crops in (sharp, CropsConfig(), dataclasses.replace(CropsConfig(), cut_on="device"))
    )
    in_8_bits, in_float = (
        Batches.of_png(paths, intensity, crops_of) for crops_of in (crops_in_8_bits, crops_in_float)
    )
    report("  crops cut by the loader", full, in_8_bits, "PNG, 8 bits", BATCH)
    report("  crops cut by the loader", full, in_float, "PNG, float", BATCH)
    report("  the same, with the recipe's blur", blurred, in_8_bits, "PNG, 8 bits without blur", BATCH)
    report("  slices and draws sent, crops left to the device", sending, in_8_bits, "PNG, 8 bits", BATCH)
    batch = sending()
    seconds = statistics.median(seconds_of(lambda: batch.to("cpu")) for _ in range(3)) / BATCH
    print(f"  what is left to the device takes {1e3 * seconds:.0f} ms per example where that is this CPU: use a GPU")


class Batches:
    """The next batch at every call."""

    def __init__(self, slices: SliceSet, crops: CropsConfig, intensity: IntensityConfig) -> None:
        settings = LoaderSettings(
            crops=crops,
            intensity=intensity,
            masking=MaskingConfig(),
            patch_size=16,
            batch_size=BATCH,
            accumulate=1,
            seed=0,
        )
        loader = PretrainLoader(slices, settings)
        self.steps = (loader[index] for index in range(10**6))

    @staticmethod
    def of_png(paths: list[Path], intensity: IntensityConfig, crops_of: Callable) -> Callable:
        """Batches of the reference loader, from slices at random."""
        loader, rng = ReferenceLoader(paths, intensity, crops_of), np.random.default_rng(0)
        return lambda: loader(rng.integers(len(paths), size=BATCH).tolist(), rng)

    def __call__(self) -> object:
        """The next one."""
        return next(self.steps)


def difference_in_float(slices: SliceSet, paths: list[Path], intensity: IntensityConfig) -> str:
    """How far the crops of both sides lie apart: same slices, same boxes, the fill outside the field of view kept."""
    row, rng = len(paths) // 2, np.random.default_rng(1)
    geometries = whole_pixel_geometries(rng, *slices.pixels(row).shape)
    example = slices.example(row, 3 if intensity.channels == "neighbours" else 1)
    ours = [to_channels(cut_hu(example.slices_hu, geometry, None), intensity) for geometry in geometries]
    around = [row] if len(example.slices_hu) == 1 else [row - 1, row, row + 1]
    pngs = [read_png(paths[place]) for place in around]
    apart = {
        name: np.concatenate(
            [
                ((torch.from_numpy(one) - other) * STD).abs().flatten().numpy()
                for one, other in zip(ours, crops_of(pngs, geometries, intensity), strict=True)
            ]
        )
        for name, crops_of in (("float", crops_in_float), ("8 bits", crops_in_8_bits))
    }
    return (
        f"same boxes, windowed to 0..1: the float reference differs by at most {apart['float'].max():.1e}, that of "
        f"8 bits by {apart['8 bits'].mean():.4f} on average (it clips before it resamples)"
    )


def report(what: str, ours: Callable, theirs: Callable, name: str, num: int) -> None:
    """Both sides in turns; median and quartiles of the ratio, and rates per core."""
    ours(), theirs()
    pairs = [(seconds_of(ours) / num, seconds_of(theirs) / num) for _ in range(ROUNDS)]
    low, middle, high = statistics.quantiles([other / own for own, other in pairs], n=4)
    own, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"{what}: {middle:.1f} x {name} (quartiles {low:.1f} to {high:.1f}); "
        f"{1e3 * own:.2f} against {1e3 * other:.2f} ms, {1 / own:.0f} against {1 / other:.0f}/s per core"
    )


def seconds_of(run: Callable) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


if __name__ == "__main__":
    main()
