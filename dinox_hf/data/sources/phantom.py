"""Synthetic chest CT with nodules: what a run needs when there is no patient data at hand.

A phantom patient is anatomy (`phantom_anatomy`), lung vessels (`phantom_vessels`) and nodules (`phantom_nodules`),
seen by a scanner (`phantom_scanner`). `phantom_set` lets four readers look at it (`phantom_readers`) and writes it as
a DICOM series with LIDC XML (`phantom_dicom`). Every draw comes from (seed, patient), never from a worker's state.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from ..volume import Volume
from .phantom_anatomy import Anatomy, draw_anatomy, frame_of, lung_distance, thorax_slice
from .phantom_dicom import series_uids
from .phantom_nodules import Nodule, NoduleImage, draw_nodule, draw_pair, paint_nodule
from .phantom_scanner import Grid, Scan, acquire, draw_scan
from .phantom_vessels import grow_tree, vessel_coverage

LENGTH_MM = 70.0  # of the scanned part of the chest
HILA_MM = ((-16.0, 2.0, -33.0), (-12.0, 4.0, 35.0))  # z, y, x of the standard patient: right, left


@dataclass(frozen=True)
class PhantomPatient:
    """One finished patient."""

    patient_id: str
    scan: Scan
    voxels_hu: np.ndarray  # (Z, Y, X) int16
    images: list[NoduleImage]  # nodules of 7 to 20 mm
    small_images: list[NoduleImage]  # below 3 mm: readers mark them and outline nothing
    lookalikes_mm: np.ndarray  # (N, 3) places that a reader may mark as no nodule


@dataclass(frozen=True)
class LungMap:
    """Lungs on a coarse grid that reaches beyond the scan, for placing vessels and nodules."""

    points_mm: np.ndarray  # (N, 3) z, y, x inside the lungs
    depth_mm: np.ndarray  # (N,) distance to the nearest pleura


def make_patient(seed: int, number: int, size: int, num_slices: int | None = None) -> PhantomPatient:
    """Draw one patient and scan it.

    Args:
        seed: of the whole set.
        number: of the patient, from 1.
        size: rows and columns.
        num_slices: fixes the number of slices; otherwise the slice spacing is one of 1.5, 2 and 2.5 mm.
    """
    rng = np.random.default_rng([seed, number])
    scan = draw_scan(rng, size, LENGTH_MM, num_slices)
    anatomy = draw_anatomy(rng, width_mm=scan.grid.spacing_mm[2] * size * rng.uniform(0.92, 0.96))
    lungs = map_lungs(anatomy, scan.grid)
    ideal_hu = paint_chest(rng, anatomy, scan.grid, lungs)
    nodules = place_nodules(rng, lungs, scan.grid)
    images = [paint_nodule(ideal_hu, scan.grid, nodule) for nodule in nodules]
    return PhantomPatient(
        patient_id=f"PHANTOM-{number:04d}",
        scan=scan,
        voxels_hu=acquire(rng, scan, ideal_hu),
        images=[image for image in images if image.nodule.diameter_mm >= 3],
        small_images=[image for image in images if image.nodule.diameter_mm < 3],
        lookalikes_mm=draw_places(rng, lungs, scan.grid, count=int(rng.integers(1, 4))),
    )


def phantom_volume(seed: int, size: int = 64, num_slices: int = 12) -> tuple[Volume, list[Nodule]]:
    """A small scan in memory, with its nodules of 7 to 20 mm; each seed is another patient.

    Args:
        seed: at least 0.
        size: rows and columns.
        num_slices: of 70 mm of the chest.
    """
    patient = make_patient(seed=0, number=seed + 1, size=size, num_slices=num_slices)
    grid = patient.scan.grid
    affine_lps = np.diag([*grid.spacing_mm[::-1], 1.0])
    affine_lps[:3, 3] = grid.origin_mm[::-1]
    _, series_uid, slice_uids = series_uids(0, patient.patient_id, size, num_slices)
    fill_hu = patient.scan.storage.fill_hu
    volume = Volume(
        voxels=patient.voxels_hu,
        z_mm=grid.axis(0),
        affine_lps=affine_lps,
        slice_uids=slice_uids,
        series_id=series_uid,
        patient_id=patient.patient_id,
        modality="ct",
        # As a reader would say: a fill equal to air is none.
        padding_hu=fill_hu if fill_hu is not None and fill_hu < -1024 else None,
    )
    return volume, [image.nodule for image in patient.images]


def map_lungs(anatomy: Anatomy, grid: Grid) -> LungMap:
    """Sample the lungs every 4 mm, 25 mm beyond both ends of the scan."""
    step = 4.0
    z = np.arange(grid.axis(0)[0] - 25, grid.axis(0)[-1] + 25, step)
    y = x = np.arange(grid.origin_mm[1], -grid.origin_mm[1], step)
    frame = frame_of(anatomy, x, y)
    inside = np.stack([lung_distance(anatomy, frame, height) < 0 for height in z])
    depth = distance_transform_edt(inside, sampling=step)
    at = np.argwhere(inside)
    return LungMap(np.stack([z[at[:, 0]], y[at[:, 1]], x[at[:, 2]]], axis=1), depth[inside])


def paint_chest(rng: np.random.Generator, anatomy: Anatomy, grid: Grid, lungs: LungMap) -> np.ndarray:
    """(Z, Y, X) float32 HU of the chest with textured lungs and their vessels, before nodules."""
    frame = frame_of(anatomy, grid.axis(2), grid.axis(1))
    slices, shares = zip(*(thorax_slice(anatomy, frame, z) for z in grid.axis(0)), strict=True)
    ideal_hu, lung_share = np.stack(slices), np.stack(shares)
    ideal_hu += lung_share * parenchyma(rng, grid)
    coverage = vessel_coverage(grid, grow_vessels(rng, anatomy, lungs)) * lung_share
    vessel_hu = min(anatomy.blood_hu, 90.0)
    ideal_hu += coverage * (vessel_hu - ideal_hu)
    return ideal_hu


def parenchyma(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """(Z, Y, X) float32 HU: fine lobular texture of the lung on slow regional changes of aeration."""
    fine = rng.standard_normal(grid.shape, dtype=np.float32)
    fine = gaussian_filter(fine, (0, *(1.1 / spacing for spacing in grid.spacing_mm[1:])), truncate=2)
    num_waves = 6
    waves = []
    for dimension in range(3):
        per_mm = 2 * np.pi / rng.uniform(35, 110, (num_waves, 1))
        waves.append(
            np.cos(per_mm * grid.axis(dimension) + rng.uniform(0, 2 * np.pi, (num_waves, 1))).astype(np.float32)
        )
    slow = np.einsum("nz,ny,nx->zyx", *waves, optimize=True)
    fine *= 22 / fine.std()
    return fine + 14 * slow


def grow_vessels(rng: np.random.Generator, anatomy: Anatomy, lungs: LungMap) -> np.ndarray:
    """(N, 8) branches of an arterial and a venous tree in either lung."""
    trees = []
    for hilum in HILA_MM:
        same_side = np.flatnonzero(lungs.points_mm[:, 2] * hilum[2] > 0)
        for shift in ((0, 0, 0), (-10, -8, 0)):
            root = anatomy.scale * (np.array(hilum) + shift)
            targets = lungs.points_mm[rng.choice(same_side, 280, replace=False)]
            trees.append(grow_tree(rng, root, targets + rng.uniform(-2, 2, targets.shape), tip_radius_mm=0.5))
    return np.vstack(trees)


def place_nodules(rng: np.random.Generator, lungs: LungMap, grid: Grid) -> list[Nodule]:
    """Three or four pairs of one malignant-like and one benign-like nodule, and up to two below 3 mm."""
    nodules = [nodule for _ in range(rng.integers(3, 5)) for nodule in draw_pair(rng)]
    for _ in range(rng.integers(0, 3)):
        nodules.append(replace(draw_nodule(rng, float(rng.uniform(2.0, 2.8)), False), is_spiculated=False))
    placed: list[Nodule] = []
    for nodule in sorted(nodules, key=lambda each: -each.diameter_mm):
        placed.append(replace(nodule, centre_mm=tuple(find_place(rng, lungs, grid, nodule, placed).tolist())))
    return placed


def find_place(
    rng: np.random.Generator, lungs: LungMap, grid: Grid, nodule: Nodule, placed: list[Nodule]
) -> np.ndarray:
    """A random point that keeps the nodule in the lung, inside the scanned range and off its neighbours."""
    radius = nodule.diameter_mm / 2
    low, high = grid.axis(0)[[0, -1]]
    points = lungs.points_mm
    clearance = np.minimum(lungs.depth_mm - radius, np.minimum(points[:, 0] - low, high - points[:, 0]) - radius - 2)
    for other in placed:
        gap = np.linalg.norm(points - other.centre_mm, axis=1) - radius - other.diameter_mm / 2
        clearance = np.minimum(clearance, gap - 8)
    free = np.flatnonzero(clearance > 0)
    chosen = rng.choice(free) if len(free) else np.argmax(clearance)
    return points[chosen] + rng.uniform(-1, 1, 3)


def draw_places(rng: np.random.Generator, lungs: LungMap, grid: Grid, count: int) -> np.ndarray:
    """(count, 3) random points of the scanned lung."""
    z = lungs.points_mm[:, 0]
    inside = np.flatnonzero((z > grid.axis(0)[0]) & (z < grid.axis(0)[-1]))
    return lungs.points_mm[rng.choice(inside, count, replace=False)]
