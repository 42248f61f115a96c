"""The scanner of a phantom patient: sampling grid, kernel, dose, correlated noise, and how the values are stored."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


@dataclass(frozen=True)
class Grid:
    """Where voxel centres lie. Axis order (z, y, x); origin is the first voxel's centre; no rotation."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]

    def axis(self, dimension: int) -> np.ndarray:
        """Positions in mm along one dimension."""
        return self.origin_mm[dimension] + self.spacing_mm[dimension] * np.arange(self.shape[dimension])

    def index(self, point_mm: np.ndarray) -> np.ndarray:
        """Fractional (z, y, x) index of a position in mm."""
        return (np.asarray(point_mm) - self.origin_mm) / self.spacing_mm

    def corners(self, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First index and stop index (..., 3) of the voxels between two points, clipped to the grid."""
        first = np.clip(np.floor(self.index(low_mm)).astype(int), 0, self.shape)
        stop = np.clip(np.ceil(self.index(high_mm)).astype(int) + 1, first, self.shape)
        return first, stop

    def box(self, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[slice, slice, slice]:
        """The voxels between two points, ready to index an array."""
        return tuple(map(slice, *self.corners(low_mm, high_mm)))

    def distances(self, box: tuple[slice, slice, slice], point_mm: np.ndarray) -> tuple[np.ndarray, ...]:
        """Open (z, y, x) float32 offsets in mm of a box's voxels from a point, ready to broadcast."""
        z, y, x = (
            np.arange(part.start, part.stop, dtype=np.float32) * np.float32(step) + np.float32(origin - point)
            for part, step, origin, point in zip(box, self.spacing_mm, self.origin_mm, point_mm, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel: how far it blurs, how much it enhances edges, how strong its noise is."""

    name: str
    blur_px: float
    enhancement: float  # share of the unsharp mask added
    noise_px: float  # correlation length of the noise
    noise_hu: float  # at 2 mm slices and a usual dose


@dataclass(frozen=True)
class Storage:
    """How a vendor stores HU: stored value = (HU - intercept) / slope, and a fill outside the round field of view."""

    vendor: str
    is_signed: bool
    slope: int
    intercept: int
    fill_hu: int | None  # None: the corners hold measured air


KERNELS = (
    Kernel("SOFT", blur_px=0.85, enhancement=0.0, noise_px=0.85, noise_hu=11),
    Kernel("STANDARD", blur_px=0.65, enhancement=0.0, noise_px=0.6, noise_hu=17),
    Kernel("LUNG", blur_px=0.55, enhancement=0.7, noise_px=0.4, noise_hu=36),
)

STORAGES = (
    Storage("PHANTOM SIGNED A", is_signed=True, slope=1, intercept=-1024, fill_hu=-3024),
    Storage("PHANTOM SIGNED B", is_signed=True, slope=1, intercept=0, fill_hu=-2048),
    Storage("PHANTOM SIGNED C", is_signed=True, slope=1, intercept=0, fill_hu=-2000),
    Storage("PHANTOM UNSIGNED A", is_signed=False, slope=1, intercept=-1024, fill_hu=None),
    Storage("PHANTOM UNSIGNED B", is_signed=False, slope=2, intercept=-1024, fill_hu=-1024),
)


@dataclass(frozen=True)
class Scan:
    """One acquisition of one patient."""

    grid: Grid
    kernel: Kernel
    storage: Storage
    dose: float  # relative to a usual chest CT; noise grows with its inverse root


def draw_scan(rng: np.random.Generator, size: int, length_mm: float, num_slices: int | None = None) -> Scan:
    """A field of view, slice spacing, kernel, dose and vendor; `num_slices` fixes the spacing instead."""
    field_mm = float(rng.uniform(280, 330))
    spacing_z = float(rng.choice([1.5, 2.0, 2.5], p=[0.15, 0.35, 0.5]))
    if num_slices is None:
        num_slices = round(length_mm / spacing_z)
    else:
        spacing_z = length_mm / num_slices
    # A decimal string holds 16 characters: positions are rounded once, here, so that header and geometry agree.
    pixel_mm = round(field_mm / size, 6)
    corner = round(-pixel_mm * (size - 1) / 2, 6)
    first_z = round(-0.72 * length_mm + float(rng.uniform(-4, 4)), 3)
    return Scan(
        grid=Grid((num_slices, size, size), (spacing_z, pixel_mm, pixel_mm), (first_z, corner, corner)),
        kernel=KERNELS[rng.choice(len(KERNELS), p=[0.25, 0.45, 0.3])],
        storage=STORAGES[rng.integers(len(STORAGES))],
        dose=float(rng.uniform(0.6, 1.6)),
    )


def acquire(rng: np.random.Generator, scan: Scan, ideal_hu: np.ndarray) -> np.ndarray:
    """Blur, noise and rounding of the scanner: (Z, Y, X) float32 HU as they are to (Z, Y, X) int16 HU as stored."""
    kernel, grid, storage = scan.kernel, scan.grid, scan.storage
    measured = gaussian_filter(ideal_hu, (0, kernel.blur_px, kernel.blur_px), truncate=3)
    if kernel.enhancement:
        measured += kernel.enhancement * (measured - gaussian_filter(measured, (0, 1.2, 1.2), truncate=2.5))
    measured += correlated_noise(rng, scan)
    levels = np.rint((np.clip(measured, -1024, 3071) - storage.intercept) / storage.slope)
    voxels_hu = (levels * storage.slope + storage.intercept).astype(np.int16)
    if storage.fill_hu is not None:
        y, x = np.ix_(grid.axis(1), grid.axis(2))
        voxels_hu[:, np.hypot(y, x) > grid.spacing_mm[1] * grid.shape[1] / 2] = storage.fill_hu
    return voxels_hu


def correlated_noise(rng: np.random.Generator, scan: Scan) -> np.ndarray:
    """(Z, Y, X) float32 noise in HU: grain set by the kernel, stronger in the middle of the body than at its rim."""
    kernel, grid = scan.kernel, scan.grid
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (0, kernel.noise_px, kernel.noise_px), truncate=3)
    noise /= noise.std()
    y, x = np.ix_(grid.axis(1).astype(np.float32), grid.axis(2).astype(np.float32))
    profile = 0.55 + 0.6 * np.exp(-((x / 110) ** 2) - (y / 80) ** 2)
    return noise * (kernel.noise_hu * (2.0 / (grid.spacing_mm[0] * scan.dose)) ** 0.5 * profile)
