"""Localisation of nodules by maps on the patch grid: what is chosen on some patients is scored on others."""

from dataclasses import fields
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from ...data.leaks import check_no_leak
from ...metrics.localisation import LocalisationScores, above_chance, score_maps
from ..cohorts.splits import patient_resamples
from ..probes.linear_probe import interval

DIAMETER_BINS_MM = ((0, 6), (6, 10), (10, 14), (14, float("inf")))
_SCORES = [field.name for field in fields(LocalisationScores)]
Scores = TypeVar("Scores")
_CENTRE_PRIOR_SIGMA = 0.25  # of the side of the field


def shifts_off_centre(num_nodules: int, seed: int = 0) -> np.ndarray:
    """How far each field moves off its nodule, in sides of the field: uniform up to a quarter, (N, 2).

    A field centred on its nodule would reward every map that favours the middle.
    """
    return np.random.default_rng(seed).uniform(-0.25, 0.25, (num_nodules, 2))


def upsampled(maps: np.ndarray, size_px: int) -> np.ndarray:
    """(N, rows, columns) on the patch grid to (N, size_px, size_px), bilinear."""
    maps = torch.from_numpy(maps)[:, None].float()
    return F.interpolate(maps, size=(size_px, size_px), mode="bilinear", align_corners=False)[:, 0].numpy()


def centre_prior(num_nodules: int, size_px: int) -> np.ndarray:
    """A map that knows nothing but the middle: a Gaussian with a quarter of the field as standard deviation."""
    axis = (np.arange(size_px) + 0.5) / size_px - 0.5
    profile = np.exp(-0.5 * (axis / _CENTRE_PRIOR_SIGMA) ** 2)
    return np.broadcast_to(np.outer(profile, profile), (num_nodules, size_px, size_px))


def score_mean_of_heads(attention: np.ndarray, masks: np.ndarray) -> LocalisationScores:
    """Scores of the average head.

    Args:
        attention: (N, heads, rows, columns) on the patch grid.
        masks: (N, size, size) bool.
    """
    return score_maps(upsampled(attention.mean(axis=1), masks.shape[-1]), masks)


def halves(patient_ids: np.ndarray) -> np.ndarray:
    """(N,) 0 or 1: into which half of the patients each nodule falls; with one patient there is one half."""
    half = np.unique(patient_ids, return_inverse=True)[1] % 2
    check_no_leak(half, patient_ids, of="the halves")
    return half


def score_best_head(attention: np.ndarray, masks: np.ndarray, patient_ids: np.ndarray) -> LocalisationScores:
    """Scores of the head with the best AUPRC on the other half of the patients.

    Each half is scored with the head chosen on the other, so that no nodule helped to choose the head that it is
    scored with. Needs two patients.
    """
    half = halves(patient_ids)
    by_head = [score_maps(upsampled(head, masks.shape[-1]), masks) for head in np.moveaxis(attention, 1, 0)]
    chosen = np.empty(len(masks), dtype=int)
    for side in (0, 1):
        chosen[half == side] = np.argmax([scores.auprc[half != side].mean() for scores in by_head])
    rows = np.arange(len(masks))
    return LocalisationScores(
        *(np.stack([getattr(scores, name) for scores in by_head])[chosen, rows] for name in _SCORES)
    )


def patch_shares(masks: np.ndarray, side: int) -> np.ndarray:
    """(N, size, size) bool to (N, side, side): which share of each patch lies inside."""
    patch = masks.shape[-1] // side
    return masks.reshape(len(masks), side, patch, side, patch).mean(axis=(2, 4))


def patch_masks(masks: np.ndarray, side: int) -> np.ndarray:
    """(N, size, size) bool to (N, side, side) bool: patches at least half inside, or else the fullest; never empty."""
    shares = patch_shares(masks, side)
    return shares >= np.minimum(0.5, shares.max(axis=(1, 2), keepdims=True))


def non_negative(maps: np.ndarray) -> np.ndarray:
    """Maps of any sign as heat: each less its least value; a flat map becomes flat heat."""
    heat = maps - maps.min(axis=(1, 2), keepdims=True)
    return np.where(heat.max(axis=(1, 2), keepdims=True) > 0, heat, 1)


def score_signed(maps: np.ndarray, masks: np.ndarray) -> LocalisationScores:
    """Scores of maps of any sign, (N, rows, columns) on the patch grid; see `non_negative`."""
    return score_maps(upsampled(non_negative(maps), masks.shape[-1]), masks)


def average(scores: list[Scores]) -> Scores:
    """Nodule by nodule, the mean over several networks; of any dataclass of (N,) arrays."""
    kind = type(scores[0])
    return kind(*(np.mean([getattr(one, field.name) for one in scores], axis=0) for field in fields(kind)))


def summarise(scores: LocalisationScores, patient_ids: np.ndarray, rows: np.ndarray | None = None) -> dict[str, float]:
    """Means over nodules with 95 % intervals by patient, as plain numbers.

    Args:
        scores: of all nodules.
        patient_ids: (N,).
        rows: (N,) bool, the nodules to include; None for all.
    """
    rows = np.ones(len(patient_ids), dtype=bool) if rows is None else rows
    hit, chance = scores.hit[rows], scores.chance[rows]
    resamples = patient_resamples(patient_ids[rows])
    num_drawn = resamples.sum(axis=1)
    mean_hit, mean_chance = resamples @ hit / num_drawn, resamples @ chance / num_drawn
    return {
        "num_nodules": int(rows.sum()),
        "num_patients": len(np.unique(patient_ids[rows])),
        "pointing": float(hit.mean()),
        "chance": float(chance.mean()),
        "above_chance": above_chance(hit, chance),
        "above_chance_interval": interval((mean_hit - mean_chance) / (1 - mean_chance)),
        "iou": float(scores.iou[rows].mean()),
        "dice": float(scores.dice[rows].mean()),
        "auprc": float(scores.auprc[rows].mean()),
        "auprc_interval": interval(resamples @ scores.auprc[rows] / num_drawn),
    }


def paired_gain(
    scores: LocalisationScores, others: LocalisationScores, patient_ids: np.ndarray
) -> dict[str, float | tuple[float, float]]:
    """How much AUPRC one map has over another on the same nodules, with the interval of the paired bootstrap."""
    difference = scores.auprc - others.auprc
    resamples = patient_resamples(patient_ids)
    return {
        "auprc_gain": float(difference.mean()),
        "interval": interval(resamples @ difference / resamples.sum(axis=1)),
    }
