"""Pictures of a whole scan on its own voxels: what is alike to a point, and principal components as colours."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..evaluation.maps.body_colours import body_colours, fit_body_colours, in_body
from .nifti import nifti_slices
from .slice_features import cosine_similarity
from .volume_features import VolumeFeatures

_MOST_SAMPLES = 8192  # tokens that the components are fitted on, whatever the length of the scan
_SLICES_SAMPLED = 64
_COSINE_STEP = 1e-4  # of the 16-bit numbers on disk


def similarity_from(
    features: VolumeFeatures,
    point_mm: tuple[float, float, float] | None = None,
    voxel: tuple[float, float, float] | None = None,
) -> np.ndarray:
    """How much every patch of a scan is like the patch at one point: the cosine of their tokens.

    Args:
        features: of the scan.
        point_mm: (x, y, z) in the patient's millimetres, LPS, as DICOM has them.
        voxel: instead, index (z, y, x) of the scan.

    Returns:
        (Z, rows, columns) float32 in [-1, 1]; 1 at the point.

    Raises:
        ValueError: if not exactly one of the two is given, or it is outside the scan.
    """
    if (point_mm is None) == (voxel is None):
        raise ValueError(
            f"A point is given either as point_mm (x, y, z) or as voxel (z, y, x); found point_mm={point_mm} and "
            f"voxel={voxel}. Give one of them."
        )
    z, row, column = features.patch_at(features.voxel_at(point_mm) if voxel is None else voxel)
    seed = features[z].tokens[row, column]
    similarity = np.empty(features.shape[:3], dtype=np.float32)
    for index in range(len(features)):
        similarity[index] = cosine_similarity(features[index].tokens, seed)
    return similarity


def write_similarity(features: VolumeFeatures, similarity: np.ndarray, path: str | Path) -> None:
    """Write a similarity volume as NIfTI on the voxels of the scan, bilinear between the middles of patches.

    Args:
        features: of the scan.
        similarity: of `similarity_from`.
        path: ends in .nii or .nii.gz. Numbers are kept to 0.0001.
    """
    with nifti_slices(path, features.scan_shape, features.scan_affine_lps, "int16", _COSINE_STEP) as file:
        for values in similarity:
            file.write(np.rint(features.grid.on_slice(values) / _COSINE_STEP))


def write_colours(features: VolumeFeatures, path: str | Path) -> None:
    """Write the colours of a scan as NIfTI of RGB voxels, on the voxels of the scan.

    Args:
        features: of the scan.
        path: ends in .nii or .nii.gz.
    """
    with nifti_slices(path, features.scan_shape, features.scan_affine_lps, "rgb") as file:
        for colours in colour_slices(features):
            file.write(np.rint(255 * colours))


def colour_slices(features: VolumeFeatures) -> Iterator[np.ndarray]:
    """First three principal components of the tokens inside the body as red, green and blue; air is black.

    Components are fitted on tokens of evenly spaced slices, at most 8192 of them, and applied slice by slice; their
    signs are fixed, so the same features give the same colours.

    Yields:
        (H, W, 3) float32 in [0, 1] for every slice, from the feet.
    """
    basis = fit_body_colours(*_sample(features))
    for index in range(len(features)):
        found = features[index]
        yield found.on_slice(body_colours(found.tokens, found.mean_hu, basis)).clip(0, 1)


def _sample(features: VolumeFeatures) -> tuple[np.ndarray, np.ndarray]:
    """(M, D) tokens of patches spread over the body, and their (M,) mean HU."""
    chosen = np.unique(np.linspace(0, len(features) - 1, min(_SLICES_SAMPLED, len(features))).round().astype(int))
    share = _MOST_SAMPLES // len(chosen)
    rng = np.random.default_rng(0)
    tokens, mean_hu = [], []
    for index in chosen:
        found = features[int(index)]
        candidates = np.flatnonzero(in_body(found.mean_hu))
        candidates = candidates if len(candidates) else np.arange(found.mean_hu.size)
        drawn = np.sort(rng.choice(candidates, min(share, len(candidates)), replace=False))
        tokens.append(found.tokens.reshape(-1, found.tokens.shape[-1])[drawn])
        mean_hu.append(found.mean_hu.ravel()[drawn])
    return np.concatenate(tokens), np.concatenate(mean_hu)
