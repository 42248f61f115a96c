"""Encode a scan: python training/encode_volume.py SCAN BACKBONE OUT [--pixel-mm=… --point-mm X Y Z …].

SCAN is a DICOM folder or zip, or a NIfTI, NRRD or MetaImage file; BACKBONE a run of training/pretrain.py, a published
folder or an id on the Hub. OUT receives features.zarr, colours.nii.gz and, with a point, similarity.nii.gz and
planes.png. Ctrl-C stops; the same command goes on.
"""

import argparse
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from dinox_hf.console import run_command
from dinox_hf.serving.scan_slices import open_scan, refuse_outside, voxel_at
from dinox_hf.serving.volume_features import STORE, encode_volume
from dinox_hf.serving.volume_maps import similarity_from, write_colours, write_similarity
from dinox_hf.serving.volume_picture import draw_planes


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description="Token maps of a whole CT scan, as 3D volumes.")
    parser.add_argument("scan", help="DICOM folder or zip, NIfTI, NRRD or MetaImage")
    parser.add_argument("backbone", help="run, published folder, or id on the Hub")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--pixel-mm", type=float, help="resample slices to this size of a pixel")
    parser.add_argument("--tile-px", type=int, help="side of a tile; default: whole slices up to 4096 patches")
    parser.add_argument("--overlap", type=float, default=0.25, help="least share of a tile that its neighbour covers")
    parser.add_argument("--neighbour-mm", type=float, help="distance of the slices below and above, where it matters")
    parser.add_argument("--series", help="SeriesInstanceUID, where SCAN holds several")
    parser.add_argument("--max-gap-mm", type=float, help="accept uneven gaps between slices up to this size")
    point = parser.add_mutually_exclusive_group()
    point.add_argument("--point-mm", type=float, nargs=3, metavar=("X", "Y", "Z"), help="what is alike to it, LPS")
    point.add_argument("--voxel", type=float, nargs=3, metavar=("Z", "Y", "X"), help="the same by index")
    given = parser.parse_args()
    disable_progress_bar()  # of transformers
    scan = open_scan(given.scan, given.series, given.max_gap_mm)
    voxel = given.voxel or (voxel_at(given.point_mm, scan.affine_lps) if given.point_mm else None)
    if voxel is not None:
        refuse_outside(voxel, scan.shape)  # now, not when everything is encoded
    features = encode_volume(
        scan,
        given.backbone,
        given.out,
        pixel_mm=given.pixel_mm,
        tile_px=given.tile_px,
        overlap=given.overlap,
        neighbour_mm=given.neighbour_mm,
    )
    size = " x ".join(map(str, features.shape))
    print(f"{given.out / STORE}: {size} (slices, rows, columns, width), float16")
    write_colours(features, given.out / "colours.nii.gz")
    print(f"{given.out / 'colours.nii.gz'}: principal components as colours, on the voxels of the scan")
    if voxel is not None:
        similarity = similarity_from(features, voxel=voxel)
        write_similarity(features, similarity, given.out / "similarity.nii.gz")
        print(f"{given.out / 'similarity.nii.gz'}: cosine with the patch at the point, on the voxels of the scan")
        draw_planes(given.out / "planes.png", scan, features, similarity, voxel)
        print(f"{given.out / 'planes.png'}: the three planes through the point")


if __name__ == "__main__":
    run_command(main)
