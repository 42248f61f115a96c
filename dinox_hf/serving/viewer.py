"""One visitor's scan, the networks that look at it, and the point that was clicked; knows nothing of a browser."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import RLock

import numpy as np

from ..data.slices import neighbour_indices
from ..data.volume import Volume
from ..evaluation.backbones.features import Backbone
from ..evaluation.maps.body_colours import ColourBasis, body_colours, fit_body_colours, in_body
from .slice_features import EncodingConfig, SliceFeatures, cosine_similarity, encode_slice

PIXEL_MM = 0.8  # to which slices are resampled: close to the pixels of chest CT
NUM_BEST = 5  # slices offered to jump to
APART_MM = 10.0  # between them, and from the point: what touches is the same structure
_FEATURES_MB = 1500  # of each network; beyond them only single slices are encoded


@dataclass(frozen=True)
class Point:
    """A voxel that was clicked."""

    slice: int
    row: int
    column: int


@dataclass(frozen=True)
class Match:
    """The patch of a slice that is most like the point's."""

    value: float  # cosine
    row_px: float  # its middle, in pixels of the scan
    column_px: float


@dataclass
class Look:
    """What one network has seen of the scan so far."""

    name: str
    backbone: Backbone
    features: dict[int, SliceFeatures] = field(default_factory=dict)  # by slice; tokens in half precision
    basis: ColourBasis | None = None  # of the colours
    matches: dict[int, Match] = field(default_factory=dict)  # by slice, of the present point
    in_point_slice: np.ndarray | None = None  # cosines of the body in the point's slice, for the scale
    is_air: bool = False  # whether the point lies in air outside the body: then air is compared too
    seconds: list[float] = field(default_factory=list)  # that slices took

    seed: np.ndarray | None = None  # (D,) token of the point

    def similarity(self, index: int) -> np.ndarray:
        """(rows, columns) cosine of a slice's tokens with the point's; patches of bare air count as opposite, -1."""
        found = self.features[index]
        cosine = cosine_similarity(found.tokens.astype(np.float32), self.seed)
        return np.where(in_body(found.mean_hu) | self.is_air, cosine, -1)

    def aim(self, point: Point) -> None:
        """Compare with the token at this point from now on; its slice is encoded."""
        found = self.features[point.slice]
        patch = found.grid.patch_of(point.row, point.column)
        self.seed, self.is_air = found.tokens[patch].astype(np.float32), not in_body(found.mean_hu[patch])
        similarity = self.similarity(point.slice)
        self.in_point_slice = similarity[similarity > -1]
        self.matches.clear()
        for index in list(self.features):
            self.match(index)

    def low(self, share: float) -> float:
        """The cosine that this share of the body in the point's slice exceeds: where the scale begins."""
        return float(np.quantile(self.in_point_slice, 1 - share))

    def match(self, index: int) -> Match:
        """The best patch of an encoded slice; remembered until the point moves."""
        if index not in self.matches:
            similarity, grid = self.similarity(index), self.features[index].grid
            row, column = np.unravel_index(similarity.argmax(), similarity.shape)
            middle = ((place + 0.5) * px - 0.5 for place, px in zip((row, column), grid.patch_px, strict=True))
            self.matches[index] = Match(float(similarity[row, column]), *map(float, middle))
        return self.matches[index]


