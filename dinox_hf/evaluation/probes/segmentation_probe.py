"""Segmentation probe: how well one hyperplane in frozen patch tokens outlines the nodules of unseen patients."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ...data.leaks import check_no_leak
from ...metrics.localisation import score_maps
from ...metrics.overlap import dice, iou
from ..cohorts.splits import patient_resamples
from ..maps.localisation import non_negative
from .linear_probe import interval

NUM_FOLDS = 5
PENALTIES = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])  # share of each feature's variance; chosen anew in every fold


@dataclass(frozen=True)
class PatchScores:
    """How the outlines predicted for each of N nodules cover the readers', patch by patch."""

    dice: np.ndarray  # (N,)
    iou: np.ndarray  # (N,)
    auprc: np.ndarray  # (N,) of the scores over the patches of the field


@dataclass(frozen=True)
class _Sums:
    """What least squares needs of some patches: it can be added up and taken away."""

    products: np.ndarray  # (D + 2, D + 2) inner products of the columns [tokens, 1, label]

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.products + other.products)

    def __sub__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.products - other.products)

    def fit(self) -> np.ndarray:
        """(D + 1, penalties) weights and intercept that minimise the squared error on these patches plus a penalty.

        Features count as standardised: the penalty of each is a share of its variance.
        """
        num, products = self.products[-2, -2], self.products
        mean, positive = products[:-2, -2] / num, products[-2, -1] / num
        covariance = products[:-2, :-2] / num - np.outer(mean, mean)
        with_label = products[:-2, -1] / num - mean * positive
        scale = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        values, directions = np.linalg.eigh(covariance / np.outer(scale, scale))
        along = directions.T @ (with_label / scale)
        shrunk = along[:, None] / (np.maximum(values, 0)[:, None] + PENALTIES)
        weights = (directions @ shrunk) / scale[:, None]
        return np.concatenate([weights, (positive - mean @ weights)[None]])

    def squared_error(self, weights: np.ndarray) -> np.ndarray:
        """(penalties,) sum over these patches of the squared difference between score and label."""
        signed = np.concatenate([weights, np.full((1, weights.shape[1]), -1.0)])
        return np.einsum("ip,ij,jp->p", signed, self.products, signed)


def patient_deal(patient_ids: np.ndarray, num_folds: int = NUM_FOLDS, seed: int = 0) -> np.ndarray:
    """Deal patients into folds: (N,) fold number of every nodule.

    Raises:
        ValueError: if there are fewer patients than folds.
    """
    patients, patient_of_nodule = np.unique(patient_ids, return_inverse=True)
    if len(patients) < num_folds:
        raise ValueError(
            f"A segmentation probe needs nodules of at least {num_folds} patients, one for each fold; found "
            f"{len(patients)}. Add scans with outlines."
        )
    folds = (np.random.default_rng(seed).permutation(len(patients)) % num_folds)[patient_of_nodule]
    check_no_leak(folds, patient_ids, of="these folds")
    return folds


