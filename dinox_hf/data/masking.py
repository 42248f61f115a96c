"""iBOT masks: whole blocks of patches are hidden, because a single hidden patch can be guessed from its neighbours."""

import math
from dataclasses import dataclass

import numpy as np

from .compiling import compiled

MIN_BLOCK_PATCHES = 4
MIN_ASPECT = 0.3  # rectangles from 0.3 to 1 / 0.3 times as high as wide
MAX_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Which global crops are masked for the iBOT loss, and how much of them."""

    probability: float = 0.5  # share of the global crops that are masked
    ratio: tuple[float, float] = (0.1, 0.5)  # share of patches hidden in a masked crop, from the least to the most

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(
                f"masking.probability must lie in [0, 1]; found {self.probability}. "
                f"It is the share of global crops that are masked; the recipe uses 0.5."
            )
        if len(self.ratio) != 2 or not 0 <= self.ratio[0] <= self.ratio[1] < 1:
            raise ValueError(
                f"masking.ratio must be (least, most) with 0 <= least <= most < 1; found {self.ratio}. "
                f"It is the share of patches hidden in a masked crop; the recipe uses (0.1, 0.5)."
            )


def batch_masks(
    rng: np.random.Generator,
    num_crops: int,
    grid: tuple[int, int],
    mask_probability: float = 0.5,
    mask_ratio_min_max: tuple[float, float] = (0.1, 0.5),
) -> np.ndarray:
    """Draw the masks of all global crops of a batch: some crops stay whole, the others are masked more and more.

    As in DINOv3: of `num_crops`, n = int(num_crops x probability) are masked; the i-th of them hides exactly
    int(N x r_i) patches, r_i the upper end of the i-th of n equal steps from the least to the most ratio. Then they
    are shuffled. So the number of masked patches in a batch never changes, only where they are.

    Args:
        rng: source of all draws.
        num_crops: global crops of the batch, two per image.
        grid: (rows, columns) of patches of a crop, N = rows x columns.
        mask_probability: share of crops that are masked.
        mask_ratio_min_max: least and most share of hidden patches.

    Returns:
        (num_crops, N) bool, True where a patch is hidden, row-major.
    """
    num_patches = grid[0] * grid[1]
    num_masked_crops = int(num_crops * mask_probability)
    ratios = np.linspace(*mask_ratio_min_max, num_masked_crops + 1)[1:]
    masks = np.zeros((num_crops, num_patches), dtype=bool)
    for mask, ratio in zip(masks, ratios, strict=False):
        mask[:] = block_mask(rng, grid, int(num_patches * ratio)).ravel()
    return rng.permutation(masks)


def block_mask(rng: np.random.Generator, grid: tuple[int, int], num_masked: int) -> np.ndarray:
    """Hide exactly `num_masked` patches, in rectangles as far as they fit and then one by one.

    BEiT (arXiv:2106.08254), algorithm 1, as DINOv3 has it: rectangles are added until ten in a row do not fit.

    Args:
        rng: source of all draws.
        grid: (rows, columns) of patches.
        num_masked: patches to hide.

    Returns:
        (rows, columns) bool with exactly `num_masked` True.

    Raises:
        ValueError: if the grid has fewer patches.
    """
    mask = np.zeros(grid, dtype=bool)
    if not 0 <= num_masked <= mask.size:
        raise ValueError(
            f"block_mask expects to hide between 0 and {mask.size} patches of grid {tuple(grid)}; found {num_masked}. "
            f"Lower masking.ratio or enlarge the crop."
        )
    _hide_blocks(rng, mask, num_masked)
    return mask


@compiled
def _hide_blocks(rng, mask, num_masked):
    """Rectangles, then single patches, until `num_masked` of the mask are True."""
    remaining = num_masked
    while remaining > 0:
        added = _add_rectangle(rng, mask, min(remaining, mask.size / 2))
        if added == 0:
            break
        remaining -= added
    patches = mask.reshape(-1)
    whole = np.flatnonzero(~patches)
    for turn in range(remaining):
        # The first places of a shuffle: every choice of patches is as likely as every other.
        pick = turn + int((len(whole) - turn) * rng.random())
        whole[turn], whole[pick] = whole[pick], whole[turn]
        patches[whole[turn]] = True


@compiled
def _add_rectangle(rng, mask, most):
    """Hide one random rectangle that adds 1 to `most` patches; return how many it added, 0 if no try fits."""
    rows, columns = mask.shape
    for _ in range(MAX_TRIES):
        area = MIN_BLOCK_PATCHES + (most - MIN_BLOCK_PATCHES) * rng.random()
        aspect = MIN_ASPECT ** (1 - 2 * rng.random())  # log-uniform
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, left = int((rows - height + 1) * rng.random()), int((columns - width + 1) * rng.random())
        block = mask[top : top + height, left : left + width]
        added = block.size - np.count_nonzero(block)
        if 0 < added <= most:
            block[:] = True
            return added
    return 0