class Viewer:
    """A scan on its light box.

    Args:
        volume: the scan, CT in HU.
        title: what the visitor calls it; no identifier of a patient.
        networks: name and backbone of each, at least one.
        pixel_mm: size of a pixel to which slices are resampled for the networks.
    """

    def __init__(
        self, volume: Volume, title: str, networks: list[tuple[str, Backbone]], pixel_mm: float = PIXEL_MM
    ) -> None:
        self.volume, self.title, self.pixel_mm = volume, title, pixel_mm
        self.looks = [Look(name, backbone) for name, backbone in networks]
        self.point: Point | None = None
        self.slice = len(volume.voxels) // 2
        self._stopped, self._is_comparing = False, False
        self._lock = RLock()

    @property
    def num_slices(self) -> int:
        """Length of the scan."""
        return len(self.volume.voxels)

    def go_to(self, index: int) -> None:
        """Show a slice, the nearest one there is."""
        self.slice = int(np.clip(index, 0, self.num_slices - 1))

    def click(self, row: float, column: float) -> None:
        """Choose a point of the slice that is shown, and compare everything that is encoded with it.

        Args:
            row: in pixels of the scan, a pixel's index being its middle; the nearest pixel is taken.
            column: the same.
        """
        rows, columns = self.volume.voxels.shape[1:]
        point = Point(self.slice, round(np.clip(row, 0, rows - 1)), round(np.clip(column, 0, columns - 1)))
        with self._lock:
            self.encode(point.slice)
            for look in self.looks:
                look.aim(point)
            self.point = point

    def encode(self, index: int, with_attention: bool = False) -> None:
        """Have every network look at a slice, unless it has."""
        for look in self.looks:
            with self._lock:
                known = look.features.get(index)
                if known is None or (with_attention and known.attention is None):
                    look.features[index] = self._look_at(look, index, with_attention)
                if look.seed is not None:
                    look.match(index)

    def encode_all(self, most_seconds: float) -> Iterator[int]:
        """Have every network look at all slices, coarse steps first, until done, out of time or stopped.

        A second call while one goes on ends at once.

        Yields:
            After each slice, how many are encoded.
        """
        if self._is_comparing:
            return
        self._stopped, self._is_comparing, end = False, True, time.monotonic() + most_seconds
        try:
            for index in coarse_to_fine(self.num_slices):
                if self._stopped or time.monotonic() > end or self._is_full():
                    return
                if any(index not in look.features for look in self.looks):
                    self.encode(index)
                    yield self.num_encoded
            with self._lock:
                # Now there is more to fit them on.
                for look in self.looks:
                    look.basis = self._fit_basis(look)
        finally:
            self._is_comparing = False

    def stop(self) -> None:
        """End `encode_all` after the slice that it is at."""
        self._stopped = True

    @property
    def num_encoded(self) -> int:
        """Slices that every network has looked at."""
        return sum(all(index in look.features for look in self.looks) for index in range(self.num_slices))

    def seconds_per_slice(self) -> float | None:
        """What a slice takes for all networks together, the median so far; None before the first."""
        if not all(look.seconds for look in self.looks):
            return None
        return float(sum(np.median(look.seconds) for look in self.looks))

    def colours(self, look: Look, index: int) -> np.ndarray:
        """(rows, columns, 3) components of an encoded slice, one basis for the whole scan; air is black."""
        if look.basis is None:
            look.basis = self._fit_basis(look)
        found = look.features[index]
        return body_colours(found.tokens.astype(np.float32), found.mean_hu, look.basis)

    def profile(self, look: Look) -> list[float | None]:
        """For each slice the cosine of its best patch with the point; None where it is not known."""
        values = [look.matches.get(index) for index in range(self.num_slices)]
        return [None if match is None else match.value for match in values]

    def best_slices(self, look: Look) -> list[int]:
        """Slices with what is most like the point, apart from the point and from each other, best first."""
        if self.point is None:
            return []
        z_mm, chosen = self.volume.z_mm, [self.point.slice]
        for index in sorted(look.matches, key=lambda index: -look.matches[index].value):
            if all(abs(z_mm[index] - z_mm[other]) >= APART_MM for other in chosen):
                chosen.append(index)
        return chosen[1 : 1 + NUM_BEST]

    def position_mm(self, point: Point) -> tuple[float, float, float]:
        """(x, y, z) of a point in the patient, LPS."""
        return tuple((self.volume.affine_lps @ [point.column, point.row, point.slice, 1])[:3].tolist())

    def _look_at(self, look: Look, index: int, with_attention: bool) -> SliceFeatures:
        begin = time.monotonic()
        volume, processor = self.volume, look.backbone.processor
        below, above = neighbour_indices(index, self.num_slices)
        around = [index] if processor.channels == "windows" else [below, index, above]
        config = EncodingConfig(pixel_mm=self.pixel_mm)
        found = encode_slice(
            look.backbone, volume.voxels[around], volume.spacing_mm[1:], volume.padding_hu, config, with_attention
        )
        if not with_attention:
            look.seconds.append(time.monotonic() - begin)
        return SliceFeatures(found.grid, found.tokens.astype(np.float16), found.mean_hu, found.attention)

    def _fit_basis(self, look: Look) -> ColourBasis:
        indices = sorted(look.features)
        # Sixteen slices hold more patches than three components need.
        indices = indices[:: max(1, len(indices) // 16)]
        tokens = np.stack([look.features[index].tokens for index in indices]).astype(np.float32)
        return fit_body_colours(tokens, np.stack([look.features[index].mean_hu for index in indices]))

    def _is_full(self) -> bool:
        sizes = [sum(found.tokens.nbytes for found in look.features.values()) for look in self.looks]
        return max(sizes) > _FEATURES_MB * 1_000_000


def coarse_to_fine(count: int) -> list[int]:
    """All numbers below `count`, evenly spread ones first: every 16th, then those between, and so on."""
    order: dict[int, None] = {}
    for step in (16, 8, 4, 2, 1):
        order.update(dict.fromkeys(range(step // 2, count, step)))
    return list(order)
