"""Lung nodules of the phantom: two classes that differ in margin and texture and not in size.

All that makes the task easy or hard stands in `Difficulty`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .phantom_scanner import Grid
from .phantom_vessels import vessel_coverage


@dataclass(frozen=True)
class Difficulty:
    """How nodules of the two classes look.

    These constants were fixed by eye before any training run and are not tuned afterwards: a score on the phantom
    says something only as long as nobody made the phantom suit the model. Over the 280 nodules of seed 0, as the
    readers outlined them, the AUC for the class is 0.49 for diameter, 0.52 for mean HU inside the outline and 0.56 for
    mean HU of a 30 mm square; for the standard deviation of HU inside, which is texture and thus the task, 0.79.
    """

    diameter_mm: tuple[float, float] = (7.0, 20.0)  # log-uniform, one draw for the two nodules of a pair
    agreement: float = 0.85  # probability that margin, and independently texture, shows what the class suggests
    mean_hu: tuple[float, float] = (-170.0, 20.0)  # of the nodule without calcification, the same for both classes
    lobulated: float = 0.5  # these three are drawn independently of the class
    elongated: float = 0.5
    calcified: float = 0.4
    sharp_edge_mm: float = 0.8
    blurred_edge_mm: float = 1.9  # spiculated nodules also fade into the lung
    irregularity: float = 0.10  # of the radius, spiculated nodules only
    num_spicules: tuple[int, int] = (9, 16)
    spicule_length_mm: tuple[float, float] = (3.0, 8.0)
    spicule_radius_mm: float = 1.0
    part_solid_hu: float = 170.0  # standard deviation inside a part-solid nodule
    solid_hu: float = 15.0
    grain_mm: float = 1.3  # size of the solid islands of a part-solid nodule
    calcium_hu: tuple[float, float] = (250.0, 480.0)
    elongation: float = 1.55  # long over short axis


DIFFICULTY = Difficulty()


@dataclass(frozen=True)
class Nodule:
    """Ground truth of one nodule."""

    centre_mm: tuple[float, float, float]  # z, y, x
    diameter_mm: float  # of the circle whose area is that of the largest axial section
    is_malignant: bool
    is_spiculated: bool
    is_part_solid: bool
    is_lobulated: bool
    is_elongated: bool
    calcification: int  # LIDC code: 1 popcorn, 5 central, 6 absent
    mean_hu: float
    seed: int  # of its shape


@dataclass(frozen=True)
class NoduleImage:
    """A nodule on the grid of the scan: what its readers look at."""

    nodule: Nodule
    box: tuple[slice, slice, slice]
    distance_mm: np.ndarray  # (z, y, x) signed distance to the surface of its body, spicules excluded


def draw_pair(rng: np.random.Generator, difficulty: Difficulty = DIFFICULTY) -> tuple[Nodule, Nodule]:
    """A malignant-like and a benign-like nodule of one diameter, in random order and not yet placed."""
    low, high = np.log(difficulty.diameter_mm)
    diameter_mm = float(np.exp(rng.uniform(low, high)))
    first = bool(rng.random() < 0.5)
    return tuple(draw_nodule(rng, diameter_mm, is_malignant, difficulty) for is_malignant in (first, not first))


def draw_nodule(
    rng: np.random.Generator, diameter_mm: float, is_malignant: bool, difficulty: Difficulty = DIFFICULTY
) -> Nodule:
    """A nodule at the origin; the class acts on margin and texture only, and only with some probability."""
    agrees = rng.random(2) < difficulty.agreement
    is_calcified = rng.random() < difficulty.calcified
    return Nodule(
        centre_mm=(0.0, 0.0, 0.0),
        diameter_mm=diameter_mm,
        is_malignant=is_malignant,
        is_spiculated=bool(agrees[0] == is_malignant),
        is_part_solid=bool(agrees[1] == is_malignant),
        is_lobulated=bool(rng.random() < difficulty.lobulated),
        is_elongated=bool(rng.random() < difficulty.elongated),
        calcification=int(rng.choice([1, 5])) if is_calcified else 6,
        mean_hu=float(rng.uniform(*difficulty.mean_hu)),
        seed=int(rng.integers(2**31)),
    )


def paint_nodule(ideal_hu: np.ndarray, grid: Grid, nodule: Nodule, difficulty: Difficulty = DIFFICULTY) -> NoduleImage:
    """Replace the lung by the nodule, in place, from a grid fine enough for true partial volume.

    Args:
        ideal_hu: (Z, Y, X) float32 HU before the scanner's blur and noise.
        grid: of `ideal_hu`.
        nodule: placed where it shall lie.
        difficulty: how its class looks.

    Returns:
        The nodule on the grid.
    """
    rng = np.random.default_rng(nodule.seed)
    reach = 0.75 * nodule.diameter_mm + 2 + (difficulty.spicule_length_mm[1] if nodule.is_spiculated else 0)
    centre = np.array(nodule.centre_mm)
    box = grid.box(centre - reach, centre + reach)
    factor = tuple(min(max(1, round(spacing / 0.7)), 4) for spacing in grid.spacing_mm)
    fine = finer_grid(grid, box, factor)

    distance = body_distance(rng, fine, nodule, difficulty)
    edge = difficulty.blurred_edge_mm if nodule.is_spiculated else difficulty.sharp_edge_mm
    coverage = np.clip(0.5 - distance / edge, 0, 1)
    if nodule.is_spiculated:
        coverage = np.maximum(coverage, spicule_coverage(rng, fine, nodule, difficulty))
    inside_hu = nodule.mean_hu + texture(rng, fine, nodule, distance, difficulty)
    inside_hu += calcium(rng, fine, nodule, difficulty)

    ideal_hu[box] += block_mean(coverage * inside_hu, factor) - block_mean(coverage, factor) * ideal_hu[box]
    return NoduleImage(nodule, box, block_mean(distance, factor))


def body_distance(rng: np.random.Generator, fine: Grid, nodule: Nodule, difficulty: Difficulty) -> np.ndarray:
    """Signed distance in mm to the surface, scaled so that the largest axial section has the nominal diameter."""
    radius = nodule.diameter_mm / 2
    offsets = np.stack(np.broadcast_arrays(*fine.distances(whole(fine), nodule.centre_mm)), axis=-1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    stretch = difficulty.elongation if nodule.is_elongated else 1.08
    axes = np.array([stretch ** (2 / 3), stretch ** (-1 / 3), stretch ** (-1 / 3)], np.float32)
    points = offsets @ turn / axes
    if nodule.is_lobulated:
        lobes = directions(rng, int(rng.integers(4, 7))) * 0.5 * radius
        distance = np.min([norm(points - lobe) for lobe in lobes], axis=0) - 0.62 * radius
    else:
        distance = norm(points) - radius
    if nodule.is_spiculated:
        waves = directions(rng, 8) * rng.uniform(5, 10, (8, 1)).astype(np.float32)
        phases = rng.uniform(0, 2 * np.pi, 8).astype(np.float32)
        unit = points / (norm(points) + np.float32(0.3 * radius))[..., None]
        ripple = sum(np.cos(unit @ wave + phase) for wave, phase in zip(waves, phases, strict=True))
        distance += np.float32(difficulty.irregularity * radius / 2) * ripple
    # The n-th nearest pixel of a section lies on the contour that encloses n pixels; the largest section decides.
    num_pixels = round(np.pi * radius**2 / (fine.spacing_mm[1] * fine.spacing_mm[2]))
    sections = distance.reshape(len(distance), -1)
    kth = min(num_pixels, sections.shape[1] - 1)
    return distance - np.partition(sections, kth, axis=1)[:, kth].min()


def spicule_coverage(rng: np.random.Generator, fine: Grid, nodule: Nodule, difficulty: Difficulty) -> np.ndarray:
    """Thin strands that run from the body into the lung and taper."""
    rays = directions(rng, int(rng.integers(*difficulty.num_spicules)))
    # Mostly in the axial plane, where a reader sees them.
    rays = rays * np.array([0.5, 1, 1], np.float32)
    rays /= norm(rays)[:, None]
    lengths = rng.uniform(*difficulty.spicule_length_mm, (len(rays), 1)) * (0.6 + nodule.diameter_mm / 30)
    radius, centre = nodule.diameter_mm / 2, np.array(nodule.centre_mm)
    start, end = centre + 0.6 * radius * rays, centre + (radius + lengths) * rays
    bend = rng.normal(0, 0.09, rays.shape) * (radius + lengths)
    ends = np.broadcast_to([difficulty.spicule_radius_mm, 0.3], (len(rays), 2))
    return vessel_coverage(fine, np.hstack([start, end + bend, ends]).astype(np.float32))


def texture(
    rng: np.random.Generator, fine: Grid, nodule: Nodule, distance: np.ndarray, difficulty: Difficulty
) -> np.ndarray:
    """Variation of HU inside the body, of mean zero there, so that texture does not change the mean."""
    body = distance < 0
    grain = gaussian_filter(
        rng.standard_normal(fine.shape, dtype=np.float32),
        [difficulty.grain_mm / spacing for spacing in fine.spacing_mm],
        truncate=2.5,
    )
    grain /= grain.std() + 1e-6
    if not nodule.is_part_solid:
        return difficulty.solid_hu * grain
    core = np.array(nodule.centre_mm) + directions(rng, 1)[0] * 0.2 * nodule.diameter_mm
    z, y, x = fine.distances(whole(fine), core)
    depth = -np.sqrt(z * z + y * y + x * x) / (nodule.diameter_mm / 2)
    pattern = np.clip(0.8 * grain + 2.0 * (depth - depth[body].mean()), -2.2, 1.4)
    return difficulty.part_solid_hu * (pattern - pattern[body].mean()) / (pattern[body].std() + 1e-6)


def calcium(rng: np.random.Generator, fine: Grid, nodule: Nodule, difficulty: Difficulty) -> np.ndarray:
    """HU added by calcification: one central spot, several as in popcorn, or none."""
    added = np.zeros(fine.shape, np.float32)
    radius = nodule.diameter_mm / 2
    spots = {1: int(rng.integers(4, 7)), 5: 1, 6: 0}[nodule.calcification]
    size = 0.42 * radius if spots == 1 else 0.24 * radius
    for ray in directions(rng, spots):
        centre = np.array(nodule.centre_mm) + ray * (0.08 if spots == 1 else 0.45) * radius
        z, y, x = fine.distances(whole(fine), centre)
        spot = np.clip(0.5 + (size - np.sqrt(z * z + y * y + x * x)) / 0.8, 0, 1)
        added = np.maximum(added, spot * np.float32(rng.uniform(*difficulty.calcium_hu)))
    return added


def finer_grid(grid: Grid, box: tuple[slice, slice, slice], factor: tuple[int, int, int]) -> Grid:
    """The voxels of a box, each cut into factor[0] x factor[1] x factor[2]."""
    spacing = tuple(wide / count for wide, count in zip(grid.spacing_mm, factor, strict=True))
    origin = tuple(
        grid.origin_mm[d] + box[d].start * grid.spacing_mm[d] - (factor[d] - 1) / 2 * spacing[d] for d in range(3)
    )
    return Grid(tuple((part.stop - part.start) * n for part, n in zip(box, factor, strict=True)), spacing, origin)


def block_mean(values: np.ndarray, factor: tuple[int, int, int]) -> np.ndarray:
    """Back from a finer grid: the mean over each voxel."""
    z, y, x = (count // n for count, n in zip(values.shape, factor, strict=True))
    return values.reshape(z, factor[0], y, factor[1], x, factor[2]).mean(axis=(1, 3, 5))


def whole(grid: Grid) -> tuple[slice, slice, slice]:
    """The box of all voxels."""
    return tuple(slice(0, count) for count in grid.shape)


def directions(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) float32 unit vectors in all directions."""
    vectors = rng.normal(size=(count, 3))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def norm(vectors: np.ndarray) -> np.ndarray:
    """Length along the last axis; np.linalg.norm is several times slower on float32 triples."""
    return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))
