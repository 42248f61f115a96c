"""Peak memory of encode_volume over DICOM series of 20, 40 and 80 slices, then over the longest one read whole.

    python benchmarks/volume_memory.py [PRESET [PIXEL_MM]]

Slices are 512 x 512 noise; the backbone has random weights and the architecture PRESET, vits16 if none is named;
PIXEL_MM resamples slices, for a quick look. One process, shortest series first: what a longer one adds to the peak is
what it costs. Linux only.
"""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from usage import show_help

import dinox_hf
from dinox_hf.data.sources.phantom_dicom import series_uids, write_series
from dinox_hf.data.sources.phantom_scanner import draw_scan
from dinox_hf.evaluation.backbones.features import Backbone

NUM_SLICES = (20, 40, 80)
SIZE = 512


def main() -> None:
    """Print one line a series."""
    show_help(__doc__)
    preset = sys.argv[1] if len(sys.argv) > 1 else "vits16"
    options = {"pixel_mm": float(sys.argv[2]) if len(sys.argv) > 2 else None, "progress": False}
    torch.manual_seed(0)
    model = dinox_hf.Dinov3CTModel(dinox_hf.Dinov3CTConfig.preset(preset)).eval()
    backbone = Backbone(model, dinox_hf.Dinov3CTImageProcessor(), preset)
    with tempfile.TemporaryDirectory() as folder:
        for num_slices in NUM_SLICES:
            raw = Path(folder) / f"raw {num_slices}"
            write_noise(raw, num_slices)
            features = dinox_hf.encode_volume(raw, backbone, Path(folder) / f"{num_slices}", **options)
            print(f"{num_slices} slices, {features.shape[1:]} tokens each: peak {peak_mb():,.1f} MB")
        whole = next(iter(dinox_hf.read_series(raw)))
        dinox_hf.encode_volume(whole, backbone, Path(folder) / "whole", **options)
        print(f"{num_slices} slices, read whole before: peak {peak_mb():,.1f} MB")


def write_noise(folder: Path, num_slices: int) -> None:
    """One series; a slice of noise is drawn at a time, so that the peak is not that of drawing."""
    folder.mkdir()
    rng = np.random.default_rng(num_slices)
    scan = draw_scan(rng, SIZE, 300, num_slices)
    one = rng.integers(-1000, 1200, (SIZE, SIZE)).astype(np.int16)
    voxels = np.broadcast_to(one, (num_slices, SIZE, SIZE))
    write_series(folder, rng, "PHANTOM", scan, voxels, series_uids(0, "PHANTOM", SIZE, num_slices))


def peak_mb() -> float:
    """The largest resident set so far of this process itself; that of getrusage starts with its parent's."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1000


if __name__ == "__main__":
    main()
