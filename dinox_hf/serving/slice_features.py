"""What a backbone sees in one slice: a token for every patch, where its CLS token looks, and what is alike."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..evaluation.backbones.features import Backbone
from ..evaluation.maps.body_colours import body_colours, fit_body_colours
from .patch_grid import PatchGrid, make_grid, tile_starts

MOST_PATCHES = 4096  # of one forward pass: a whole slice of 512 pixels in patches of 8
_PATCHES_PER_BATCH = 16384  # keeps a batch near 100 MB for a ViT-S


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How finely a slice is looked at, and how much of it at once."""

    # The size to which pixels are resampled; half of it shows twice as many patches a side. None: those of the scan.
    pixel_mm: float | None = None
    tile_px: int | None = None  # side of a tile in these pixels; None: the whole slice, tiles where it is too large
    overlap: float = 0.25  # the least share of a tile that its neighbour sees too; their tokens are averaged there
    # Distance of the slices below and above, where they are channels. None: the adjacent ones.
    neighbour_mm: float | None = None

    def __post_init__(self) -> None:
        for name in ("pixel_mm", "tile_px", "neighbour_mm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be > 0; found {value}. Leave it out for the default.")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap must be from 0 to below 1, a share of a tile; found {self.overlap}.")


@dataclass(frozen=True)
class SliceFeatures:
    """Tokens of one slice on its patch grid."""

    grid: PatchGrid
    tokens: np.ndarray  # (rows, columns, D) float32, after the final norm
    mean_hu: np.ndarray  # (rows, columns) float32, of the pixels of a patch
    attention: np.ndarray | None = None  # (heads, rows, columns) float32, of the CLS token in the last layer

    def similarity(self, row_px: float, column_px: float) -> np.ndarray:
        """(rows, columns) cosine of every token with that of the patch at a point of the slice.

        Raises:
            ValueError: if the point is outside the slice.
        """
        return cosine_similarity(self.tokens, self.tokens[self.grid.patch_of(row_px, column_px)])

    def colours(self) -> np.ndarray:
        """(rows, columns, 3) first three principal components of this slice's body in [0, 1]; air is black."""
        return body_colours(self.tokens, self.mean_hu, fit_body_colours(self.tokens, self.mean_hu))

    def on_slice(self, values: np.ndarray) -> np.ndarray:
        """(rows, columns) or (rows, columns, C) values of patches at every pixel, bilinear: (H, W) or (H, W, C)."""
        return self.grid.on_slice(values)


