"""encode_volume: a token for every patch of every slice of a scan, stitched, on disk, slice by slice."""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.volume import Volume
from ..evaluation.backbones.features import Backbone, load_backbone
from ..evaluation.backbones.learning import latest_checkpoint, read_run
from .feature_store import SliceArray, read_record, write_record
from .patch_grid import PatchGrid, make_grid
from .scan_slices import ScanSlices, open_scan, refuse_outside, voxel_at
from .slice_features import EncodingConfig, SliceFeatures, encode_slice

STORE = "features.zarr"
_FORMAT = 1  # raise it when the same record would mean other numbers


class VolumeFeatures:
    """Tokens of a scan on its patch grid: read from disk slice by slice, with their place in the patient.

    Args:
        folder: written by `encode_volume`.

    Raises:
        ValueError: if there are no features, or not of all slices.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        record = read_record(self.folder / STORE)
        if record is None:
            raise ValueError(
                f"Expected {STORE} in {folder}; found none. Write it with dinox_hf.encode_volume, or `python "
                f"training/encode_volume.py SCAN BACKBONE OUT`."
            )
        self.record = record
        self.tokens, self.mean_hu = _arrays(self.folder, record)
        missing = [z for z in range(len(self)) if not (self.tokens.has(z) and self.mean_hu.has(z))]
        if missing:
            raise ValueError(
                f"{folder} should hold the features of {len(self)} slices; found {len(self) - len(missing)}. Encoding "
                f"was interrupted: give the same command again, it goes on where it stopped."
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, z: int) -> SliceFeatures:
        """Features of a slice, from the feet."""
        if not -len(self) <= z < len(self):
            raise IndexError(f"A scan of {len(self)} slices has numbers 0 to {len(self) - 1}; found {z}.")
        z %= len(self)
        tokens = self.tokens.read(z).astype(np.float32)
        return SliceFeatures(self.grid, tokens, self.mean_hu.read(z).astype(np.float32))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(Z, rows, columns, D)."""
        return self.tokens.shape

    @property
    def scan_shape(self) -> tuple[int, int, int]:
        """(Z, H, W) voxels of the scan."""
        return tuple(self.record["scan_shape"])

    @property
    def scan_affine_lps(self) -> np.ndarray:
        """(4, 4) index (x, y, z) of the scan's voxels to millimetres."""
        return np.array(self.record["scan_affine_lps"])

    @property
    def affine_lps(self) -> np.ndarray:
        """(4, 4) index (column, row, slice) of the patches to millimetres; a patch's place is its middle."""
        return self.grid.affine(self.scan_affine_lps)

    @property
    def grid(self) -> PatchGrid:
        """The patches of every slice."""
        return _grid(self.record)

    def voxel_at(self, point_mm: tuple[float, float, float]) -> tuple[float, float, float]:
        """Index (z, y, x) of the scan, between voxels too, of a point (x, y, z) in the patient's millimetres, LPS."""
        return voxel_at(point_mm, self.scan_affine_lps)

    def patch_at(self, voxel: tuple[float, float, float]) -> tuple[int, int, int]:
        """Slice, row and column of the patch that holds a voxel (z, y, x).

        Raises:
            ValueError: if it is outside the scan.
        """
        refuse_outside(voxel, self.scan_shape)
        z, y, x = voxel
        return (min(max(round(z), 0), len(self) - 1), *self.grid.patch_of(y, x))


def encode_volume(
    source: str | Path | Volume | ScanSlices,
    backbone: str | Path | Backbone,
    out: str | Path | None = None,
    *,
    pixel_mm: float | None = None,
    tile_px: int | None = None,
    overlap: float = 0.25,
    neighbour_mm: float | None = None,
    series_id: str | None = None,
    max_gap_mm: float | None = None,
    progress: bool = True,
) -> VolumeFeatures:
    """Encode every slice of a CT scan, as the backbone saw slices in its training, into a 3D map of tokens on disk.

    Memory does not grow with the number of slices of a DICOM series: each is read, encoded and written before the
    next. An interrupted call goes on when it is repeated.

    Args:
        source: a DICOM folder or zip, a NIfTI, NRRD or MetaImage file, a `Volume`, or a scan that is open.
        backbone: a run of training/pretrain.py (its last checkpoint), a published folder, an id on the Hub, or a
            `Backbone`. Windows, channels, mean and spread are those of its processor.
        out: the folder to write, OUT/features.zarr in it. None takes a temporary one, which the system may clear.
        pixel_mm: resample slices to this size of a pixel; None leaves them as they are. Half the size, four times the
            tokens.
        tile_px: side of a tile in pixels, a multiple of the patch size. None: the whole slice at once up to 4096
            patches, above that tiles of 64 x 64 patches.
        overlap: the least share of a tile that its neighbour covers too; tokens are averaged there.
        neighbour_mm: distance in mm of the slices below and above, for a backbone trained with neighbours; None takes
            that of its run, else the adjacent slices.
        series_id: which series, where `source` holds several.
        max_gap_mm: accept uneven gaps between DICOM slices up to this size.
        progress: show a bar.

    Returns:
        The features, read back slice by slice: `features[z].tokens` is (rows, columns, D) float32.

    Raises:
        ValueError: if there is no scan or no backbone, an option is out of range, or `out` holds something else.
        RuntimeError: if the disk has no room.
    """
    network, trained_mm = open_backbone(backbone)
    config = EncodingConfig(
        pixel_mm=pixel_mm,
        tile_px=tile_px,
        overlap=overlap,
        neighbour_mm=trained_mm if neighbour_mm is None else neighbour_mm,
    )
    scan = open_scan(source, series_id, max_gap_mm)
    folder = Path(tempfile.mkdtemp(prefix="dinox-features-")) if out is None else Path(out)
    record = _record(scan, network, config)
    refuse_other_features(folder, record)
    tokens, mean_hu = _arrays(folder, record)
    todo = [z for z in range(len(scan)) if not (tokens.has(z) and mean_hu.has(z))]
    _refuse_full_disk(folder, len(todo) * math.prod(tokens.shape[1:]) * tokens.dtype.itemsize)
    write_record(folder / STORE, record)
    for array in (tokens, mean_hu):
        array.begin()
    with tqdm(
        desc="encoding", total=len(scan), initial=len(scan) - len(todo), unit="slice", disable=not progress
    ) as bar:
        for z in todo:
            slices_hu = scan.around(z, network.processor.channels, config.neighbour_mm)
            found = encode_slice(network, slices_hu, scan.spacing_mm[1:], scan.padding_hu, config)
            tokens.write(z, found.tokens)
            mean_hu.write(z, found.mean_hu)
            bar.update()
    return VolumeFeatures(folder)


