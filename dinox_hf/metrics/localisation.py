"""Does a heat map lie on the object? All scores from one sort of the pixels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LocalisationScores:
    """One value an image, between 0 (missed) and 1 (found)."""

    hit: np.ndarray  # (N,) pointing game: is the brightest pixel on the object? ties count their share
    iou: np.ndarray  # (N,) overlap of the object with the brightest pixels that hold 60 % of the map
    dice: np.ndarray  # (N,) the same overlap as twice the common area over the sum of both
    auprc: np.ndarray  # (N,) area under the precision-recall curve over pixels
    chance: np.ndarray  # (N,) share of the image that the object covers: what a blind map hits


def score_maps(maps: np.ndarray, masks: np.ndarray, mass: float = 0.6) -> LocalisationScores:
    """Compare heat maps with object masks of the same grid.

    Pointing game: Zhang et al., arXiv:1608.00507, without their 15-pixel tolerance. AUPRC is the average precision
    sum over thresholds of (R_n - R_(n-1)) P_n. Pixels of equal value always enter together, so that a flat map
    scores exactly chance whatever the order of its pixels.

    Args:
        maps: (N, H, W) non-negative heat, any scale.
        masks: (N, H, W) bool, at least one pixel each.
        mass: share of the heat that the binarised map holds.

    Raises:
        ValueError: if the shapes differ, a mask is empty, a map is negative, zero everywhere or not finite, or the
            mass is not a share.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"score_maps expects mass above 0 and up to 1; found {mass}. 0.6 is usual.")
    maps, masks = np.asarray(maps), np.asarray(masks, dtype=bool)
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            f"score_maps expects maps and masks of one shape (N, H, W); found {maps.shape} and {masks.shape}. "
            f"Resample the map to the grid of the mask."
        )
    _check_contents(maps, masks)
    num_pixels = maps.shape[1] * maps.shape[2]
    heat = maps.reshape(-1, num_pixels)
    order = np.argsort(-heat, axis=1)
    heat = np.take_along_axis(heat, order, axis=1).astype(np.float64)
    on_object = np.take_along_axis(masks.reshape(-1, num_pixels), order, axis=1)
    tie_end = _last_of_ties(heat)

    rank = np.arange(1, num_pixels + 1)
    found = np.take_along_axis(np.cumsum(on_object, axis=1), tie_end, axis=1)  # object pixels above each threshold
    precision = found / (tie_end + 1)
    num_object = on_object.sum(axis=1)

    share = np.cumsum(heat, axis=1) / heat.sum(axis=1, keepdims=True)
    # A rounding error in the cumulative sum must not push the threshold one pixel further.
    reached = (share >= mass - 1e-12).argmax(axis=1)[:, None]
    inside = np.take_along_axis(found, reached, axis=1)[:, 0]
    num_bright = np.take_along_axis(rank[tie_end], reached, axis=1)[:, 0]
    return LocalisationScores(
        hit=precision[:, 0],
        iou=inside / (num_bright + num_object - inside),
        dice=2 * inside / (num_bright + num_object),
        auprc=(precision * on_object).sum(axis=1) / num_object,
        chance=num_object / num_pixels,
    )


def above_chance(hit: np.ndarray, chance: np.ndarray) -> float:
    """Pointing game corrected for chance: 0 for a blind map, 1 for one that always hits.

        (mean hit - mean chance) / (1 - mean chance)

    Args:
        hit: (N,) hits of `score_maps`.
        chance: (N,) share of each image that its object covers.
    """
    return float((np.mean(hit) - np.mean(chance)) / (1 - np.mean(chance)))


def _check_contents(maps: np.ndarray, masks: np.ndarray) -> None:
    totals = maps.sum(axis=(1, 2))
    bad_maps = np.flatnonzero(~np.isfinite(totals) | (totals <= 0) | (maps.min(axis=(1, 2)) < 0))
    empty_masks = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(bad_maps) or len(empty_masks):
        raise ValueError(
            f"score_maps expects finite, non-negative maps with some heat and masks with at least one pixel; found "
            f"{len(bad_maps)} bad maps (first: {bad_maps[:1]}) and {len(empty_masks)} empty masks "
            f"(first: {empty_masks[:1]}). Leave these images out."
        )


def _last_of_ties(heat: np.ndarray) -> np.ndarray:
    """(N, P) index of the last pixel that is as bright as this one; rows are sorted."""
    is_last = np.ones(heat.shape, dtype=bool)
    is_last[:, :-1] = heat[:, :-1] != heat[:, 1:]
    index = np.where(is_last, np.arange(heat.shape[1]), heat.shape[1])
    return np.minimum.accumulate(index[:, ::-1], axis=1)[:, ::-1]