def encode_slice(
    backbone: Backbone,
    slices_hu: np.ndarray,
    spacing_yx_mm: tuple[float, float],
    padding_hu: int | None = None,
    config: EncodingConfig | None = None,
    with_attention: bool = False,
) -> SliceFeatures:
    """Tokens of a slice in HU, through the windows that the backbone was trained with.

    Args:
        backbone: the network and its processor.
        slices_hu: (H, W) or (1, H, W) int16 HU; (3, H, W) with the slices below and above, for a backbone that was
            trained with neighbours.
        spacing_yx_mm: size of a pixel, (y, x).
        padding_hu: the fill outside the scanner's field of view, as stored; None if there is none.
        config: resolution and tiles.
        with_attention: also look where the CLS token looks, which takes a second pass. Of tiles, where each tile's
            own CLS token looks.

    Raises:
        ValueError: if the slices are not as the backbone takes them, or its tokens are no numbers.
    """
    config = config or EncodingConfig()
    slices_hu = _checked(backbone, slices_hu)
    grid = make_grid(slices_hu.shape[1:], spacing_yx_mm, backbone.patch_size, config.pixel_mm)
    canvas = grid.canvas(slices_hu, padding_hu)
    stitched = _Stitched(grid.shape)
    attention = _Stitched(grid.shape)
    pixel_mm = tuple(mm * px / grid.patch_size for mm, px in zip(spacing_yx_mm, grid.patch_px, strict=True))
    with torch.inference_mode():
        for places, inputs in _tiles(backbone, grid, canvas, config, pixel_mm):
            shape = tuple(size // grid.patch_size for size in inputs["pixel_values"].shape[-2:])
            first_patch = 1 + backbone.model.config.num_register_tokens
            tokens = backbone.model(**inputs).last_hidden_state[:, first_patch:]
            stitched.add(places, tokens.unflatten(1, shape))
            if with_attention:
                rows = backbone.model.cls_attention_rows(**inputs)[-1][:, :, 0, first_patch:]
                attention.add(places, rows.mT.unflatten(1, shape))
    tokens = stitched.mean()
    if not np.isfinite(tokens).all():
        raise ValueError(
            "Tokens of a backbone should be finite numbers; found others. Its weights are damaged, or its training "
            "went astray: take an earlier checkpoint."
        )
    return SliceFeatures(
        grid,
        tokens,
        grid.mean_of_patches(canvas[len(canvas) // 2]),
        np.moveaxis(attention.mean(), -1, 0) if with_attention else None,
    )


def cosine_similarity(tokens: np.ndarray, seed: np.ndarray) -> np.ndarray:
    """(…, D) tokens and one (D,) to (…) float32 in [-1, 1]."""
    norms = np.linalg.norm(tokens, axis=-1) * np.linalg.norm(seed)
    return np.clip(tokens @ seed / np.maximum(norms, 1e-12), -1, 1)


class _Stitched:
    """The mean of maps that overlap, added tile by tile."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape, self._sum, self._count = shape, None, np.zeros((*shape, 1), dtype=np.float32)

    def add(self, places: list[tuple[int, int]], tiles: Tensor) -> None:
        """Add (n, rows, columns, D) tiles whose first patches lie at n places."""
        tiles = tiles.float().cpu().numpy()
        if self._sum is None:
            self._sum = np.zeros((*self._shape, tiles.shape[-1]), dtype=np.float32)
        for (row, column), tile in zip(places, tiles, strict=True):
            where = np.s_[row : row + tile.shape[0], column : column + tile.shape[1]]
            self._sum[where] += tile
            self._count[where] += 1

    def mean(self) -> np.ndarray:
        return self._sum / self._count


def _tiles(
    backbone: Backbone, grid: PatchGrid, canvas: np.ndarray, config: EncodingConfig, pixel_mm: tuple[float, float]
) -> Iterator[tuple[list[tuple[int, int]], dict[str, Tensor]]]:
    """Batches of tiles: the row and column of their first patches, and the network's input."""
    patch = grid.patch_size
    sides = _tile_sides(grid, config)
    starts = [tile_starts(count, side, config.overlap) for count, side in zip(grid.shape, sides, strict=True)]
    places = [(row, column) for row in starts[0] for column in starts[1]]
    height, width = (side * patch for side in sides)
    batch_size = max(1, _PATCHES_PER_BATCH // (sides[0] * sides[1]))
    for start in range(0, len(places), batch_size):
        batch = places[start : start + batch_size]
        images = [canvas[:, r * patch : r * patch + height, c * patch : c * patch + width] for r, c in batch]
        # The canvas has its resolution already, and padding became air: the processor windows and normalises.
        inputs = backbone.processor(images, do_resize=False, spacing_mm=pixel_mm, padding_hu=None, return_tensors="pt")
        yield batch, {name: tensor.to(backbone.model.device) for name, tensor in inputs.items()}


def _tile_sides(grid: PatchGrid, config: EncodingConfig) -> tuple[int, int]:
    """Rows and columns of patches of one tile."""
    if config.tile_px is not None:
        if config.tile_px % grid.patch_size:
            raise ValueError(
                f"tile_px must be a multiple of the patch size {grid.patch_size}; found {config.tile_px}. "
                f"Take {max(1, round(config.tile_px / grid.patch_size)) * grid.patch_size}."
            )
        side = config.tile_px // grid.patch_size
    elif grid.shape[0] * grid.shape[1] <= MOST_PATCHES:
        return grid.shape
    else:
        side = int(MOST_PATCHES**0.5)
    return tuple(min(side, count) for count in grid.shape)


def _checked(backbone: Backbone, slices_hu: np.ndarray) -> np.ndarray:
    """(C, H, W) slices as the backbone takes them."""
    slices_hu = np.asarray(slices_hu)
    slices_hu = slices_hu[None] if slices_hu.ndim == 2 else slices_hu
    channels = backbone.processor.channels
    expected = 3 if channels == "neighbours" else 1
    if slices_hu.ndim != 3 or len(slices_hu) != expected:
        raise ValueError(
            f"A backbone with channels={channels!r} takes {expected} slice{'s' if expected > 1 else ''} "
            f"({expected}, H, W) in HU; found {tuple(slices_hu.shape)}. ScanSlices.around(index) gives what it takes."
        )
    if slices_hu.dtype != np.int16:
        raise ValueError(
            f"Slices should be int16 HU, as read_series gives them; found {slices_hu.dtype}. If these are HU, convert "
            f"them; windowed pictures are no HU."
        )
    return slices_hu