def predict_patches(tokens: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict every nodule's patches from other patients'.

    Least squares on the labels 0 and 1, whose direction is Fisher's linear discriminant. Nested cross-validation: for
    each held-out fold, penalty and threshold come from fits that leave out one more fold and score it. The penalty has
    the least squared error there, the threshold the greatest Dice over all patches.

    Args:
        tokens: (N, rows, columns, D) frozen features of patches.
        truth: (N, rows, columns) bool, at least one patch each.
        folds: (N,) of `patient_deal`, at least three.

    Returns:
        (N, rows, columns) scores and (N, rows, columns) bool, which patches are called nodule.

    Raises:
        ValueError: if shapes differ, there are too few folds, or a token is not finite.
    """
    _check(tokens, truth, folds)
    names = np.unique(folds)
    sums = {fold: _sums(tokens[folds == fold], truth[folds == fold]) for fold in names}
    total = sum(list(sums.values())[1:], start=sums[names[0]])
    fits = {(a, b): (total - sums[a] - sums[b]).fit() for a in names for b in names if a < b}
    scores, called = np.empty(truth.shape), np.empty(truth.shape, dtype=bool)
    for held_out in names:
        others = [fold for fold in names if fold != held_out]
        inner = {fold: fits[min(held_out, fold), max(held_out, fold)] for fold in others}
        chosen = sum(sums[fold].squared_error(inner[fold]) for fold in others).argmin()
        inner_scores = [_apply(tokens[folds == fold], inner[fold][:, chosen]) for fold in others]
        inner_truth = [truth[folds == fold] for fold in others]
        threshold = best_threshold(np.concatenate(inner_scores, axis=None), np.concatenate(inner_truth, axis=None))
        rows = folds == held_out
        scores[rows] = _apply(tokens[rows], (total - sums[held_out]).fit()[:, chosen])
        called[rows] = scores[rows] >= threshold
    return scores, called


def score_patches(scores: np.ndarray, called: np.ndarray, truth: np.ndarray) -> PatchScores:
    """Compare what `predict_patches` returns with the truth, nodule by nodule."""
    return PatchScores(
        dice=np.array([dice(*pair) for pair in zip(called, truth, strict=True)]),
        iou=np.array([iou(*pair) for pair in zip(called, truth, strict=True)]),
        auprc=score_maps(non_negative(scores), truth).auprc,
    )


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The score from which on a patch is called nodule, so that Dice over all patches is greatest.

    Args:
        scores: (n,).
        truth: (n,) bool.
    """
    order = np.argsort(-scores, kind="stable")
    common, num_called = np.cumsum(truth[order]), np.arange(1, len(order) + 1)
    return float(scores[order][np.argmax(2 * common / (num_called + truth.sum()))])


def score_record(scores: PatchScores, patient_ids: np.ndarray, rows: np.ndarray | None = None) -> dict[str, Any]:
    """Means over nodules with 95 % intervals by patient, as plain numbers.

    Args:
        scores: of all nodules.
        patient_ids: (N,).
        rows: (N,) bool, the nodules to include; None for all.
    """
    rows = np.ones(len(patient_ids), dtype=bool) if rows is None else rows
    resamples = patient_resamples(patient_ids[rows])
    record = {"num_nodules": int(rows.sum()), "num_patients": len(np.unique(patient_ids[rows]))}
    for field in fields(PatchScores):
        values = getattr(scores, field.name)[rows]
        record[field.name] = float(values.mean())
        record[f"{field.name}_interval"] = interval(resamples @ values / resamples.sum(axis=1))
    return record


def raw_patches(fields_hu: np.ndarray, patch_size: int) -> np.ndarray:
    """The pixels of each patch as its features: (N, C, size, size) HU to (N, rows, columns, C x patch x patch)."""
    num, channels, size, _ = fields_hu.shape
    side = size // patch_size
    split = fields_hu.reshape(num, channels, side, patch_size, side, patch_size)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(num, side, side, -1)


def _check(tokens: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> None:
    if tokens.shape[:3] != truth.shape or len(folds) != len(truth):
        raise ValueError(
            f"predict_patches expects tokens (N, rows, columns, D), truth (N, rows, columns) and folds (N,); found "
            f"{tokens.shape}, {truth.shape} and {folds.shape}. Bring the masks to the patch grid with patch_masks()."
        )
    if len(np.unique(folds)) < 3:
        raise ValueError(
            f"A nested probe needs at least 3 folds; found {len(np.unique(folds))}. Use data of more patients."
        )
    if not np.isfinite(tokens).all():
        bad = int((~np.isfinite(tokens).all(axis=(1, 2, 3))).sum())
        raise ValueError(
            f"predict_patches expects finite tokens; found NaN or infinity in {bad} of {len(tokens)} fields. The "
            f"network has diverged, or its weights are damaged: take an earlier checkpoint."
        )


def _sums(tokens: np.ndarray, truth: np.ndarray) -> _Sums:
    rows = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    columns = np.concatenate([rows, np.ones((len(rows), 1)), truth.reshape(-1, 1)], axis=1)
    return _Sums(columns.T @ columns)


def _apply(tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return tokens @ weights[:-1] + weights[-1]
