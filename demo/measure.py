"""How long a slice takes on this machine: the seconds that the viewer needs for each network, and to open a scan.

python demo/measure.py SCAN [--backbone FOLDER_OR_HUB_ID] [--slices 12] [--pixel-mm 0.8]
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

from dinox_hf.console import run_command
from dinox_hf.serving.networks import load_networks
from dinox_hf.serving.scene import Display, scene
from dinox_hf.serving.uploads import Limits, read_upload
from dinox_hf.serving.viewer import PIXEL_MM, Viewer, coarse_to_fine


def main() -> None:
    """Open the scan, let the first network look at some slices, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, help="a zip of DICOM files, or a NIfTI, NRRD or MetaImage file")
    parser.add_argument("--backbone", help="as for app.py")
    parser.add_argument("--slices", type=int, default=12, help="to take the median of")
    parser.add_argument(
        "--pixel-mm", type=float, default=PIXEL_MM, help="size of a pixel to which slices are resampled"
    )
    args = parser.parse_args()

    begin = time.perf_counter()
    volume, _ = read_upload(args.scan, Limits())
    print(f"scan: {' x '.join(map(str, volume.voxels.shape))} voxels, opened in {time.perf_counter() - begin:.1f} s")

    name, backbone = load_networks(args.backbone).named[0]
    viewer = Viewer(volume, "scan", [(name, backbone)], args.pixel_mm)
    viewer.encode(viewer.slice)  # whatever happens once only
    wall, cpu = [], []
    for index in [index for index in coarse_to_fine(viewer.num_slices) if index != viewer.slice][: args.slices]:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        viewer.encode(index)
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    rows, columns = viewer.looks[0].features[viewer.slice].grid.shape
    size = sum(tensor.numel() for tensor in backbone.model.parameters()) / 1e6
    print(
        f"{name}: {size:.1f} M parameters, {rows} x {columns} patches of {args.pixel_mm * backbone.patch_size:.1f} mm"
    )
    print(
        f"slice: median {np.median(wall):.2f} s, fastest {min(wall):.2f} s of {len(wall)}; CPU {np.median(cpu):.2f} s"
    )

    begin = time.perf_counter()
    viewer.click(volume.voxels.shape[1] / 2, volume.voxels.shape[2] / 2)
    print(f"click on a known slice: {time.perf_counter() - begin:.2f} s, with {viewer.num_encoded} slices to compare")
    begin = time.perf_counter()
    scene(viewer, Display())
    print(f"scroll to a known slice: {time.perf_counter() - begin:.3f} s")
    print(f"{torch.get_num_threads()} threads on {os.cpu_count()} cores; load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    run_command(main)