def open_backbone(source: str | Path | Backbone) -> tuple[Backbone, float | None]:
    """A backbone, and how far apart the neighbouring slices of its training lay; None where that is not known.

    Args:
        source: a run (its last checkpoint), a transformers folder, an id on the Hub, or a backbone that is open.

    Raises:
        ValueError: if there is none.
    """
    if isinstance(source, Backbone):
        return source, None
    run = read_run(Path(source))
    is_run = run is not None or (Path(source) / "checkpoints").is_dir()
    backbone = load_backbone(latest_checkpoint(Path(source)) / "backbone" if is_run else source)
    return backbone, run["data"].get("neighbour_mm") if run else None


def refuse_other_features(folder: Path, record: dict[str, Any]) -> None:
    """Stop before features of another scan, backbone or setting would be mixed with these.

    Raises:
        ValueError: naming what differs.
    """
    found = read_record(folder / STORE)
    if found is not None:
        different = [name for name in record if found.get(name) != record[name]]
        if different:
            raise ValueError(
                f"{folder} should be new, or hold features of the same scan, backbone and settings; found others: "
                f"{', '.join(different)} differ. Choose another folder, or remove this one yourself."
            )
    elif folder.exists() and not folder.is_dir():
        raise ValueError(f"OUT should be a folder; found a file at {folder}. Choose another name.")


def _record(scan: ScanSlices, backbone: Backbone, config: EncodingConfig) -> dict[str, Any]:
    """Everything that the features depend on, as plain JSON values, and where they lie in the patient."""
    processor = backbone.processor
    grid = make_grid(scan.shape[1:], scan.spacing_mm[1:], backbone.patch_size, config.pixel_mm)
    record = {
        "format": _FORMAT,
        "series_id": scan.series_id,
        "scan_shape": scan.shape,
        "scan_affine_lps": scan.affine_lps.tolist(),
        "scan_checksum": scan.checksum,
        "padding_hu": scan.padding_hu,
        "backbone": backbone.digest,
        "channels": processor.channels,
        "hu_windows": processor.hu_windows,
        "mean_and_spread": [processor.image_mean, processor.image_std],
        "pixel_mm": config.pixel_mm,
        "tile_px": config.tile_px,
        "overlap": config.overlap,
        "neighbour_mm": config.neighbour_mm,
        "patch_size": backbone.patch_size,
        "shape": [len(scan), *grid.shape, backbone.model.config.hidden_size],
        "affine_lps": grid.affine(scan.affine_lps).tolist(),
        "axes": "tokens (slice, row, column, D); affine_lps takes (column, row, slice) of a patch to its middle, mm",
    }
    return json.loads(json.dumps(record))


def _grid(record: dict[str, Any]) -> PatchGrid:
    affine = np.array(record["scan_affine_lps"])
    x_mm, y_mm, _ = np.linalg.norm(affine[:3, :3], axis=0)
    return make_grid(record["scan_shape"][1:], (y_mm, x_mm), record["patch_size"], record["pixel_mm"])


def _arrays(folder: Path, record: dict[str, Any]) -> tuple[SliceArray, SliceArray]:
    shape = tuple(record["shape"])
    # After the final norm tokens are far inside the range of half precision, and its 11 bits are more than they mean.
    tokens = SliceArray(folder / STORE / "tokens", shape, "float16")
    return tokens, SliceArray(folder / STORE / "mean_hu", shape[:3], "float32")


def _refuse_full_disk(folder: Path, num_bytes: int) -> None:
    home = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(home).free
    if free < num_bytes:
        raise RuntimeError(
            f"The disk of {folder} should have {num_bytes / 1e6:,.0f} MB free; found {free / 1e6:,.0f} MB. Free some "
            f"space, choose a folder on another disk, or a coarser pixel_mm."
        )
