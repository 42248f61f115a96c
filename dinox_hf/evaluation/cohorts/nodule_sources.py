"""Labelled nodules from a built set of whole slices or from one file of patches: an evaluation asks both the same."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ...data.sources.lidc_patches import NodulePatches, read_patches
from ..probes.collapse import sample_fields
from .nodules import Field, Nodule, ScanSet, cut_field, cut_nodules, read_nodules

PATCHES_SUFFIX = ".npz"


@dataclass(frozen=True)
class NoduleTable:
    """What is known of each of n nodules without its pixels, in one order."""

    nodule_ids: np.ndarray  # (n,) text
    series_ids: np.ndarray  # (n,)
    patient_ids: np.ndarray  # (n,)
    diameter_mm: np.ndarray  # (n,) of the circle with the nodule's area
    ratings: dict[str, list[list[int]]]  # by characteristic, then nodule: of every reader who gave one

    def __len__(self) -> int:
        return len(self.nodule_ids)


class NoduleSource(Protocol):
    """What an evaluation asks of a collection of labelled nodules."""

    name: str  # without a path: reports travel
    fingerprint: str  # of the pixels
    table: NoduleTable
    has_outlines: bool  # masks are the readers' outlines, not discs of the nodule's size

    def fields(
        self, field_mm: float, size_px: int, channels: str, shifts: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A square around every nodule and the mask in it: arguments and shapes as of `nodules.cut_nodules`."""

    def surroundings(self, index: int, channels: str) -> tuple[np.ndarray, tuple[float, float], int | None]:
        """All that there is around a nodule: (C, H, W) int16 HU, mm per pixel (y, x), and the fill stored in it."""

    def sampled_slices(
        self, max_slices: int, field_mm: float, size_px: int, channels: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Fields of evenly spaced slices as of `collapse.sample_fields`; None where there are no whole slices."""

    def widest_shifted_mm(self) -> float:
        """Side of the widest field that, moved by a quarter of itself, still lies inside every image."""

    def without(self, patient_ids: Iterable[str]) -> "NoduleSource":
        """The same without some patients; ValueError if none is left."""

    def counts(self) -> dict[str, dict[str, int]]:
        """By split: `num_nodules`, `num_patients`, and `num_slices` where there are slices."""


def open_source(place: str | Path) -> NoduleSource:
    """A built set, an npz of patches, or a folder that holds one such npz.

    Raises:
        ValueError: if it is none of them, holds several npz, or has no nodules.
    """
    place = Path(place)
    files = sorted(place.glob(f"*{PATCHES_SUFFIX}")) if place.is_dir() else []
    if place.suffix.lower() == PATCHES_SUFFIX:
        return PatchSource.read(place)
    if not files or (place / "slices").is_dir():
        return SetSource.open(place)
    if len(files) > 1:
        raise ValueError(
            f"Expected one npz of nodule patches in {place}; found {len(files)}: "
            f"{', '.join(file.name for file in files)}. Name the file itself with --data={files[0]}."
        )
    return PatchSource.read(files[0])


@dataclass(frozen=True, eq=False)
class SetSource(NoduleSource):
    """Nodules of a built set; see `NoduleSource`."""

    scans: ScanSet
    nodules: list[Nodule]
    left_out: frozenset[str] = frozenset()  # patients
    has_outlines = True

    @classmethod
    def open(cls, folder: Path) -> "SetSource":
        """Read a built set; ValueError if it is none, or has no nodules."""
        return cls(ScanSet(folder), read_nodules(folder))

    @property
    def name(self) -> str:
        """As `NoduleSource` says."""
        return self.scans.folder.name

    @property
    def fingerprint(self) -> str:
        """As `NoduleSource` says."""
        return self.scans.fingerprint

    @property
    def table(self) -> NoduleTable:
        """As `NoduleSource` says."""
        return NoduleTable(
            nodule_ids=np.array([nodule.nodule_id for nodule in self.nodules]),
            series_ids=np.array([nodule.series_id for nodule in self.nodules]),
            patient_ids=np.array([nodule.patient_id for nodule in self.nodules]),
            diameter_mm=np.array([nodule.diameter_mm for nodule in self.nodules]),
            ratings={name: [nodule.ratings[name] for nodule in self.nodules] for name in self.nodules[0].ratings},
        )

    def fields(self, field_mm, size_px, channels, shifts=None):
        """As `NoduleSource` says."""
        return cut_nodules(self.scans, self.nodules, field_mm, size_px, channels, shifts)

    def surroundings(self, index, channels):
        """As `NoduleSource` says."""
        slices, row = self.scans.slice_of(self.nodules[index])
        pixels = slices.neighbours(row) if channels == "neighbours" else slices.pixels(row)[None]
        return pixels, slices.spacing_mm(row)[1:], slices.padding_hu(row)

    def sampled_slices(self, max_slices, field_mm, size_px, channels):
        """As `NoduleSource` says."""
        return sample_fields(self.scans, max_slices, field_mm, size_px, channels, without=self.left_out)

    def widest_shifted_mm(self):
        """As `NoduleSource` says."""
        return np.inf  # a slice ends where the body does

    def without(self, patient_ids):
        """As `NoduleSource` says."""
        left_out = frozenset(patient_ids)
        nodules = [nodule for nodule in self.nodules if nodule.patient_id not in left_out]
        _refuse_none_left(len(nodules), self.name)
        return replace(self, nodules=nodules, left_out=left_out)

    def counts(self):
        """As `NoduleSource` says."""
        found = {}
        for name, slices in self.scans.splits.items():
            rows = [row for row in range(len(slices)) if slices.patient_id(row) not in self.left_out]
            found[name] = {
                "num_slices": len(rows),
                "num_nodules": sum(nodule.split == name for nodule in self.nodules),
                "num_patients": len({slices.patient_id(row) for row in rows}),
            }
        return found


@dataclass(frozen=True, eq=False)
class PatchSource(NoduleSource):
    """Nodules of one npz of patches, each in the middle of its own; see `NoduleSource`."""

    name: str
    patches: NodulePatches
    has_outlines = False

    @classmethod
    def read(cls, path: Path) -> "PatchSource":
        """Read the npz; ValueError as of `read_patches`."""
        return cls(path.name, read_patches(path))

    @property
    def fingerprint(self) -> str:
        """As `NoduleSource` says."""
        return self.patches.digest

    @property
    def table(self) -> NoduleTable:
        """As `NoduleSource` says."""
        patches = self.patches
        return NoduleTable(
            nodule_ids=patches.nodule_ids,
            series_ids=patches.series_ids,
            patient_ids=patches.patient_ids,
            diameter_mm=patches.diameter_mm,
            ratings=patches.ratings,
        )

    def fields(self, field_mm, size_px, channels, shifts=None):
        """As `NoduleSource` says."""
        shifts = np.zeros((len(self.patches), 2)) if shifts is None else shifts
        return cut_patches(self.patches, field_mm, size_px, channels, shifts), self._discs(field_mm, size_px, shifts)

    def surroundings(self, index, channels):
        """As `NoduleSource` says."""
        side_mm = float(self.patches.pixel_mm[index])
        return _channels(self.patches, index, channels), (side_mm, side_mm), self.patches.padding_hu(index)

    def sampled_slices(self, max_slices, field_mm, size_px, channels):
        """As `NoduleSource` says."""
        return None

    def widest_shifted_mm(self):
        """As `NoduleSource` says."""
        return float(self.patches.pixels_hu.shape[1] * self.patches.pixel_mm.min() / 1.5)

    def without(self, patient_ids):
        """As `NoduleSource` says."""
        kept = np.flatnonzero(~np.isin(self.patches.patient_ids, sorted(patient_ids)))
        _refuse_none_left(len(kept), self.name)
        return replace(self, patches=self.patches.take(kept))

    def counts(self):
        """As `NoduleSource` says."""
        return {"all": {"num_nodules": len(self.patches), "num_patients": len(np.unique(self.patches.patient_ids))}}

    def _discs(self, field_mm: float, size_px: int, shifts: np.ndarray) -> np.ndarray:
        """(n, size_px, size_px) bool: a disc of the nodule's area, never empty."""
        axis = ((np.arange(size_px) + 0.5) / size_px - 0.5) * field_mm  # mm off the middle of the field
        y = axis[None, :, None] + shifts[:, :1, None] * field_mm
        x = axis[None, None, :] + shifts[:, 1:, None] * field_mm
        distance_mm = np.hypot(y, x)
        nearest = distance_mm.min(axis=(1, 2))
        return distance_mm <= np.maximum(self.patches.diameter_mm / 2, nearest)[:, None, None]


def cut_patches(
    patches: NodulePatches, field_mm: float, size_px: int, channels: str = "windows", shifts: np.ndarray | None = None
) -> np.ndarray:
    """The square of millimetres around each nodule: (N, C, size_px, size_px) float32 HU.

    Beyond the patch there is air. For a network of neighbouring slices the one slice stands for all three.
    """
    middle, fields_hu = patches.pixels_hu.shape[1] / 2, []
    for index in range(len(patches)):
        field = Field((middle, middle), (field_mm / patches.pixel_mm[index],) * 2)
        field = field if shifts is None else field.moved(shifts[index])
        pixels_hu = _channels(patches, index, channels)
        fields_hu.append(cut_field(pixels_hu, field, size_px, patches.padding_hu(index)))
    return np.stack(fields_hu)


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """Sixteen hex digits that name what the arrays hold."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _channels(patches: NodulePatches, index: int, channels: str) -> np.ndarray:
    return patches.pixels_hu[index : index + 1].repeat(3 if channels == "neighbours" else 1, axis=0)


def _refuse_none_left(num: int, name: str) -> None:
    if not num:
        raise ValueError(
            f"Expected nodules of patients that pretraining has not seen in {name}; found none. Name a set of other "
            f"patients with --data, or leave --unseen-only out: the report then says who was seen."
        )
