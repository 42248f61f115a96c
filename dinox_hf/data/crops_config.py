"""Number, sizes and distortions of the crops that are cut from one slice."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from .expectation import expect


@dataclass(frozen=True, kw_only=True)
class CropSizes:
    """One of several sizes of crops."""

    weight: float = 1.0  # share of the steps, next to the other weights: 3 and 1 are three quarters and one
    global_size: int = 224  # px
    local_size: int = 96  # px
    gram_size: int | None = None  # px

    def __post_init__(self) -> None:
        expect(0 < self.weight < math.inf, "crops.sizes[…].weight", "> 0", self.weight, "leave out a size instead")


@dataclass(frozen=True, kw_only=True)
class CropsConfig:
    """Number, size and distortion of the crops that are cut from one slice.

    Sizes, scales and the three blur probabilities follow the DINOv3 recipe (arXiv:2508.10104). The released code
    inverts its blur probabilities; 0, 0.9 and 0.5 are those that the released weights were really trained with. We
    depart in the strength of the blur: the recipe's sigma reaches 2 px, which wipes out the margin of a small nodule.
    Flips are on, as in the recipe's ImageNet stage; its 7B stages have none.
    """

    global_size: int = 224  # px
    local_size: int = 96  # px
    num_local: int = 8
    gram_size: int | None = None  # px of the gram teacher's crops; null: it sees the global crops themselves
    # Several sizes, of which each step draws one for all processes; the three above are then left out and recorded as
    # those of the first.
    sizes: tuple[CropSizes, ...] = ()
    global_scale: tuple[float, float] = (0.32, 1.0)  # share of the field's area
    local_scale: tuple[float, float] = (0.05, 0.32)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height, in source pixels
    field_mm: float | None = None  # side of the square from which all crops of an example come; null: the whole slice
    # The side of the field is stretched by a log-uniform factor in [1/zoom_jitter, zoom_jitter], one for all crops of
    # an example: pixels and their millimetres change together, in both views. Scales already do so for each crop, but
    # below the field only, and a field of `field_mm` has one size for all patients. null: no zoom.
    zoom_jitter: float | None = None
    # A field is looked for of which this share lies in this range of HU. The default asks for half of it to be body:
    # air outside is -1000 HU give or take the noise, healthy lung begins near -900.
    field_hu: tuple[float, float] = (-950.0, 3071.0)
    field_share: tuple[float, float] = (0.5, 1.0)
    horizontal_flip: float = 0.5  # probability, each crop on its own
    blur_probability: tuple[float, float, float] = (0.0, 0.9, 0.5)  # of global crop 0, global crop 1, local crops
    blur_sigma: tuple[float, float] = (0.1, 1.0)  # px of the crop
    # loader: processes of the loader cut. device: they only read slices, and the accelerator cuts, for one that would
    # else wait. Both give the same crops up to rounding.
    cut_on: Literal["loader", "device"] = "loader"

    def __post_init__(self) -> None:
        if self.sizes:
            for name in ("global_size", "local_size", "gram_size"):
                first, found = getattr(self.sizes[0], name), getattr(self, name)
                is_own = found not in (getattr(type(self), name), first)
                expect(not is_own, f"crops.{name}", "left out beside crops.sizes", found, "give one or the other")
                object.__setattr__(self, name, first)
        sizes = [getattr(of, name) for of in self.variants for name in ("global_size", "local_size", "gram_size")]
        smallest = min(size for size in sizes if size is not None)
        expect(smallest >= 8, "the sizes of crops", ">= 8 px", smallest, "the recipe uses 224 and 96")
        expect(self.num_local >= 0, "crops.num_local", ">= 0", self.num_local, "0 trains on global crops only")
        low, high = self.field_hu
        expect(low < high, "crops.field_hu", "low < high", (low, high), "lung is [-950, -500]")
        low, high = self.field_share
        expect(0 <= low <= high <= 1, "crops.field_share", "0 <= low <= high <= 1", (low, high), "shares of its area")
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            expect(0 < low <= high <= 1, f"crops.{name}", "0 < low <= high <= 1", (low, high), "shares of the area")
        low, high = self.aspect_ratio
        expect(0 < low <= high, "crops.aspect_ratio", "0 < low <= high", (low, high), "the recipe uses 3/4 to 4/3")
        low, high = self.blur_sigma
        expect(0 < low <= high, "crops.blur_sigma", "0 < low <= high", (low, high), "blur_probability 0 means none")
        for probability in (self.horizontal_flip, *self.blur_probability):
            expect(0 <= probability <= 1, "a probability of crops", "between 0 and 1", probability, "0 means never")
        if self.field_mm is not None:
            expect(self.field_mm > 0, "crops.field_mm", "> 0 mm", self.field_mm, "null takes the whole slice")
        if self.zoom_jitter is not None:
            hint = "1.25 stretches by 0.8 to 1.25; null does not"
            expect(1 <= self.zoom_jitter < math.inf, "crops.zoom_jitter", ">= 1", self.zoom_jitter, hint)
            hint = "a whole slice cannot be widened; name the side of the field, or leave the zoom out"
            expect(self.field_mm is not None, "crops.field_mm", "given with crops.zoom_jitter", self.field_mm, hint)

    @property
    def variants(self) -> tuple["CropsConfig", ...]:
        """One configuration for each of `sizes`, or this one where there is one size."""
        if not self.sizes:
            return (self,)
        return tuple(
            replace(self, global_size=of.global_size, local_size=of.local_size, gram_size=of.gram_size, sizes=())
            for of in self.sizes
        )
